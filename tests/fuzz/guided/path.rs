//! Fuzzing guided by coverage: targets and their one normal form.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("path", data));
