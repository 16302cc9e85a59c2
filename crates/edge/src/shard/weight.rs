//! The path of one tick through a shard, from the batch to the last send and the counters, for
//! measuring its cost: all subscribers share one socket that accepts everything, and the caller
//! controls the time.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tickstorm_timebase::{Authority, Epoch, ManualClock, Mode, Mono, Quality, Tick};
use tokio::sync::watch;

use super::Vitals;
use super::address_budgets;
use super::env::Commons;
use super::turn::Shard;
use crate::admission::{Admission, Attempts};
use crate::auth::AcceptedCredentials;
use crate::config::Config;
use crate::feed::FeedId;
use crate::ip_lists::IpLists;
use crate::memory::{KernelBound, Memory};
use crate::metrics::Metrics;
use crate::start_error::StartError;
use crate::sys::kernel::Kernel;
use crate::sys::proxied::Proxied;

const FEED: FeedId = FeedId::at_time(Mode::Second);

/// A shard whose SECOND feed has subscribers, and which sends one tick per step.
pub struct FanOut<'socket> {
    shard: Shard<Proxied<Kernel>, ManualClock>,
    clock: ManualClock,
    /// The socket whose descriptor number all subscribers have.
    _socket: BorrowedFd<'socket>,
    now: Mono,
    next: Epoch,
}

impl<'socket> FanOut<'socket> {
    /// Creates a shard with `subscribers` subscribers, all of them on `socket`.
    ///
    /// # Errors
    /// Fails if the configuration names credentials that can't be read, or if the shard can't be
    /// created.
    pub fn new(
        config: &Config,
        authority: Authority,
        now: Mono,
        socket: BorrowedFd<'socket>,
        subscribers: u32,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::register(&Registry::new())?;
        let (_, credentials) = watch::channel(AcceptedCredentials::load(&config.credentials)?.0);
        let commons = Commons {
            traces: None,
            settings: Arc::new(config.for_shards(1, 0)),
            admission: Admission::new(
                config.admission_limits(0),
                watch::channel(IpLists::default()).1,
                metrics.admission_gauges(),
            ),
            attempts: Attempts::new(0),
            logins: Arc::default(),
            replays: Arc::new(address_budgets(config.resume_window)),
            memory: Memory::new(&metrics.memory, config.buffered_max, KernelBound::none()),
            metrics,
            authority: watch::channel(None).1,
            credentials,
            tls: None,
            refusals: Arc::default(),
            balancers: None,
            proxy_faults: Arc::default(),
        };
        let vitals = Arc::new(Vitals::new(now));
        let kernel = Kernel::new().map_err(|source| StartError::Shard { shard: 0, source })?;
        let network = Proxied::new(kernel, None);
        let clock = ManualClock::new(now);
        let mut shard = Shard::new(0, commons, vitals, network, clock.clone());
        shard.set_authority(Some(authority));
        let feeds = &mut shard.driver.feeds;
        feeds.release(&authority, now);
        let start = feeds.last(FEED);
        for owner in 0..subscribers {
            feeds.enter(owner, socket.as_raw_fd(), FEED, start, false);
        }
        Ok(Self {
            shard,
            clock,
            _socket: socket,
            now,
            next: Mode::Second.next_after(Mode::Second.last_at(authority.time_at(now))),
        })
    }

    /// Advances the time by one second and sends the next tick.
    pub fn step(&mut self) {
        self.now = self.now + Duration::from_secs(1);
        let tick = Tick {
            epoch: self.next,
            quality: Quality::Normal,
        };
        self.next = Mode::Second.next_after(self.next);
        self.clock.set(self.now);
        self.shard.driver.feeds.offer(FEED, &[tick]);
        let at = self.shard.time.read_clock();
        while self.shard.send(at) {}
    }

    /// Returns the number of frames that were sent completely.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shard.driver.env.metrics().messages_sent.get()
    }
}
