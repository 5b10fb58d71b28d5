#![no_main]
//! See `marey_fuzz::enrolment`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::enrolment(bytes));
