//! Fuzzing guided by coverage: frames of an endpoint.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| selvedge_fuzz::feed("http2-client", data));
