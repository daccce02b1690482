//! Fuzzing guided by coverage: header blocks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("hpack-decode", data));
