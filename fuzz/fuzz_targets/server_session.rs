//! Passes libFuzzer's bytes to the driver with which the protocol's tests replay the corpus.

#![no_main]

#[path = "../../crates/protocol/tests/it/fuzz_drivers/server_session.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|data: &[u8]| driver::run(data));
