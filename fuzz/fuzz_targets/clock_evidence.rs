#![no_main]
//! See `marey_fuzz::clock_evidence`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::clock_evidence(bytes));
