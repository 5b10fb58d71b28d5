#![no_main]
//! See `marey_fuzz::store_ops`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::store_ops(bytes));
