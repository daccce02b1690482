//! Fuzzing guided by coverage: heads of HTTP/2 on their way to HTTP/1.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("http2-head", data));
