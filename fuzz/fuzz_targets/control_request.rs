#![no_main]
//! See `marey_fuzz::control_request`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::control_request(bytes));
