//! Bursts of ticks, and the account that a client keeps of the frames it receives.

use tickstorm_edge::Edge;
use tickstorm_protocol::message::{DataBatch, Pong};
use tickstorm_testkit::frame::{ACK, DATA_BATCH, PONG};
use tickstorm_testkit::{PATIENCE, Peer, RawFrame, Received};
use tickstorm_timebase::{Epoch, Mode, Quality, Tick};

use crate::support::{PASSWORD, USER, wall_ms};

/// The bytes of a frame besides its payload.
const FRAME_OVERHEAD: usize = 12;

/// A series of consecutive ticks in the future. Once the first one is sent, the feed ignores the
/// grid's own ticks, which are earlier.
pub(crate) struct Burst {
    pub(crate) first: i64,
    next: i64,
}

impl Burst {
    pub(crate) fn new() -> Self {
        let first = (wall_ms() / 1_000 + 3_600) * 1_000;
        Self { first, next: first }
    }

    /// Sends the next `count` ticks.
    pub(crate) fn send(&mut self, edge: &Edge, count: usize) {
        let ticks: Vec<Tick> = (0..count)
            .map(|_| {
                let epoch = Epoch::from_ms(self.next);
                self.next += 1_000;
                Tick {
                    epoch,
                    quality: Quality::Normal,
                }
            })
            .collect();
        edge.burst(Mode::Second, &ticks);
    }

    /// Returns the last tick sent so far.
    pub(crate) fn last(&self) -> i64 {
        self.next - 1_000
    }
}

/// Counts the frames that one client receives and checks its ticks: there must be no gap, except
/// for the leap from the grid to the burst.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) last: i64,
    leap_to: i64,
    pub(crate) frames: usize,
    pub(crate) frames_of_burst: usize,
    pub(crate) ticks: usize,
    pub(crate) bytes: usize,
    /// The client times echoed by PONGs, in the order received.
    pub(crate) pongs: Vec<i64>,
}

impl Account {
    /// Creates the account of a client that has just subscribed; its first tick is the one after
    /// `start`.
    pub(crate) fn new(start: i64, burst: &Burst) -> Self {
        Self {
            last: start,
            leap_to: burst.first,
            ..Self::default()
        }
    }

    pub(crate) fn record(&mut self, frame: &RawFrame) {
        self.bytes += FRAME_OVERHEAD + frame.payload.len();
        match frame.kind {
            DATA_BATCH => self.record_batch(&frame.decode()),
            PONG => self.pongs.push(frame.decode::<Pong>().client_time_us),
            ACK => {}
            kind => panic!("type {kind}: {frame:?}"),
        }
    }

    fn record_batch(&mut self, batch: &DataBatch) {
        assert!((1..=1_000).contains(&batch.ticks.len()));
        self.frames += 1;
        self.ticks += batch.ticks.len();
        for tick in &batch.ticks {
            let leaps = tick.epoch_ms == self.leap_to && self.last < self.leap_to;
            assert!(
                leaps || tick.epoch_ms == self.last + 1_000,
                "{} came after {}",
                tick.epoch_ms,
                self.last
            );
            self.last = tick.epoch_ms;
        }
        self.frames_of_burst += usize::from(self.last >= self.leap_to);
    }

    /// Receives frames until the tick at `last` has arrived.
    pub(crate) async fn follow(&mut self, peer: &mut Peer, last: i64) {
        while self.last < last {
            self.record(&peer.expect_frame().await);
        }
    }

    /// Receives frames until the end of the stream.
    pub(crate) async fn follow_to_end(&mut self, peer: &mut Peer) {
        loop {
            match peer.next_frame(PATIENCE).await {
                Received::Frame(frame) => self.record(&frame),
                Received::Eof { .. } | Received::Reset { .. } => return,
                Received::Timeout => panic!("the connection is still open"),
            }
        }
    }
}

/// Authenticates, subscribes to SECOND ticks, and returns the client's account.
pub(crate) async fn enter(peer: &mut Peer, burst: &Burst) -> Account {
    peer.auth(USER, PASSWORD).await;
    let acked = peer.expect_frame().await;
    peer.subscribe(Mode::Second).await;
    let ack = peer.expect_frame().await;
    let start = ack
        .decode::<tickstorm_protocol::message::Ack>()
        .start_epoch_ms;
    let mut account = Account::new(start, burst);
    account.record(&acked);
    account.record(&ack);
    account
}
