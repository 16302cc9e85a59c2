//! [`Received`]: the ticks that a client has received by now, which its resume point must show.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_timebase::{Epoch, Mode, Mono};

/// A tick that was sent so long ago has arrived, unless the machine stalled.
const IN_FLIGHT_MAX: Duration = Duration::from_secs(1);

/// The last tick that the client has received, as exactly as the edge can know it.
#[derive(Debug)]
pub(super) struct Received {
    mode: Mode,
    /// The last tick that has arrived, or the start of the subscription.
    certain: Epoch,
    /// The ticks that were sent since, and may have arrived.
    recent: VecDeque<(Mono, Epoch)>,
}

/// What a resume point shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResumePoint {
    Right,
    /// It is before the last tick that has arrived.
    TooEarly {
        certain: Epoch,
    },
    /// It is after the last tick that can have arrived.
    TooLate {
        possible: Epoch,
    },
}

impl Received {
    /// Starts with a subscription to the ticks after `start`.
    pub(super) fn new(mode: Mode, start: Epoch) -> Self {
        Self {
            mode,
            certain: start,
            recent: VecDeque::new(),
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Records that a tick is sent.
    pub(super) fn handle_sent(&mut self, epoch: Epoch, now: Mono) {
        self.handle_time(now, Duration::ZERO);
        if epoch > self.possible() {
            self.recent.push_back((now, epoch));
        }
    }

    /// Records that everything that was sent has arrived, because the client has read what came
    /// after it.
    pub(super) fn handle_all_arrived(&mut self) {
        self.certain = self.possible();
        self.recent.clear();
    }

    /// Judges the resume point of a SUBSCRIBE that has just arrived.
    pub(super) fn judge(&mut self, point: Epoch, now: Mono, slack: Duration) -> ResumePoint {
        self.handle_time(now, slack);
        let (certain, possible) = (self.certain, self.possible());
        if point < certain {
            ResumePoint::TooEarly { certain }
        } else if point > possible {
            ResumePoint::TooLate { possible }
        } else {
            ResumePoint::Right
        }
    }

    /// Records that the client has received `point` and nothing later, as it says itself, and that
    /// the ticks after it may still arrive.
    pub(super) fn handle_resumed(&mut self, point: Epoch) {
        self.certain = point;
        self.recent.retain(|(_, epoch)| *epoch > point);
    }

    /// Returns the last tick that may have arrived.
    pub(super) fn possible(&self) -> Epoch {
        self.recent.back().map_or(self.certain, |(_, epoch)| *epoch)
    }

    fn handle_time(&mut self, now: Mono, slack: Duration) {
        while let Some(&(sent, epoch)) = self.recent.front()
            && now.since(sent) > IN_FLIGHT_MAX + slack
        {
            self.certain = epoch;
            self.recent.pop_front();
        }
    }
}
