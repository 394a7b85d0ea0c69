//! `cargo +nightly fuzz run agent_config`
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::agent_config(data));
