//! Fuzzing guided by coverage: Host and :authority.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("host", data));
