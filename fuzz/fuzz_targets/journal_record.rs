#![no_main]
//! See `marey_fuzz::journal_record`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::journal_record(bytes));
