//! Fuzzing guided by coverage: response heads.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("http1-response", data));
