#![no_main]
//! See `marey_fuzz::log_scan`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::log_scan(bytes));
