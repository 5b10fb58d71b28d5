#![no_main]
//! See `marey_fuzz::device_buffer`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::device_buffer(bytes));
