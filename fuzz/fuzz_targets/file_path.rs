#![no_main]
//! See `marey_fuzz::file_path`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::file_path(bytes));
