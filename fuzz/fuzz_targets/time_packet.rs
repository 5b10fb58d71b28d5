#![no_main]
//! See `marey_fuzz::time_packet`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::time_packet(bytes));
