//! The first connection. Each address is tried until an edge accepts. Nothing was promised to a
//! reader yet, so the result may also be an error.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_protocol::code::{ErrorCode, Return};
use tickstorm_timebase::Mono;
use tokio::time::sleep;

use super::{Subscription, TIMELESS_REST_MIN, is_refusal_with, timeless_rest, was_cut_off};
use crate::alarm_clock::AlarmClock;
use crate::connection::Subscribed;
use crate::dial::Dial;
use crate::error::Error;
use crate::trail;

/// What the attempts so far have led to.
struct Attempts {
    /// The number of addresses that are left to try in this pass.
    left: usize,
    /// When each address whose edge did not know the time may be asked again.
    timeless_until: Vec<Option<Mono>>,
    /// The addresses whose attempt was cut off in this pass.
    cut_off: VecDeque<usize>,
    /// The first refusal that would recur.
    refused: Option<Error>,
    /// The last other failure.
    last: Option<Error>,
}

impl Attempts {
    fn new(addresses: usize) -> Self {
        Self {
            left: addresses,
            timeless_until: vec![None; addresses],
            cut_off: VecDeque::new(),
            refused: None,
            last: None,
        }
    }

    /// Begins another pass over the addresses at `now`.
    fn begin_pass(&mut self, now: Mono) {
        self.left = self.timeless_until.len();
        self.cut_off.clear();
        self.last = None;
        for until in &mut self.timeless_until {
            until.take_if(|until| *until <= now);
        }
    }

    /// Records that an attempt at an address failed. `is_no` is true if it would fail again.
    fn handle_failure(&mut self, index: usize, error: Error, is_no: bool, now: Mono) {
        if knows_no_time(&error) {
            self.timeless_until[index] = Some(now + timeless_rest(&error));
        } else if is_no {
            self.refused.get_or_insert(error);
        } else {
            if was_cut_off(&error) {
                self.cut_off.push_back(index);
            }
            self.last = Some(error);
        }
    }
}

impl<D: Dial, C: AlarmClock> Subscription<D, C> {
    /// Makes the first connection. Each address is tried once, without a pause, until an edge
    /// accepts; one whose attempt was cut off is tried again, after the others. If no edge accepts,
    /// the result is a refusal that would recur, if there was one, or else the last error. However,
    /// if an edge does not know the time yet, further passes over the addresses follow until an
    /// edge does, each when the first of these edges may be asked again.
    pub(crate) async fn connect_first(&mut self) -> Result<Subscribed<D::Socket>, Error> {
        let mut attempts = Attempts::new(self.addresses.count());
        loop {
            let error = match self.connect().await {
                Ok(subscribed) => return Ok(subscribed),
                Err(error) => error,
            };
            let (tried, now) = (self.addresses.current(), self.clock.now());
            trail::write_failure(self.address(), &error);
            self.handle_failed_address(tried, &error);
            let is_no = self.resume.classify(error.come_back()) == Return::No;
            attempts.handle_failure(tried, error, is_no, now);
            if self.addresses.has_more_edges(tried) {
                continue;
            }
            attempts.left = attempts.left.saturating_sub(1);
            let from = self.addresses.advance(now);
            if attempts.left > 0 && from <= now {
                continue;
            }
            let due = attempts.timeless_until.iter().flatten().min().copied();
            if due.is_none() {
                if let Some(again) = attempts.cut_off.pop_front() {
                    attempts.left = 0;
                    self.addresses.select(again);
                    continue;
                }
                if let Some(error) = attempts.refused.take().or(attempts.last.take()) {
                    return Err(error);
                }
            }
            let wait = due.map_or(Duration::ZERO, |due| due.since(self.clock.now()));
            sleep(wait.max(TIMELESS_REST_MIN)).await;
            attempts.begin_pass(self.clock.now());
        }
    }
}

/// Returns whether no subscription was made because the edge does not know the time yet.
fn knows_no_time(error: &Error) -> bool {
    matches!(error, Error::TimeUnknown { .. }) || is_refusal_with(error, ErrorCode::NoTime)
}
