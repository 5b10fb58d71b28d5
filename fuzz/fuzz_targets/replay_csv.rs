#![no_main]
//! See `marey_fuzz::replay_csv`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::replay_csv(bytes));
