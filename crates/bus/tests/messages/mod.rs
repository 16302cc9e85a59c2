//! Messages with a different value in each field, for the tests of all buses.

use tickstorm_timebase::{Announcement, ClockId, Epoch, Mode, Reply};

pub(crate) fn id(id: &str) -> ClockId {
    id.parse().expect("a valid id")
}

pub(crate) fn announcement(epoch_ms: i64) -> Announcement {
    Announcement {
        mode: Mode::Second,
        epoch: Epoch::from_ms(epoch_ms),
        clock_id: id("clock-0"),
        rank: 3,
        sent_unix_us: (epoch_ms - 1_500) * 1_000,
        timeline: u64::MAX,
    }
}

pub(crate) fn reply(nonce: u64, clock_id: &str) -> Reply {
    Reply {
        nonce,
        clock_id: id(clock_id),
        rank: 3,
        received_unix_us: 1_000_001,
        sent_unix_us: 1_000_002,
        clock_error_us: 16_000_000,
        synchronized: true,
        timeline: 7,
    }
}
