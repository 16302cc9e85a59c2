//! Passes libFuzzer's bytes to the driver with which the tests of `tls` replay the corpus.

#![no_main]

#[path = "../../crates/tls/tests/it/fuzz_drivers/tls_records/mod.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|data: &[u8]| driver::run(data));
