//! The connections that are open, and which of them gives way when there is no room for a new one.
//! It does no I/O and reads no clock: a connection gives way by ending when its token is cancelled.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The time for which an answer need not give way, however many connections wait for room. It is
/// enough to make any answer and to send it to a client that reads.
const ANSWER_TIME_MIN: Duration = Duration::from_secs(1);

/// The number of leading bits of an IPv6 address that stand for one client: it can choose the
/// others.
const IPV6_CLIENT_BITS: u32 = 64;

/// A connection of the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(u64);

/// Too many requests are being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// The time for which a client was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience {
    /// The time up to `since`.
    before: Duration,
    /// The time since which the client is waited for; `None` while it waits for this port.
    since: Option<Instant>,
}

impl Patience {
    fn spent(self, now: Instant) -> Duration {
        let since = self.since.map_or(Duration::ZERO, |since| now - since);
        self.before + since
    }
}

/// The stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its request has not arrived, or is answered at once.
    Early(Patience),
    /// Its answer takes work or may be long, and was started at this time.
    Answering(Instant),
    /// It was asked to end.
    Ending,
}

#[derive(Debug)]
struct Entry {
    client: IpAddr,
    stage: Stage,
    close: CancellationToken,
}

/// The connection that gives way.
#[derive(Clone, Copy, Debug)]
enum Found {
    One(ConnectionId),
    /// None yet: those that could give way still have time.
    Later,
    /// There is none that could give way.
    None,
}

/// All open connections, oldest first.
#[derive(Debug)]
pub(super) struct Roster {
    connections_max: usize,
    early_time_min: Duration,
    by_age: BTreeMap<ConnectionId, Entry>,
    next_id: u64,
    answering: usize,
}

impl Roster {
    /// Creates a roster for `connections_max` connections. At most half of them may have an answer
    /// in progress, so that the others are left for requests that are answered at once, such as
    /// those for health. A client has at least `early_time_min` to send its request, not counting
    /// the time for which it waits for this port.
    pub(super) fn new(connections_max: usize, early_time_min: Duration) -> Self {
        Self {
            connections_max,
            early_time_min,
            by_age: BTreeMap::new(),
            next_id: 0,
            answering: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.connections_max
    }

    /// Adds a new connection. Its token is cancelled if it has to give way.
    pub(super) fn add(&mut self, peer: IpAddr, now: Instant) -> (ConnectionId, CancellationToken) {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        let close = CancellationToken::new();
        let entry = Entry {
            client: client_of(peer),
            stage: Stage::Early(Patience {
                before: Duration::ZERO,
                since: Some(now),
            }),
            close: close.clone(),
        };
        self.by_age.insert(id, entry);
        (id, close)
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        self.set_stage(id, Stage::Ending);
        self.by_age.remove(&id);
    }

    /// Notes whether the client of a connection is waited for from `now` on, or waits itself, for
    /// example for its turn to have a handshake computed.
    pub(super) fn wait_for_client(&mut self, id: ConnectionId, is_waited_for: bool, now: Instant) {
        if let Some(entry) = self.by_age.get_mut(&id)
            && let Stage::Early(patience) = &mut entry.stage
        {
            *patience = Patience {
                before: patience.spent(now),
                since: is_waited_for.then_some(now),
            };
        }
    }

    /// Notes that an answer that takes work is started at `now`. If too many are in progress
    /// already, a slow one gives way, for the benefit of the next request.
    ///
    /// # Errors
    /// Returns an error if too many are in progress.
    pub(super) fn start_answer(&mut self, id: ConnectionId, now: Instant) -> Result<(), Busy> {
        if self.answering >= self.connections_max / 2 {
            self.end_answering(now);
            return Err(Busy);
        }
        self.set_stage(id, Stage::Answering(now));
        Ok(())
    }

    /// Makes one connection give way, unless one is already ending: the oldest whose request has
    /// not arrived, of the client that has most of these; if there are none, the oldest with an
    /// answer in progress, of the client that has most of those. Connections that still have time
    /// are skipped, but nobody else gives way for them.
    pub(super) fn make_room(&mut self, now: Instant) {
        let mut entries = self.by_age.values();
        if entries.any(|entry| entry.stage == Stage::Ending) {
            return;
        }
        let time_min = self.early_time_min;
        let found = self.first_to_end(|stage| match stage {
            Stage::Early(Patience { since: None, .. }) => Some(false),
            Stage::Early(patience) => Some(patience.spent(now) >= time_min),
            Stage::Answering(_) | Stage::Ending => None,
        });
        match found {
            Found::One(id) => self.end(id),
            Found::Later => {}
            Found::None => self.end_answering(now),
        }
    }

    /// Makes the oldest connection with a slow answer give way, of the client that has most answers
    /// in progress.
    fn end_answering(&mut self, now: Instant) {
        let found = self.first_to_end(|stage| match stage {
            Stage::Answering(since) => Some(now - since >= ANSWER_TIME_MIN),
            Stage::Early(_) | Stage::Ending => None,
        });
        if let Found::One(id) = found {
            self.end(id);
        }
    }

    /// Finds the oldest connection for which `may_end` returns true, of the client with most of
    /// those for which it returns anything.
    fn first_to_end(&self, may_end: impl Fn(Stage) -> Option<bool>) -> Found {
        let mut count_by_client: HashMap<IpAddr, usize> = HashMap::new();
        let candidates = || {
            let entries = self.by_age.iter();
            entries.filter_map(|(id, entry)| Some((*id, entry.client, may_end(entry.stage)?)))
        };
        for (_, client, _) in candidates() {
            *count_by_client.entry(client).or_default() += 1;
        }
        let Some(most) = count_by_client.values().max() else {
            return Found::None;
        };
        let mut of_client = candidates()
            .filter(|(_, client, may_end)| *may_end && count_by_client.get(client) == Some(most));
        match of_client.next() {
            Some((id, ..)) => Found::One(id),
            None => Found::Later,
        }
    }

    fn end(&mut self, id: ConnectionId) {
        if let Some(entry) = self.by_age.get(&id) {
            entry.close.cancel();
        }
        self.set_stage(id, Stage::Ending);
    }

    fn set_stage(&mut self, id: ConnectionId, stage: Stage) {
        let Some(entry) = self.by_age.get_mut(&id) else {
            return;
        };
        let is_answering = |stage| usize::from(matches!(stage, Stage::Answering(_)));
        self.answering += is_answering(stage);
        self.answering -= is_answering(entry.stage);
        entry.stage = stage;
    }
}

/// Returns the part of an address that stands for one client.
fn client_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => {
            let rest = u128::MAX >> IPV6_CLIENT_BITS;
            Ipv6Addr::from_bits(ip.to_bits() & !rest).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY_TIME_MIN: Duration = Duration::from_millis(30);

    struct Sim {
        roster: Roster,
        open: Vec<(ConnectionId, CancellationToken)>,
        now: Instant,
    }

    impl Sim {
        fn new(connections_max: usize) -> Self {
            Self {
                roster: Roster::new(connections_max, EARLY_TIME_MIN),
                open: Vec::new(),
                now: Instant::now(),
            }
        }

        fn add(&mut self, peer: &str) {
            let peer = peer.parse().unwrap();
            self.open.push(self.roster.add(peer, self.now));
        }

        fn answer(&mut self, index: usize) -> Result<(), Busy> {
            self.roster.start_answer(self.open[index].0, self.now)
        }

        /// Removes the connections that were asked to end, and returns their indices.
        fn ended(&mut self) -> Vec<usize> {
            let mut ended = Vec::new();
            for (index, (id, close)) in self.open.iter().enumerate() {
                if close.is_cancelled() && self.roster.by_age.contains_key(id) {
                    self.roster.remove(*id);
                    ended.push(index);
                }
            }
            ended
        }

        fn make_room(&mut self) -> Vec<usize> {
            self.roster.make_room(self.now);
            self.ended()
        }
    }

    #[test]
    fn the_oldest_connection_without_a_request_gives_way_first() {
        let mut sim = Sim::new(8);
        for _ in 0..4 {
            sim.add("127.0.0.1");
        }
        assert!(sim.make_room().is_empty(), "a client has time to send");
        sim.now += EARLY_TIME_MIN;
        sim.answer(0).unwrap();
        assert_eq!(sim.make_room(), [1]);
        assert_eq!(sim.make_room(), [2]);
        assert_eq!(sim.make_room(), [3]);
        assert!(
            sim.make_room().is_empty(),
            "an answer has at least a second"
        );
        sim.now += ANSWER_TIME_MIN;
        assert_eq!(sim.make_room(), [0]);
        assert_eq!(sim.roster.len(), 0);
    }

    #[test]
    fn the_time_for_which_a_client_waits_does_not_count() {
        let mut sim = Sim::new(8);
        sim.add("127.0.0.1");
        let (id, _) = sim.open[0];
        sim.now += EARLY_TIME_MIN / 2;
        sim.roster.wait_for_client(id, false, sim.now);
        sim.now += EARLY_TIME_MIN * 10;
        assert!(sim.make_room().is_empty());
        sim.roster.wait_for_client(id, true, sim.now);
        sim.now += EARLY_TIME_MIN / 2 - Duration::from_millis(1);
        assert!(sim.make_room().is_empty());
        sim.now += Duration::from_millis(1);
        assert_eq!(sim.make_room(), [0]);
    }

    #[test]
    fn one_connection_at_a_time_is_asked_to_end() {
        let mut sim = Sim::new(8);
        sim.add("127.0.0.1");
        sim.add("127.0.0.1");
        sim.now += EARLY_TIME_MIN;
        sim.roster.make_room(sim.now);
        assert_eq!(sim.make_room(), [0]);
    }

    #[test]
    fn the_client_with_most_connections_loses_one() {
        for (one, many) in [
            ("192.0.2.1", ["192.0.2.2", "192.0.2.2"]),
            ("192.0.2.1", ["192.0.2.2", "::ffff:192.0.2.2"]),
            ("2001:db8::1", ["2001:db8:0:1::1", "2001:db8:0:1:2::"]),
        ] {
            let mut sim = Sim::new(8);
            sim.add(one);
            sim.add(many[0]);
            sim.now += EARLY_TIME_MIN;
            sim.add(many[1]);
            assert_eq!(sim.make_room(), [1], "{one} {many:?}");
            // Nobody else pays for a client whose connections are new.
            let mut sim = Sim::new(8);
            sim.add(one);
            sim.now += EARLY_TIME_MIN;
            sim.add(many[0]);
            sim.add(many[1]);
            assert!(sim.make_room().is_empty(), "{one} {many:?}");
        }
    }

    #[test]
    fn half_of_the_connections_are_left_for_requests_that_are_answered_at_once() {
        let mut sim = Sim::new(4);
        for _ in 0..4 {
            sim.add("127.0.0.1");
        }
        assert!(sim.roster.is_full());
        assert_eq!(sim.answer(0), Ok(()));
        assert_eq!(sim.answer(1), Ok(()));
        assert_eq!(sim.answer(2), Err(Busy));
        assert!(sim.ended().is_empty());
        sim.now += ANSWER_TIME_MIN;
        assert_eq!(sim.answer(2), Err(Busy));
        assert_eq!(sim.ended(), [0], "a slow answer gives way for the next one");
        assert_eq!(sim.answer(3), Ok(()));
        assert_eq!(sim.answer(2), Err(Busy));
    }
}
