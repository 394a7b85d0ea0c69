//! `cargo +nightly fuzz run raft_frame`
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::raft_frame(data));
