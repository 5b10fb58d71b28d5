#![no_main]
//! See `marey_fuzz::names`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::names(bytes));
