//! Heartbeats: every client sends one per interval, one client after another, so that they are
//! spread evenly.

use std::time::Duration;

use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::encode;
use tickstorm_protocol::message::Heartbeat;

use super::{Worker, nanos, now_ns};
use crate::generator::channel::ClientChannel;
use crate::generator::client::{ClientStage, Pace};
use crate::generator::clients::ClientParts;
use crate::generator::connection_end::ConnectionEnd;

/// The largest number of heartbeats per turn of the loop.
const HEARTBEATS_PER_TURN: u64 = 256;
/// The interval between heartbeats of the client whose PONGs authority time is learned from, in
/// nanoseconds.
const LEARN_INTERVAL_NS: u64 = 500_000_000;

/// Determines how many heartbeats are due.
pub(super) struct HeartbeatPacer {
    interval_ns: u64,
    updated_ns: u64,
    /// The number of heartbeats due, times the interval.
    owed: u128,
    /// Whether this thread learns authority time, from PONGs.
    learns_time: bool,
    asked_ns: u64,
}

impl HeartbeatPacer {
    pub(super) fn new(interval: Duration, learns_time: bool, now_ns: u64) -> Self {
        Self {
            interval_ns: nanos(interval).max(1),
            updated_ns: now_ns,
            owed: 0,
            learns_time,
            asked_ns: 0,
        }
    }

    pub(super) fn learns_time(&self) -> bool {
        self.learns_time
    }

    /// Returns how many heartbeats are due by now, for clients in `slots` slots: never more than
    /// one each.
    fn due(&mut self, now_ns: u64, slots: usize) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.updated_ns));
        self.updated_ns = now_ns;
        let interval = u128::from(self.interval_ns);
        self.owed = (self.owed + elapsed * slots as u128).min(interval * slots as u128);
        u64::try_from(self.owed / interval).unwrap_or(u64::MAX)
    }

    fn handle_sent(&mut self, count: u64) {
        let sent = u128::from(count) * u128::from(self.interval_ns);
        self.owed = self.owed.saturating_sub(sent);
    }
}

impl Worker {
    /// Sends the heartbeats that are due, unless they would disturb a measurement.
    pub(super) fn send_heartbeats(&mut self) {
        let now = self.now_ns;
        let due = self.heartbeats.due(now, self.clients.slot_count());
        if !self.shared.heartbeats_allowed() {
            return;
        }
        let mut frame = Vec::new();
        if self.heartbeats.learns_time && now >= self.heartbeats.asked_ns + LEARN_INTERVAL_NS {
            self.heartbeats.asked_ns = now;
            let oldest = self.clients.oldest(1).first().copied();
            if let Some(slot) = oldest {
                self.send_heartbeat(slot, &mut frame);
            }
        }
        let now_due = due.min(HEARTBEATS_PER_TURN);
        for _ in 0..now_due {
            if let Some(slot) = self.clients.walk() {
                self.send_heartbeat(slot, &mut frame);
            }
        }
        self.heartbeats.handle_sent(now_due);
    }

    fn send_heartbeat(&mut self, slot: u32, frame: &mut Vec<u8>) {
        let Some(parts) = self.clients.parts_of(slot) else {
            return;
        };
        match heartbeat(parts, frame, &mut self.sealed) {
            Ok(true) => self.harvest.heartbeats += 1,
            Ok(false) => {}
            Err(why) => self.end(slot, &why),
        }
    }
}

/// Sends a heartbeat for a client whose handshake is complete. A client that reads nothing sends
/// nothing either: it is silent in both directions. Returns whether a heartbeat was sent.
fn heartbeat(
    parts: ClientParts<'_>,
    frame: &mut Vec<u8>,
    sealed: &mut Vec<u8>,
) -> Result<bool, ConnectionEnd> {
    let ClientParts {
        client,
        reader,
        socket,
        channel,
    } = parts;
    let served = matches!(
        client.state,
        ClientStage::Subscribed | ClientStage::Connected
    );
    if !served || reader.pace == Pace::Never {
        return Ok(false);
    }
    let now = now_ns();
    let heartbeat = Heartbeat {
        client_time_us: i64::try_from(now / 1_000).unwrap_or(i64::MAX),
    };
    frame.clear();
    encode(FrameType::Heartbeat, &heartbeat, frame);
    if client.state == ClientStage::Connected {
        // The answer of the echo loop contains no time, so the client remembers when it asked.
        client.started_ns = now;
    }
    match channel.send(socket, frame, sealed) {
        Ok(()) => Ok(true),
        // If the socket does not accept 20 bytes, the edge is not reading; its missing PONG will be
        // counted.
        Err(_) if matches!(channel, ClientChannel::Plain) => Ok(false),
        // A record that has been sealed and not sent is missing in the stream.
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_sends_one_heartbeat_per_interval_and_makes_up_for_at_most_one() {
        let mut pacer = HeartbeatPacer::new(Duration::from_secs(10), false, 0);
        let mut sent = 0;
        for second in 1..=20 {
            let due = pacer.due(second * 1_000_000_000, 1_000);
            pacer.handle_sent(due);
            sent += due;
        }
        assert_eq!(sent, 2_000);
        assert_eq!(pacer.due(3_600 * 1_000_000_000, 1_000), 1_000);
    }
}
