#![no_main]
//! See `marey_fuzz::segment_parts`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::segment_parts(bytes));
