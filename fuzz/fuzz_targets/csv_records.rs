#![no_main]
//! See `marey_fuzz::csv_records`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::csv_records(bytes));
