//! Fuzzing guided by coverage: what a load balancer announces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("announcement", data));
