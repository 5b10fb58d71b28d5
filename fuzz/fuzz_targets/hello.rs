#![no_main]
//! See `marey_fuzz::hello`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::hello(bytes));
