//! Fuzzing guided by coverage: request heads.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("http1-request", data));
