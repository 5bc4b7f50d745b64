//! See `syncline_tests::fuzz::worker`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| syncline_tests::fuzz::worker(octets));
