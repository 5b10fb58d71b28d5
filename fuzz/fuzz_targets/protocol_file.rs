#![no_main]
//! See `marey_fuzz::protocol_file`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::protocol_file(bytes));
