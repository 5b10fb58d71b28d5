#![no_main]
//! See `marey_fuzz::json_body`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::json_body(bytes));
