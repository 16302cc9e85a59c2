//! [`Floods`]: connections that were closed or refused because there were too many, counted for the
//! log. Anyone can cause them, so each kind is logged at most once a minute, as a number and, if
//! one address stands out, that address.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tickstorm_timebase::{Clock, Mono, SystemClock};

use super::Admission;
use super::address::Address;

/// The shortest time between two summaries of the same kind.
const PERIOD: Duration = Duration::from_secs(60);
/// The interval at which the log is brought up to date.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// An address is named if it is known to have caused at least one in this many of the events.
const NAMED_PART: u64 = 4;

/// What was done to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloodKind {
    /// A handshake was closed for another one, because of MAX_HANDSHAKES.
    Evicted,
    /// It was refused because of MAX_CONNECTIONS_PER_IP or MAX_CONNECT_RATE_PER_IP.
    TooMany,
    /// It was refused because of IP_ALLOWLIST or IP_BLOCKLIST.
    Blocked,
}

impl FloodKind {
    /// All kinds, in declaration order.
    const ALL: [Self; 3] = [Self::Evicted, Self::TooMany, Self::Blocked];
}

/// The events that have not been logged yet, of all shards.
#[derive(Default)]
pub(crate) struct Floods {
    tallies: [Mutex<Tally>; FloodKind::ALL.len()],
}

/// The events of one kind since the last summary. The address is found by a majority vote, which
/// needs no table.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    candidate: Option<Address>,
    /// The candidate's events minus those of others since it became the candidate. It has caused at
    /// least this many.
    lead: u64,
    logged: Option<Mono>,
}

/// A summary of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    count: u64,
    /// The address that caused most of them, if one stands out.
    address: Option<Address>,
}

impl Floods {
    /// Counts an event.
    pub(crate) fn note(&self, kind: FloodKind, address: Address) {
        self.with_tally(kind, |tally| tally.note(address));
    }

    /// Logs the summaries that are due, until the future is dropped.
    pub(crate) async fn log(admission: Arc<Admission>) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let now = SystemClock.now();
            for kind in FloodKind::ALL {
                let floods = admission.floods();
                if let Some(summary) = floods.with_tally(kind, |tally| tally.summary(now)) {
                    summary.log(kind);
                }
            }
        }
    }

    fn with_tally<T>(&self, kind: FloodKind, step: impl FnOnce(&mut Tally) -> T) -> T {
        let tally = &self.tallies[kind as usize];
        step(&mut tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tally {
    fn note(&mut self, address: Address) {
        self.count += 1;
        if self.lead == 0 {
            self.candidate = Some(address);
        }
        if self.candidate == Some(address) {
            self.lead += 1;
        } else {
            self.lead -= 1;
        }
    }

    /// Returns what has happened since the last summary, unless that was less than a minute ago.
    fn summary(&mut self, now: Mono) -> Option<Summary> {
        let is_due = self.logged.is_none_or(|at| now.since(at) >= PERIOD);
        if self.count == 0 || !is_due {
            return None;
        }
        let summary = Summary {
            count: self.count,
            address: self
                .candidate
                .filter(|_| self.lead >= self.count.div_ceil(NAMED_PART)),
        };
        *self = Self {
            logged: Some(now),
            ..Self::default()
        };
        Some(summary)
    }
}

impl Summary {
    fn log(self, kind: FloodKind) {
        let Self { count, address } = self;
        let address = address.map(tracing::field::display);
        match kind {
            FloodKind::Evicted => tracing::warn!(
                evicted = count,
                address,
                "MAX_HANDSHAKES was reached: handshakes were closed to make room for others; the \
                 address, if there is one, had the most"
            ),
            FloodKind::TooMany => tracing::info!(
                refused = count,
                address,
                "connections were refused because of MAX_CONNECTIONS_PER_IP or \
                 MAX_CONNECT_RATE_PER_IP"
            ),
            FloodKind::Blocked => tracing::info!(
                refused = count,
                address,
                "connections were refused because of IP_ALLOWLIST or IP_BLOCKLIST"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Address = Address::V4([192, 0, 2, 1]);

    fn at(seconds: u64) -> Mono {
        Mono::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_summary_is_due_once_a_minute_and_counts_everything_since_the_last_one() {
        let mut tally = Tally::default();
        assert_eq!(tally.summary(at(0)), None);
        tally.note(ONE);
        let summary = |count| {
            let address = Some(ONE);
            Some(Summary { count, address })
        };
        assert_eq!(tally.summary(at(1)), summary(1));
        for _ in 0..1_000 {
            tally.note(ONE);
        }
        assert_eq!(tally.summary(at(60)), None);
        assert_eq!(tally.summary(at(61)), summary(1_000));
        assert_eq!(tally.summary(at(600)), None, "nothing has happened");
    }

    #[test]
    fn only_an_address_that_stands_out_is_named() {
        let other = |number: u32| Address::V4((0x0a00_0000 + number).to_be_bytes());
        let mut tally = Tally::default();
        for number in 0..300 {
            tally.note(other(number));
            tally.note(ONE);
            tally.note(ONE);
        }
        let summary = tally.summary(at(0)).unwrap();
        assert_eq!((summary.count, summary.address), (900, Some(ONE)));
        (0..1_000).for_each(|number| tally.note(other(number)));
        assert_eq!(tally.summary(at(60)).unwrap().address, None);
    }
}
