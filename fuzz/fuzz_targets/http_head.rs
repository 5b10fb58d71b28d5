#![no_main]
//! See `marey_fuzz::http_head`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::http_head(bytes));
