#![no_main]
//! See `marey_fuzz::journal`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::journal(bytes));
