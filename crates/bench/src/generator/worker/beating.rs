//! Heartbeats: every client sends one each interval, one client after the other, so that they are spread evenly.

use std::time::Duration;

use rustix::net::send;
use socket2::Socket;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::encode;
use tickstorm_protocol::message::Heartbeat;

use super::{SEND_FLAGS, Worker, nanos, now_ns};
use crate::generator::client::{ClientStage, LoadClient, LoadReader, Pace};

/// Heartbeats sent in one turn of the loop.
const BEATS_A_TURN: u64 = 256;
/// From one heartbeat of the client that learns the time to its next, in nanoseconds.
const TIME_NS: u64 = 500_000_000;

/// How many heartbeats are due.
pub(super) struct Beats {
    interval_ns: u64,
    looked_ns: u64,
    /// Heartbeats that are due, times the interval.
    owed: u128,
    /// Whether authority time is learned here, from PONGs.
    tells_time: bool,
    told_ns: u64,
}

impl Beats {
    pub(super) fn new(interval: Duration, tells_time: bool, now_ns: u64) -> Self {
        Self {
            interval_ns: nanos(interval).max(1),
            looked_ns: now_ns,
            owed: 0,
            tells_time,
            told_ns: 0,
        }
    }

    pub(super) fn tells_time(&self) -> bool {
        self.tells_time
    }

    /// How many are due by now, of clients at so many places: never more than one each.
    fn due(&mut self, now_ns: u64, places: usize) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.looked_ns));
        self.looked_ns = now_ns;
        let interval = u128::from(self.interval_ns);
        self.owed = (self.owed + elapsed * places as u128).min(interval * places as u128);
        u64::try_from(self.owed / interval).unwrap_or(u64::MAX)
    }

    fn paid(&mut self, beats: u64) {
        let paid = u128::from(beats) * u128::from(self.interval_ns);
        self.owed = self.owed.saturating_sub(paid);
    }
}

impl Worker {
    /// Sends those that are due, unless they would disturb what is measured.
    pub(super) fn beat(&mut self) {
        let now = self.now_ns;
        let due = self.beats.due(now, self.clients.places());
        if !self.shared.beats() {
            return;
        }
        let mut frame = Vec::new();
        if self.beats.tells_time && now >= self.beats.told_ns + TIME_NS {
            self.beats.told_ns = now;
            let oldest = self.clients.oldest(1).first().copied();
            if let Some(all) = oldest.and_then(|place| self.clients.all_of(place)) {
                self.harvest.heartbeats += u64::from(beat(all, &mut frame));
            }
        }
        let now_due = due.min(BEATS_A_TURN);
        for _ in 0..now_due {
            if let Some(all) = self.clients.walk() {
                self.harvest.heartbeats += u64::from(beat(all, &mut frame));
            }
        }
        self.beats.paid(now_due);
    }
}

/// Sends one from a client that has come far enough; those that read nothing send nothing either: they are silent in all ways.
fn beat(
    (client, reader, socket): (&mut LoadClient, &LoadReader, &Socket),
    frame: &mut Vec<u8>,
) -> bool {
    let served = matches!(
        client.state,
        ClientStage::Subscribed | ClientStage::Connected
    );
    if !served || reader.pace == Pace::Never {
        return false;
    }
    let now = now_ns();
    let heartbeat = Heartbeat {
        client_time_us: i64::try_from(now / 1_000).unwrap_or(i64::MAX),
    };
    frame.clear();
    encode(FrameType::Heartbeat, &heartbeat, frame);
    if client.state == ClientStage::Connected {
        // An echo tells no time: the client itself knows when it asked.
        client.begun_ns = now;
    }
    // A socket that takes no 20 bytes has an edge behind it that does not read: it will not answer, and that is counted.
    send(socket, frame, SEND_FLAGS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_beats_once_an_interval_and_what_was_held_back_is_made_up_for_once() {
        let mut beats = Beats::new(Duration::from_secs(10), false, 0);
        let mut sent = 0;
        for second in 1..=20 {
            let due = beats.due(second * 1_000_000_000, 1_000);
            beats.paid(due);
            sent += due;
        }
        assert_eq!(sent, 2_000);
        assert_eq!(beats.due(3_600 * 1_000_000_000, 1_000), 1_000);
    }
}
