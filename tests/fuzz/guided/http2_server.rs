//! Fuzzing guided by coverage: frames of a client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("http2-server", data));
