#![no_main]
//! See `marey_fuzz::wire_message`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marey_fuzz::wire_message(bytes));
