//! [`Logins`]: what became of the logins of the last minute, for operators. An edge whose
//! credentials are outdated refuses everybody and is otherwise healthy, so this raises an alarm if
//! most logins are refused, and summarises those that were in the log. Anyone can cause refused
//! logins, with any user name and from many addresses, so everything here has a bound, and nothing
//! here refuses anyone or makes the edge unready.

mod names;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use serde_json::{Value, json};
use tickstorm_protocol::message::Auth;
use tickstorm_timebase::{Clock, Mono, SystemClock};

use self::names::FrequentNames;
use crate::admission::Address;
use crate::log_limit::LogLimit;

/// The interval at which the alarm, the metric and the log are brought up to date.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The time from the first refused login to the summary of all since then.
const SUMMARY_AFTER: Duration = Duration::from_secs(60);
/// The seconds over which the share of refused logins is taken.
const WINDOW_S: usize = 60;
/// The fewest judged logins in a window that can raise the alarm.
const JUDGED_MIN: u64 = 20;
/// The most addresses that are counted for a summary, which take about 60 KB.
const ADDRESSES_MAX: usize = 1_024;

/// The alarm's name in /status and in the metric.
pub(crate) const ALARM: &str = "logins_refused";
/// What the alarm means, and what to look at.
pub(crate) const MESSAGE: &str = "More than half of the logins within the last minute were \
    refused, so the credentials of this edge may be outdated. Compare them with those of other \
    edges, and see the user names in the log.";

/// What to do about the alarm.
pub(crate) const ACTION: &str = "If other edges accept the same user names, correct the \
    credentials of this edge. Otherwise a name that you know comes from clients with an old \
    password, and other names from someone who guesses.";

/// What became of logins.
#[derive(Default)]
pub(crate) struct Logins {
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    window: Window,
    /// The refused logins that no summary has reported yet.
    refused: Option<Refused>,
    is_alarm_raised: bool,
    alarm_log: LogLimit,
}

/// Refused logins since the first of them.
struct Refused {
    since: Mono,
    logins: u64,
    /// Those that presented a token.
    with_token: u64,
    /// Those that were not judged, because too many waited.
    unjudged: u64,
    addresses: BTreeSet<Address>,
    names: FrequentNames,
}

/// The judged logins of each of the last seconds.
struct Window {
    /// The number of the latest second.
    second: u64,
    tallies: [Tally; WINDOW_S],
}

/// Logins that were judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    judged: u64,
    refused: u64,
}

/// What is due at a check.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    summary: Option<Summary>,
    /// Whether the alarm was raised or has ended, and the number of changes that were not reported
    /// before.
    alarm: Option<(AlarmChange, u64)>,
}

/// A summary of refused logins.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    logins: u64,
    with_token: u64,
    unjudged: u64,
    addresses: usize,
    /// Whether there may have been more addresses.
    are_addresses_cut: bool,
    names: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AlarmChange {
    Raised(Tally),
    Ended(Tally),
}

impl Logins {
    /// Notes a login that was accepted.
    pub(crate) fn note_accepted(&self, now: Mono) {
        self.record().window.at(now).judged += 1;
    }

    /// Notes a login that was refused because its credentials are wrong.
    pub(crate) fn note_refused(&self, auth: &Auth, address: Address, now: Mono) {
        let mut record = self.record();
        let tally = record.window.at(now);
        tally.judged += 1;
        tally.refused += 1;
        let refused = record.refused(now);
        refused.logins += 1;
        refused.note_address(address);
        // The user name next to a token is not looked at, and a token is never shown.
        if auth.token.is_empty() {
            refused.names.note(&auth.username);
        } else {
            refused.with_token += 1;
        }
    }

    /// Notes a login that was refused unjudged. It is only summarised: nobody knows whether its
    /// credentials were right, and others that were judged have failed before it.
    pub(crate) fn note_unjudged(&self, address: Address, now: Mono) {
        let mut record = self.record();
        let refused = record.refused(now);
        refused.unjudged += 1;
        refused.note_address(address);
    }

    /// Keeps the alarm, its metric and the log up to date, until the future is dropped.
    pub(crate) async fn watch(logins: Arc<Self>, alarm: IntGauge) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let report = logins.check(SystemClock.now());
            alarm.set(i64::from(logins.record().is_alarm_raised));
            report.log();
        }
    }

    /// Returns the alarm in /status, if it is raised.
    pub(crate) fn alarm(&self) -> Option<Value> {
        let is_raised = self.record().is_alarm_raised;
        is_raised
            .then(|| json!({ "reason": ALARM, "message": MESSAGE, "action": ACTION, "clocks": [] }))
    }

    /// Returns the section `logins` of /status.
    pub(crate) fn status(&self, now: Mono) -> Value {
        let Tally { judged, refused } = self.record().window.sum(now);
        json!({
            "judged_in_last_minute": judged,
            "refused_in_last_minute": refused,
        })
    }

    fn check(&self, now: Mono) -> Report {
        let mut record = self.record();
        let sum = record.window.sum(now);
        let was_raised = std::mem::replace(&mut record.is_alarm_raised, sum.is_alarming());
        let change = match (was_raised, record.is_alarm_raised) {
            (false, true) => Some(AlarmChange::Raised(sum)),
            (true, false) => Some(AlarmChange::Ended(sum)),
            (true, true) | (false, false) => None,
        };
        let alarm = change.and_then(|change| Some((change, record.alarm_log.note(now)?)));
        let is_due = |refused: &mut Refused| now.since(refused.since) >= SUMMARY_AFTER;
        let summary = record.refused.take_if(is_due).map(Refused::summary);
        Report { summary, alarm }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn refused(&mut self, now: Mono) -> &mut Refused {
        self.refused.get_or_insert_with(|| Refused {
            since: now,
            logins: 0,
            with_token: 0,
            unjudged: 0,
            addresses: BTreeSet::new(),
            names: FrequentNames::default(),
        })
    }
}

impl Refused {
    fn note_address(&mut self, address: Address) {
        if self.addresses.len() < ADDRESSES_MAX {
            self.addresses.insert(address);
        }
    }

    fn summary(self) -> Summary {
        Summary {
            logins: self.logins,
            with_token: self.with_token,
            unjudged: self.unjudged,
            addresses: self.addresses.len(),
            are_addresses_cut: self.addresses.len() == ADDRESSES_MAX,
            names: self.names.to_string(),
        }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            second: 0,
            tallies: [Tally::default(); WINDOW_S],
        }
    }
}

impl Window {
    /// Returns the tally of the second that contains `now`.
    fn at(&mut self, now: Mono) -> &mut Tally {
        self.advance(now);
        &mut self.tallies[index(self.second)]
    }

    /// Returns all tallies of the last minute together.
    fn sum(&mut self, now: Mono) -> Tally {
        self.advance(now);
        let sum = |sum: Tally, tally: &Tally| Tally {
            judged: sum.judged + tally.judged,
            refused: sum.refused + tally.refused,
        };
        self.tallies.iter().fold(Tally::default(), sum)
    }

    /// Clears the tallies of seconds that are over, so that the latest second is that of `now`.
    fn advance(&mut self, now: Mono) {
        // Shards read their clocks on their own, so that `now` may be a little earlier than before.
        let now_s = (now.as_nanos() / 1_000_000_000).max(self.second);
        let first = (self.second + 1).max(now_s.saturating_sub(WINDOW_S as u64 - 1));
        for second in first..=now_s {
            self.tallies[index(second)] = Tally::default();
        }
        self.second = now_s;
    }
}

impl Tally {
    /// Returns whether so many logins were refused that the reason may be the edge itself.
    const fn is_alarming(self) -> bool {
        self.judged >= JUDGED_MIN && 2 * self.refused > self.judged
    }
}

impl Report {
    fn log(self) {
        if let Some(summary) = self.summary {
            summary.log();
        }
        match self.alarm {
            Some((AlarmChange::Raised(Tally { judged, refused }), not_logged)) => tracing::warn!(
                reason = ALARM,
                judged,
                refused,
                not_logged,
                "login alarm raised: {MESSAGE}"
            ),
            Some((AlarmChange::Ended(Tally { judged, refused }), not_logged)) => tracing::info!(
                reason = ALARM,
                judged,
                refused,
                not_logged,
                "the login alarm has ended"
            ),
            None => {}
        }
    }
}

impl Summary {
    fn log(&self) {
        tracing::warn!(
            refused = self.logins,
            with_token = self.with_token,
            unjudged = self.unjudged,
            addresses = self.addresses,
            more_addresses = self.are_addresses_cut,
            users = self.names,
            "logins were refused within the last minute; of the user names, these were the most \
             frequent, with the number of their logins at least"
        );
    }
}

fn index(second: u64) -> usize {
    usize::try_from(second % WINDOW_S as u64).expect("less than WINDOW_S")
}

#[cfg(test)]
mod tests;
