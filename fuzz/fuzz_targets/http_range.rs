#![no_main]
//! See `marey_fuzz::http_range`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::http_range(bytes));
