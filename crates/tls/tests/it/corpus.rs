//! Replays the corpus of the fuzz target in every run of the tests.

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use self::replay::replay;
use crate::fuzz_drivers;

#[test]
fn tls_records_survive_their_corpus() {
    replay("tls_records", fuzz_drivers::tls_records::run);
}
