#![no_main]
//! See `marey_fuzz::upload_metadata`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::upload_metadata(bytes));
