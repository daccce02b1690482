//! Fuzzing guided by coverage: chunked bodies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("http1-chunked", data));
