//! Passes libFuzzer's bytes to the driver with which the edge's tests replay the corpus.

#![no_main]

#[path = "../../crates/edge/tests/it/fuzz_drivers/settings/mod.rs"]
mod driver;
#[path = "../../crates/edge/tests/it/fuzz_drivers/text_file.rs"]
mod text_file;

libfuzzer_sys::fuzz_target!(|data: &[u8]| driver::run(data));
