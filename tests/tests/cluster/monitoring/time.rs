//! A clock whose time is wrong.

use super::expected::{alert, await_ended, await_raised};
use super::targets::Scraped;
use crate::engine::container;
use crate::extra::Extra;

/// Its error. An edge without any other clock waits before it follows a step of more than 10 s.
const SKEW_MS: &str = "15000";

/// A clock with the name of one of the cluster takes its place with a wrong time, and then that
/// clock comes back beside it. An edge that knows no other clock follows the wrong time.
pub(super) fn wrong_clock() {
    let right = container("clock-2");
    let edge = Extra::edge("lonely")
        .setting("CLOCKS", "clock-2")
        .setting("HOLDOVER_MAX", "20s");
    let edge = Scraped::edge(edge);
    edge.await_ready_edge();
    right.stop();
    let wrong = Extra::clock("wrong-clock", "clock-2")
        .setting("CLOCK_SKEW_MS", SKEW_MS)
        .run();
    let alone = [
        alert("TickstormFalseticker").with("clock", "clock-2"),
        alert("TickstormTimeAlarm")
            .with("instance", edge.instance())
            .with("reason", "step_pending"),
        alert("TickstormEdgesApart"),
    ];
    await_raised(&alone);
    right.start();
    let together = [
        alert("TickstormClockIdShared").with("instance", "clock-2:8082"),
        alert("TickstormClockAlarm")
            .with("clock", "clock-2")
            .with("reason", "shared_id"),
    ];
    await_raised(&together);
    drop(wrong);
    await_ended(&together);
    await_ended(&alone);
}
