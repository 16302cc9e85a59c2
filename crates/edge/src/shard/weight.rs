//! One tick's way through a shard, from the batch to the last send and the counters, for whoever weighs it: the sockets are one
//! that takes everything, and time is what the caller says. It runs no task, so nobody may fall behind.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use prometheus::Registry;
use tickstorm_timebase::{Authority, Epoch, Mode, Mono, Quality, Tick};
use tokio::sync::watch;

use super::{FeedIndex, Shard, Shared, Vitals};
use crate::admission::{Admission, Attempts};
use crate::auth::Credentials;
use crate::config::Config;
use crate::control::StartError;
use crate::metrics::Metrics;
use crate::sys::sockets::Sockets;

/// A shard whose feed of seconds has subscribers, and a tick for each step.
pub struct FanOut<'socket> {
    shard: Rc<Shard>,
    socket: BorrowedFd<'socket>,
    authority: Authority,
    now: Mono,
    next: Epoch,
}

impl<'socket> FanOut<'socket> {
    /// One with `subscribers`, all of them on `socket`.
    ///
    /// # Errors
    /// Where the configuration names credentials that can't be read.
    pub fn new(
        config: &Config,
        authority: Authority,
        now: Mono,
        socket: BorrowedFd<'socket>,
        subscribers: u32,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::register(&Registry::new())?;
        let (_, unchanging) = watch::channel(None);
        let (_, credentials) = watch::channel(Credentials::load(&config.credentials)?);
        let shared = Shared {
            settings: Arc::new(config.for_shards(1)),
            admission: Admission::new(0, 1, metrics.active_connections.clone()),
            attempts: Attempts::new(0),
            metrics,
            authority: unchanging,
            credentials,
        };
        let vitals = Arc::new(Vitals {
            turned: AtomicU64::new(0),
            released: AtomicU64::new(0),
            accepting: AtomicBool::new(true),
        });
        let sockets = Sockets::new().map_err(|error| StartError::Shard { shard: 0, error })?;
        let this = Self {
            shard: Shard::new(0, shared, vitals, Rc::new(sockets)),
            socket,
            authority,
            now,
            next: Mode::Second.next_after(Mode::Second.last_at(authority.time_at(now))),
        };
        let mut feeds = this.shard.feeds.borrow_mut();
        let feed = &mut feeds[usize::from(FEED.0)];
        feed.release(&this.authority, now);
        let head = feed.ring().head();
        for owner in 0..subscribers {
            feed.subscribers()
                .join(this.socket.as_raw_fd(), owner, head, false);
        }
        drop(feeds);
        Ok(this)
    }

    /// Sends the next tick, a second later.
    pub fn step(&mut self) {
        self.now = self.now + Duration::from_secs(1);
        let tick = Tick {
            epoch: self.next,
            quality: Quality::Normal,
        };
        self.next = Mode::Second.next_after(self.next);
        self.shard.feeds.borrow_mut()[usize::from(FEED.0)].offer(&[tick]);
        self.shard.send_chunk(FEED, Some(&self.authority), self.now);
    }

    /// How many frames were sent whole.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shard.shared.metrics.messages_sent.get()
    }
}

const FEED: FeedIndex = FeedIndex(0);
