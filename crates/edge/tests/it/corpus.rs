//! Replays the corpora of the fuzz targets in every run of the tests.

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use self::replay::replay;
use crate::fuzz_drivers;

#[test]
fn proxy_headers_survive_their_corpus() {
    replay("proxy_header", fuzz_drivers::proxy_header::run);
}

#[test]
fn cookies_survive_their_corpus() {
    replay("cookies", fuzz_drivers::cookies::run);
}

#[test]
fn settings_survive_their_corpus() {
    replay("settings", fuzz_drivers::settings::run);
}
