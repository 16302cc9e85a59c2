//! Starts the rounds of a game at the same instant on many servers.
//!
//! Each server runs this program. It receives ticks ahead of their time, and the client releases
//! them by its own estimate of the cluster's time, so that the servers agree to well below a
//! millisecond, however their clocks are set. The number of a round follows from the time of its
//! tick. So all servers, including one that has just started, play the same round without talking
//! to each other.
//!
//!     TICKSTORM_URL=tickstorm://stream_user:stream_pass@127.0.0.1:8080 \
//!         cargo run -p tickstorm-client --example rounds

use std::error::Error;

use tickstorm_client::{Options, Quality, Tick};

const ROUND_MS: i64 = 10_000;
/// A server that is later than this, for instance because it was suspended, waits for the next
/// round.
const LATE_MAX_US: i64 = 100_000;
const CARDS: usize = 52;

struct Round {
    number: i64,
    /// How long after the instant this server began, as far as it can tell.
    late_us: i64,
    error_us: u64,
}

impl Round {
    /// Returns the round that begins with a tick, if one does and there is time to play it.
    fn of(tick: &Tick) -> Option<Self> {
        let (late_us, read) = (tick.late_us()?, tick.read?);
        let is_start = tick.epoch.as_ms() % ROUND_MS == 0;
        let is_missed = tick.quality == Quality::Replay || late_us > LATE_MAX_US;
        (is_start && !is_missed).then_some(Self {
            number: tick.epoch.as_ms() / ROUND_MS,
            late_us,
            error_us: read.error_us,
        })
    }

    /// Returns the first card, which is the same on every server.
    fn first_card(&self) -> usize {
        // The finalizer of SplitMix64, which spreads successive numbers.
        let mut hash = self.number.unsigned_abs();
        for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
            hash = (hash ^ (hash >> 30)).wrapping_mul(factor);
        }
        usize::try_from(hash >> 32).map_or(0, |hash| hash % CARDS)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_env()?.ahead(true);
    let mut ticks = tickstorm_client::connect(options).await?.into_tick_stream();
    while let Some(tick) = ticks.next().await {
        if let Some(round) = Round::of(&tick) {
            println!(
                "round {}: first card {}, begun {} ± {} µs after the instant",
                round.number,
                round.first_card(),
                round.late_us,
                round.error_us,
            );
        }
    }
    Ok(())
}
