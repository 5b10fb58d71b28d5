#![no_main]
//! See `marey_fuzz::recover`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::recover(bytes));
