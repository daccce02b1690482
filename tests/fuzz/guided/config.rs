//! Fuzzing guided by coverage: files of configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("config", data));
