//! Tests of a feed over real sockets in virtual time. Everything that its subscribers read is
//! checked byte by byte.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use socket2::SockRef;
use tickstorm_protocol::message::DataBatch;
use tickstorm_testkit::RawFrame;
use tickstorm_timebase::{Announcement, Mode, Reply, Timekeeper, TimekeeperConfig, UnixTime};

use super::*;
use crate::sys::socket::transmit;

/// Authority time at [`Mono::ZERO`] in these tests, in milliseconds.
const BASE_MS: i64 = 1_700_000_000_000;
const SECONDS: FeedId = FeedId::at_time(Mode::Second);
const WINDOW: Duration = Duration::from_millis(5);

fn limits() -> FeedLimits {
    FeedLimits {
        batch_window: WINDOW,
        resume_window: Duration::from_secs(600),
        behind_max: 1_000,
        max_msg_size: 65_536,
    }
}

/// Returns the first valid authority, and the moment at which the time became known. The clock has
/// announced the ticks of the next 10 s.
pub(crate) fn authority() -> (Authority, Mono) {
    TestTime::new().run_until(|_| true)
}

/// A clock, and an edge's timekeeper that listens to it.
pub(crate) struct TestTime {
    pub(crate) keeper: Timekeeper,
    pub(crate) now: Mono,
    /// The clock's time at [`Mono::ZERO`], in milliseconds.
    pub(crate) base_ms: i64,
}

impl TestTime {
    pub(crate) fn new() -> Self {
        let config = TimekeeperConfig {
            clocks: Vec::new(),
            tolerance: Duration::from_millis(20),
            holdover_max: Duration::from_secs(3_600),
        };
        Self {
            keeper: Timekeeper::new(config, Mono::ZERO),
            now: Mono::ZERO,
            base_ms: BASE_MS,
        }
    }

    pub(crate) fn run_until(
        &mut self,
        is_enough: impl Fn(&Authority) -> bool,
    ) -> (Authority, Mono) {
        loop {
            self.keeper.poll(self.now);
            let time = Epoch::from_ms(self.base_ms)
                .time()
                .saturating_add(self.now.since(Mono::ZERO));
            if let Some(nonce) = self.keeper.poll_request(self.now, rand::random) {
                self.keeper
                    .handle_reply(&reply(nonce, time), self.now)
                    .unwrap();
            }
            if self
                .keeper
                .authority()
                .is_some_and(|authority| is_enough(&authority))
            {
                self.keeper
                    .handle_announcement(&announcement(time), self.now)
                    .unwrap();
                return (self.keeper.authority().unwrap(), self.now);
            }
            self.now = self.keeper.next_deadline();
        }
    }
}

fn announcement(time: UnixTime) -> Announcement {
    Announcement {
        mode: Mode::Second,
        epoch: Epoch::from_ms(Mode::Second.last_at(time).as_ms() + 10_000),
        clock_id: "clock-0".parse().unwrap(),
        rank: 0,
        sent_unix_us: time.as_micros(),
        timeline: 1,
    }
}

fn reply(nonce: u64, time: UnixTime) -> Reply {
    Reply {
        nonce,
        clock_id: "clock-0".parse().unwrap(),
        rank: 0,
        received_unix_us: time.as_micros(),
        sent_unix_us: time.as_micros(),
        clock_error_us: 0,
        synchronized: true,
        timeline: 1,
    }
}

/// Creates a connected pair of sockets between which the kernel buffers about `buffer` bytes.
fn pair(buffer: usize) -> (UnixStream, UnixStream) {
    let (server, client) = UnixStream::pair().unwrap();
    SockRef::from(&server).set_send_buffer_size(buffer).unwrap();
    client.set_nonblocking(true).unwrap();
    server.set_nonblocking(true).unwrap();
    (server, client)
}

/// Reads the bytes that have arrived, up to `max`.
fn read_some(mut client: &UnixStream, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; max];
    match client.read(&mut bytes) {
        Ok(count) => bytes.truncate(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes.clear(),
        Err(error) => panic!("reading: {error}"),
    }
    bytes
}

fn batches(mut bytes: Vec<u8>) -> Vec<DataBatch> {
    let frames = std::iter::from_fn(|| RawFrame::take(&mut bytes));
    let batches = frames.map(|frame| frame.decode()).collect();
    assert!(bytes.is_empty(), "incomplete frame: {bytes:?}");
    batches
}

fn epochs(batches: &[DataBatch]) -> Vec<i64> {
    let ticks = batches.iter().flat_map(|batch| &batch.ticks);
    ticks.map(|tick| tick.epoch_ms).collect()
}

fn ticks(epochs_ms: impl Iterator<Item = i64>) -> Vec<Tick> {
    epochs_ms
        .map(|ms| Tick {
            epoch: Epoch::from_ms(ms),
            quality: Quality::Normal,
        })
        .collect()
}

#[test]
fn a_single_tick_is_released_and_sent_at_the_same_instant_with_any_window() {
    for window_ms in [0, 5, 100] {
        let (authority, mut now) = authority();
        let batch_window = Duration::from_millis(window_ms);
        let mut feed = Feed::new(
            SECONDS,
            Duration::ZERO,
            FeedLimits {
                batch_window,
                ..limits()
            },
        );
        feed.release(&authority, now);
        let (server, client) = pair(65_536);
        let head = feed.ring().head();
        feed.subscribers().join(server.as_raw_fd(), 0, head, false);
        let mut last = feed.last().as_ms();
        for _ in 0..3 {
            assert!(!feed.has_work(now, true));
            now = next_due(&feed, &authority);
            feed.release(&authority, now);
            assert!(
                feed.has_work(now, true),
                "a single tick is held back with a window of {batch_window:?}"
            );
            let first = feed.flush(&authority, now).unwrap();
            assert_eq!(
                authority.time_at(now),
                first.epoch.time(),
                "released exactly at its time"
            );
            assert!(feed.fan_out(CHUNK, &mut ChunkOutcome::default(), transmit, |_, _| {}));
            let got = batches(read_some(&client, 65_536));
            assert_eq!(epochs(&got), [last + 1_000]);
            assert_eq!(got[0].sent_unix_us, authority.time_at(now).as_micros());
            assert_eq!(got[0].ticks[0].quality, 0, "{got:?}");
            last += 1_000;
        }
    }
}

#[test]
fn a_tick_is_replay_if_its_frame_is_made_late() {
    let (authority, now) = authority();
    let quality = |late_ms: u64| {
        let mut feed = Feed::new(SECONDS, Duration::ZERO, limits());
        feed.release(&authority, now);
        let due = next_due(&feed, &authority);
        // It is released on time, but the fan-out of an earlier frame delays it.
        feed.release(&authority, due);
        feed.flush(&authority, due + Duration::from_millis(late_ms))
            .map(|tick| tick.quality)
    };
    assert_eq!(quality(0), Some(Quality::Normal));
    assert_eq!(quality(1_000), Some(Quality::Normal));
    assert_eq!(quality(1_001), Some(Quality::Replay));
    assert_eq!(quality(5_000), Some(Quality::Replay));
}

#[test]
fn a_tick_that_is_announced_between_its_release_and_its_frame_is_normal() {
    let mut time = TestTime::new();
    let (unannounced, now) =
        time.run_until(|authority| !authority.vouches_for(Epoch::from_ms(BASE_MS + 600_000)));
    let mut feed = Feed::new(SECONDS, Duration::ZERO, limits());
    feed.release(&unannounced, now);
    let due = now + Duration::from_secs(20);
    feed.release(&unannounced, due);
    let late = unannounced.time_at(due);
    time.keeper
        .handle_announcement(&announcement(late), due)
        .unwrap();
    let announced = time.keeper.authority().unwrap();
    let mut last = None;
    feed.flush(&announced, due);
    let frame = feed.ring().from(0).unwrap().next().unwrap().bytes.to_vec();
    for tick in &batches(frame)[0].ticks {
        last = Some(tick.quality);
    }
    assert_eq!(
        last,
        Some(0),
        "the last tick belongs to the current second and has been announced"
    );
}

#[test]
fn an_ahead_feed_sends_each_tick_its_lead_before_its_time() {
    let (authority, now) = authority();
    let lead = Duration::from_millis(800);
    let mut feed = Feed::new(FeedId::ahead(Mode::Second), lead, limits());
    feed.release(&authority, now);
    // The time became known within the lead of the next tick, so that tick is late.
    feed.flush(&authority, now);
    let due = next_due(&feed, &authority);
    feed.release(&authority, due);
    let first = feed.flush(&authority, due).unwrap();
    assert_eq!(
        authority.time_at(due).saturating_add(lead),
        first.epoch.time()
    );
    let frame = feed.ring().from(0).unwrap().next().unwrap();
    assert!(frame.timed && frame.feed == FeedId::ahead(Mode::Second));
}

#[test]
fn a_burst_is_sent_as_one_frame_per_window_without_loss() {
    let (authority, start) = authority();
    let mut feed = Feed::new(SECONDS, Duration::ZERO, limits());
    feed.release(&authority, start);
    let first = feed.last().as_ms() + 100_000;
    let mut waiting: VecDeque<Tick> = ticks((0..10_000).map(|n| first + n * 1_000)).into();
    let mut now = start;
    while !waiting.is_empty() || feed.has_work(now + WINDOW, true) {
        feed.offer(&waiting.drain(..waiting.len().min(10)).collect::<Vec<_>>());
        feed.flush(&authority, now);
        feed.fan_out(CHUNK, &mut ChunkOutcome::default(), transmit, |_, _| {});
        now = now + Duration::from_millis(1);
    }
    let frames: Vec<_> = feed.ring().from(0).unwrap().collect();
    assert!(
        (200..=202).contains(&frames.len()),
        "{} frames",
        frames.len()
    );
    let all = frames
        .iter()
        .flat_map(|frame| frame.bytes.to_vec())
        .collect();
    let got = epochs(&batches(all));
    assert!(got.into_iter().eq((0..10_000).map(|n| first + n * 1_000)));
}

#[test]
fn a_step_back_drops_unsent_ticks_and_starts_over() {
    let mut time = TestTime::new();
    let (before, now) = time.run_until(|_| true);
    let mut feed = Feed::new(SECONDS, Duration::ZERO, limits());
    feed.release(&before, now);
    feed.offer(&ticks([BASE_MS + 100_000].into_iter()));
    feed.wait(7, Epoch::from_ms(BASE_MS + 50_000));
    time.base_ms -= 30_000;
    let (after, now) = time.run_until(|authority| authority.generation() != before.generation());
    feed.release(&after, now);
    assert_eq!(feed.flush(&after, now), None);
    assert_eq!(feed.last(), Mode::Second.last_at(after.time_at(now)));
    let last = feed.last();
    let now = next_due(&feed, &after);
    feed.release(&after, now);
    let first = feed.flush(&after, now);
    assert_eq!(
        first.map(|tick| tick.epoch),
        Some(Mode::Second.next_after(last))
    );
    assert!(
        feed.poll_arrival().is_none(),
        "a subscriber was still waiting after the step"
    );
}

/// Returns when the feed has something to do next.
fn next_due(feed: &Feed, authority: &Authority) -> Mono {
    feed.next_tick(authority).min(feed.next_batch())
}

#[test]
fn no_subscriber_is_always_first_or_always_last() {
    const SWEEPS: usize = 200;
    for len in 1..=12 {
        let mut feed = Feed::new(SECONDS, Duration::ZERO, limits());
        let (authority, mut now) = authority();
        feed.release(&authority, now);
        let pairs: Vec<_> = (0..len).map(|_| pair(65_536)).collect();
        for (owner, (server, _)) in pairs.iter().enumerate() {
            feed.subscribers()
                .join(server.as_raw_fd(), u32::try_from(owner).unwrap(), 0, false);
        }
        let (mut first, mut last) = (vec![0; len], vec![0; len]);
        for _ in 0..SWEEPS {
            now = next_due(&feed, &authority);
            feed.release(&authority, now);
            feed.flush(&authority, now);
            let mut order = Vec::new();
            let mut is_over = false;
            while !is_over {
                is_over = feed.fan_out(1, &mut ChunkOutcome::default(), transmit, |_, _| {});
                order.extend((0..len).filter(|&at| !read_some(&pairs[at].1, 4_096).is_empty()));
            }
            let start = order[0];
            assert!(
                order.iter().copied().eq((start..len).chain(0..start)),
                "{order:?} is not the array's order"
            );
            first[start] += 1;
            last[order[len - 1]] += 1;
        }
        let fair = SWEEPS / len / 2..=2 * SWEEPS / len;
        for (name, counts) in [("first", &first), ("last", &last)] {
            assert!(
                counts.iter().all(|count| fair.contains(count)),
                "{name} of {len}: {counts:?}"
            );
        }
    }
}

#[test]
fn a_subscriber_waiting_for_a_future_point_gets_exactly_the_ticks_after_it() {
    let (authority, now) = authority();
    // A frame holds eleven ticks, so the burst makes four frames.
    let tight = FeedLimits {
        max_msg_size: 200,
        ..limits()
    };
    for after in -1..=40 {
        let mut feed = Feed::new(SECONDS, Duration::ZERO, tight);
        feed.release(&authority, now);
        let first = feed.last().as_ms() + 1_000;
        let after_ms = first + after * 1_000 + 1;
        feed.wait(3, Epoch::from_ms(after_ms));
        feed.wait(4, Epoch::from_ms(after_ms));
        feed.stop_waiting(4, Epoch::from_ms(after_ms));
        feed.offer(&ticks((0..40).map(|n| first + n * 1_000)));
        feed.flush(&authority, now);
        let Some(arrival) = feed.poll_arrival() else {
            assert!(after >= 39, "after {after}: the subscriber never joined");
            continue;
        };
        assert_eq!(arrival.owner, 3);
        assert!(
            feed.poll_arrival().is_none(),
            "the other one stopped waiting"
        );
        let own = arrival.own.into_iter();
        let mut bytes: Vec<u8> = own.flat_map(|frame| frame.bytes).collect();
        for frame in feed.ring().from(arrival.next).unwrap() {
            bytes.extend_from_slice(&frame.bytes);
        }
        let got = epochs(&batches(bytes));
        assert!(
            got.iter()
                .copied()
                .eq((after + 1..40).map(|n| first + n * 1_000)),
            "after {after}: {got:?}"
        );
    }
}

#[test]
fn a_burst_larger_than_the_ring_is_sent_without_loss() {
    let (authority, mut now) = authority();
    let tight = FeedLimits {
        max_msg_size: 200,
        behind_max: 2,
        ..limits()
    };
    let mut feed = Feed::new(SECONDS, Duration::ZERO, tight);
    feed.release(&authority, now);
    let first = feed.last().as_ms() + 1_000;
    let (server, client) = pair(65_536);
    feed.subscribers().join(server.as_raw_fd(), 0, 0, false);
    feed.offer(&ticks((0..100).map(|n| first + n * 1_000)));
    let mut got = Vec::new();
    while feed.has_work(now, true) || next_due(&feed, &authority) < now + WINDOW {
        feed.flush(&authority, now);
        let mut left = ChunkOutcome::default();
        assert!(feed.fan_out(CHUNK, &mut left, transmit, |_, _| {}));
        assert!(
            left.slow.is_empty() && left.fallen.is_empty(),
            "{:?}",
            left.fallen
        );
        got.extend(read_some(&client, 65_536));
        now = now + Duration::from_millis(1);
    }
    assert!(
        epochs(&batches(got))
            .into_iter()
            .eq((0..100).map(|n| first + n * 1_000))
    );
}

#[test]
fn frames_beyond_the_limit_of_one_send_take_several_sweeps() {
    let (authority, now) = authority();
    let mut feed = Feed::new(SECONDS, Duration::ZERO, limits());
    feed.release(&authority, now);
    let first = feed.last().as_ms() + 1_000;
    let (server, client) = pair(1 << 20);
    feed.subscribers().join(server.as_raw_fd(), 0, 0, false);
    feed.offer(&ticks((0..50_000).map(|n| first + n * 1_000)));
    feed.flush(&authority, now);
    let (mut got, mut sweeps) = (Vec::new(), 0);
    while feed.has_work(now, true) {
        assert!(feed.fan_out(CHUNK, &mut ChunkOutcome::default(), transmit, |_, _| {}));
        got.extend(read_some(&client, 1 << 20));
        sweeps += 1;
    }
    assert!(sweeps > 1, "{} bytes in one send", got.len());
    let got = epochs(&batches(got));
    assert!(got.into_iter().eq((0..50_000).map(|n| first + n * 1_000)));
}

#[test]
fn no_frame_is_made_while_a_sweep_is_running() {
    let (authority, now) = authority();
    let mut feed = Feed::new(SECONDS, Duration::ZERO, limits());
    feed.release(&authority, now);
    let first = feed.last().as_ms() + 1_000;
    let (server, _client) = pair(65_536);
    for owner in 0..2 {
        feed.subscribers().join(server.as_raw_fd(), owner, 0, false);
    }
    feed.offer(&ticks([first].into_iter()));
    feed.flush(&authority, now).unwrap();
    assert!(!feed.fan_out(1, &mut ChunkOutcome::default(), transmit, |_, _| {}));
    feed.offer(&ticks([first + 1_000].into_iter()));
    let later = now + WINDOW;
    assert_eq!(feed.flush(&authority, later), None);
    assert!(feed.fan_out(1, &mut ChunkOutcome::default(), transmit, |_, _| {}));
    assert!(feed.flush(&authority, later).is_some());
}

/// An event that may happen to a feed.
#[derive(Clone, Debug)]
enum Op {
    /// This many ticks are released together.
    Ticks(u8),
    /// One chunk of a fan-out is sent. If none is running and there are frames to send, one starts.
    Chunk(usize),
    /// A subscriber that was waiting joins.
    LetIn,
    /// A new subscriber joins.
    Join,
    /// A new subscriber starts to wait; its resume point is this many ticks ahead.
    Wait(u8),
    /// A subscriber leaves.
    Leave(prop::sample::Index),
    /// A subscriber reads up to this many bytes.
    Read(prop::sample::Index, usize),
    /// The slow path writes to a subscriber that has fallen behind.
    CatchUp(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let reader = any::<prop::sample::Index>;
    prop_oneof![
        4 => (1_u8..=250).prop_map(Op::Ticks),
        6 => (1_usize..5).prop_map(Op::Chunk),
        2 => Just(Op::LetIn),
        3 => Just(Op::Join),
        1 => (0_u8..100).prop_map(Op::Wait),
        1 => reader().prop_map(Op::Leave),
        4 => (reader(), prop_oneof![1_usize..50, 1_usize..10_000])
            .prop_map(|(reader, max)| Op::Read(reader, max)),
        4 => reader().prop_map(Op::CatchUp),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Waits until the feed passes this epoch.
    Waiting(i64),
    /// Is in the feed, at this position.
    Joined(u32),
    /// Has left, or was closed as too slow.
    Gone,
}

struct Reader {
    server: UnixStream,
    client: UnixStream,
    standing: Standing,
    /// The unsent tail of a partially sent frame.
    rest: Bytes,
    /// The separate frame that it must get before the feed's frames, if any.
    own: Bytes,
    /// The number of the first of the feed's frames that it must get.
    from: Option<u64>,
    received: Vec<u8>,
}

/// A feed and all readers that ever subscribed to it, with the slow path of a shard.
struct World {
    feed: Feed,
    authority: Authority,
    now: Mono,
    behind_max: u64,
    next_ms: i64,
    /// Every frame that the feed has made.
    frames: Vec<Bytes>,
    readers: Vec<Reader>,
}

impl World {
    fn new(max_msg_size: usize, behind_max: usize) -> Self {
        let (authority, now) = authority();
        let mut feed = Feed::new(
            SECONDS,
            Duration::ZERO,
            FeedLimits {
                max_msg_size,
                behind_max,
                ..limits()
            },
        );
        feed.release(&authority, now);
        Self {
            next_ms: feed.last().as_ms() + 1_000,
            feed,
            authority,
            now,
            behind_max: behind_max as u64,
            frames: Vec::new(),
            readers: Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Ticks(count) => {
                let epochs = (0..i64::from(count)).map(|n| self.next_ms + n * 1_000);
                self.feed.offer(&ticks(epochs));
                self.next_ms += i64::from(count) * 1_000;
            }
            Op::Chunk(chunk) => self.send_chunk(chunk),
            Op::LetIn => {
                self.let_in();
            }
            Op::Join => self.enter(Standing::Gone),
            Op::Wait(ticks) => {
                let after = self.feed.last().as_ms() + i64::from(ticks) * 1_000 + 1;
                self.enter(Standing::Waiting(after));
            }
            Op::Leave(ref index) => {
                if let Some(owner) = self.pick(index) {
                    self.leave(owner);
                }
            }
            Op::Read(ref index, max) => {
                if let Some(owner) = self.pick(index) {
                    let reader = &mut self.readers[owner];
                    reader.received.extend(read_some(&reader.client, max));
                }
            }
            Op::CatchUp(ref index) => {
                if let Some(owner) = self.pick(index) {
                    self.catch_up(owner);
                }
            }
        }
    }

    fn pick(&self, index: &prop::sample::Index) -> Option<usize> {
        (!self.readers.is_empty()).then(|| index.index(self.readers.len()))
    }

    /// Does what a shard does when a feed has work.
    fn send_chunk(&mut self, chunk: usize) {
        self.now = self.now + WINDOW;
        self.feed.flush(&self.authority, self.now);
        let new = self.feed.ring().from(self.frames.len() as u64);
        self.frames
            .extend(new.unwrap().map(|frame| frame.bytes.clone()));
        let mut left = ChunkOutcome::default();
        let mut moves = Vec::new();
        self.feed
            .fan_out(chunk, &mut left, transmit, |owner, position| {
                moves.push((owner, position));
            });
        for (owner, position) in moves {
            self.move_to(owner, position);
        }
        assert!(left.failed.is_empty(), "{:?}", left.failed);
        for fallen in left.fallen {
            let reader = &mut self.readers[fallen.owner as usize];
            assert!(
                reader.rest.is_empty(),
                "the hot loop sent to a subscriber with a partially sent frame"
            );
            reader.rest = fallen.rest;
        }
        for owner in left.slow {
            self.judge_slow(owner as usize);
        }
    }

    /// Lets a subscriber whose wait is over join, as a shard does sooner or later.
    fn let_in(&mut self) -> bool {
        let Some(arrival) = self.feed.poll_arrival() else {
            return false;
        };
        let owner = arrival.owner as usize;
        let own = arrival.own.map(|frame| frame.bytes).unwrap_or_default();
        self.readers[owner].own = own.clone();
        self.join(owner, arrival.next);
        self.readers[owner].rest = own;
        let Standing::Joined(position) = self.readers[owner].standing else {
            unreachable!()
        };
        self.feed.subscribers().fall_behind(position, arrival.next);
        self.catch_up(owner);
        true
    }

    fn enter(&mut self, standing: Standing) {
        let owner = self.readers.len();
        let (server, client) = pair(4_608);
        self.readers.push(Reader {
            server,
            client,
            standing,
            rest: Bytes::new(),
            own: Bytes::new(),
            from: None,
            received: Vec::new(),
        });
        match standing {
            Standing::Waiting(after) => {
                self.feed
                    .wait(u32::try_from(owner).unwrap(), Epoch::from_ms(after));
            }
            Standing::Joined(_) | Standing::Gone => self.join(owner, self.feed.ring().head()),
        }
    }

    fn join(&mut self, owner: usize, next: u64) {
        let reader = &mut self.readers[owner];
        let fd = reader.server.as_raw_fd();
        let position = self
            .feed
            .subscribers()
            .join(fd, u32::try_from(owner).unwrap(), next, false);
        reader.standing = Standing::Joined(position);
        reader.from = Some(next);
    }

    fn move_to(&mut self, owner: u32, position: u32) {
        let reader = &mut self.readers[owner as usize];
        assert!(
            matches!(reader.standing, Standing::Joined(_)),
            "a subscriber that has not joined was moved"
        );
        reader.standing = Standing::Joined(position);
    }

    fn leave(&mut self, owner: usize) {
        match std::mem::replace(&mut self.readers[owner].standing, Standing::Gone) {
            Standing::Waiting(after) => self
                .feed
                .stop_waiting(u32::try_from(owner).unwrap(), Epoch::from_ms(after)),
            Standing::Joined(position) => {
                if let Some(moved) = self.feed.subscribers().leave(position) {
                    self.move_to(moved, position);
                }
            }
            Standing::Gone => {}
        }
    }

    /// Checks that a subscriber that is about to be closed as a slow consumer is one, and removes
    /// it.
    fn judge_slow(&mut self, owner: usize) {
        let Standing::Joined(position) = self.readers[owner].standing else {
            unreachable!()
        };
        let next = self
            .feed
            .subscribers()
            .entry(position)
            .behind()
            .expect("on the slow path");
        assert!(
            self.feed.ring().head() - next > self.behind_max,
            "closed although it is not too slow"
        );
        self.leave(owner);
    }

    fn catch_up(&mut self, owner: usize) {
        let reader = &mut self.readers[owner];
        let Standing::Joined(position) = reader.standing else {
            return;
        };
        let Some(mut next) = self.feed.subscribers().entry(position).behind() else {
            return;
        };
        let head = self.feed.ring().head();
        loop {
            let frame = if reader.rest.is_empty() {
                let Some(mut unsent) = self.feed.ring().from(next) else {
                    self.judge_slow(owner);
                    return;
                };
                let Some(frame) = unsent.next() else { break };
                frame.bytes.clone()
            } else {
                reader.rest.clone()
            };
            let taken = match (&reader.server).write(&frame) {
                Ok(taken) => taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("writing: {error}"),
            };
            next += u64::from(reader.rest.is_empty());
            reader.rest = frame.slice(taken..);
        }
        if next == head && reader.rest.is_empty() {
            self.feed.subscribers().catch_up(position, next);
        } else {
            self.feed.subscribers().fall_behind(position, next);
        }
    }

    /// Sends and reads until every subscriber has received everything.
    fn settle(&mut self) {
        while self.feed.has_work(self.now + WINDOW, true) {
            self.send_chunk(CHUNK);
        }
        while self.let_in() {}
        for owner in 0..self.readers.len() {
            loop {
                self.catch_up(owner);
                let reader = &mut self.readers[owner];
                let bytes = read_some(&reader.client, 65_536);
                if bytes.is_empty() {
                    break;
                }
                reader.received.extend(bytes);
            }
        }
    }

    /// Checks the number of subscribers on the slow path.
    fn check_behind(&mut self) -> Result<(), TestCaseError> {
        let mut behind = 0;
        for reader in &self.readers {
            if let Standing::Joined(position) = reader.standing {
                let entry = self.feed.subscribers().entry(position);
                behind += usize::from(entry.behind().is_some());
            }
        }
        prop_assert_eq!(self.feed.subscribers().behind(), behind);
        Ok(())
    }

    fn judge(&self) -> Result<(), TestCaseError> {
        for (owner, reader) in self.readers.iter().enumerate() {
            let mut due = reader.own.to_vec();
            if let Some(from) = reader.from {
                let frames = &self.frames[usize::try_from(from).unwrap()..];
                frames.iter().for_each(|frame| due.extend_from_slice(frame));
            }
            match reader.standing {
                Standing::Joined(_) => {
                    prop_assert_eq!(
                        reader.received.len(),
                        due.len(),
                        "bytes of reader {}",
                        owner
                    );
                }
                Standing::Waiting(after) => prop_assert!(after >= self.feed.last().as_ms()),
                Standing::Gone => {}
            }
            prop_assert!(
                due.starts_with(&reader.received),
                "reader {} received bytes that differ from those due",
                owner
            );
        }
        Ok(())
    }
}

proptest! {
    /// Subscribers join, leave, fall behind and recover in the middle of fan-outs.
    #[test]
    fn no_subscriber_gets_a_byte_twice_or_misses_one_while_it_stays(
        max_msg_size in prop_oneof![Just(200_usize), Just(1_000), Just(65_536)],
        behind_max in prop_oneof![1 => 2_usize..6, 2 => Just(1_000)],
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(max_msg_size, behind_max);
        for op in ops {
            world.apply(&op);
            world.check_behind()?;
        }
        world.settle();
        world.check_behind()?;
        world.judge()?;
    }
}
