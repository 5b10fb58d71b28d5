#![no_main]
//! See `marey_fuzz::documents`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::documents(bytes));
