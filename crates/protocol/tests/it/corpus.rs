//! Replays the corpora of the fuzz targets in every run of the tests.

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use self::replay::replay;
use crate::fuzz_drivers;

#[test]
fn the_frame_decoder_survives_its_corpus() {
    replay("frame_decoder", fuzz_drivers::frame_decoder::run);
}

#[test]
fn the_server_session_survives_its_corpus() {
    replay("server_session", fuzz_drivers::server_session::run);
}
