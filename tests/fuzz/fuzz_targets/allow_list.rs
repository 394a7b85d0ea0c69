//! `cargo +nightly fuzz run allow_list`
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::allow_list(data));
