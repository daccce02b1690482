//! Fuzzing guided by coverage: requests for certificates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("certificate-request", data));
