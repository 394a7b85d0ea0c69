//! `cargo +nightly fuzz run enrol_request`
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::enrol_request(data));
