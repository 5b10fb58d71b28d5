#![no_main]
//! See `marey_fuzz::hub_folder`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::hub_folder(bytes));
