#![no_main]
//! See `marey_fuzz::api_cursor`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::api_cursor(bytes));
