//! Answers of daemons that are well, for tests to change.

use serde_json::{Value, json};

use super::answer::{Answer, Asked};

/// Returns the status of an edge that follows `clock-0` and accepts `clock-1`.
pub(super) fn edge(id: &str) -> Value {
    let clock = |id: &str, rank: u32, offset_us: i64| {
        json!({
            "id": id, "rank": rank, "state": "accepted", "offset_us": offset_us, "bound_us": 210,
        })
    };
    json!({
        "id": id,
        "version": "0.1.0",
        "ready": true,
        "reasons": [],
        "refused_files": [],
        "uptime_s": 7_322,
        "listen_addr": "0.0.0.0:8080",
        "draining": false,
        "holdover": false,
        "connections": 60_000,
        "max_connections": 100_000,
        "accept_queue": { "overflowed_in_last_minute": false },
        "authority": {
            "unix_us": 1_795_265_939_123_456_i64, "bound_us": 190, "following": "clock-0",
        },
        "clocks": [clock("clock-0", 0, 0), clock("clock-1", 1, -1_234)],
        "nats_link": { "server": "127.0.0.1:4222", "heard": true, "refused": [] },
        "alarms": [],
        "memory": { "alarms": [] },
        "tls": { "enabled": false },
    })
}

/// Returns the status of a clock.
pub(super) fn clock(id: &str) -> Value {
    json!({
        "id": id,
        "version": "0.1.0",
        "ready": true,
        "reasons": [],
        "refused_files": [],
        "uptime_s": 300_000,
        "nats": true,
        "nats_link": { "server": "127.0.0.1:4222", "heard": true, "refused": [] },
        "timeline": 3,
        "synchronized": true,
        "clock_error_us": 812,
        "alarms": [],
        "last_announced_epoch_ms": 1_795_265_941_000_i64,
    })
}

/// Returns an alarm as a status has it.
pub(super) fn alarm(reason: &str, clocks: &[&str]) -> Value {
    json!({
        "reason": reason,
        "message": format!("The meaning of {reason}."),
        "action": format!("Do something about {reason}."),
        "clocks": clocks,
    })
}

/// Returns the ports that answer with these statuses, in order.
pub(super) fn ask(statuses: &[Value]) -> Vec<Asked> {
    let ask = |(index, status): (usize, &Value)| Asked {
        url: format!("http://10.0.0.{index}:8081"),
        outcome: Ok(Answer::parse(&status.to_string()).unwrap()),
    };
    statuses.iter().enumerate().map(ask).collect()
}
