#![no_main]
//! See `marey_fuzz::declaration`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::declaration(bytes));
