//! Fuzzing guided by coverage: greetings of TLS.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("hello", data));
