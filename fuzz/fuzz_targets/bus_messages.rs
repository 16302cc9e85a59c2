//! Passes libFuzzer's bytes to the driver with which the tests of `bus` replay the corpus.

#![no_main]

#[path = "../../crates/bus/tests/it/fuzz_drivers/bus_messages/mod.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|data: &[u8]| driver::run(data));
