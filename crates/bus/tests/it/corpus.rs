//! Replays the corpus of the fuzz target in every run of the tests.

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use self::replay::replay;
use crate::fuzz_drivers;

#[test]
fn bus_messages_survive_their_corpus() {
    replay("bus_messages", fuzz_drivers::bus_messages::run);
}
