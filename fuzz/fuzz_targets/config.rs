#![no_main]
//! See `marey_fuzz::config`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::config(bytes));
