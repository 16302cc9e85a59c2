//! [`Judge`]: what a client did wrong. It is told what the client does and what the edge has done,
//! with times, and collects [`Fault`]s. It does no I/O, and nothing that it finds changes what the
//! edge does.

use std::time::Duration;

use tickstorm_protocol::message::{Auth, Subscribe};
use tickstorm_timebase::{Epoch, Mode, Mono};

use super::received::{Received, ResumePoint};
use super::rule::{Fault, Rule};
use super::waits::{End, Waits, Window};

/// How much later than the rules allow something may happen, since machines and networks are slow.
const SLACK: Duration = Duration::from_millis(1_500);
/// How much earlier something may happen, since timers are coarse.
const TIMER_GRAIN: Duration = Duration::from_millis(20);
/// How long after the last right moment a client is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);
/// A cookie that was sent so long ago has been read.
const COOKIE_READ_AFTER: Duration = Duration::from_secs(1);

/// The user name and password that clients must present.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: secrecy::SecretString,
}

/// The judge of one client.
pub(super) struct Judge {
    slack: Duration,
    waits: Waits,
    comeback: Option<Comeback>,
    resume: Resume,
    /// Whether a frame that the client had to refuse was the last that counts.
    is_after_bad_frame: bool,
    cookie: Vec<u8>,
    cookie_sent: Option<Mono>,
    faults: Vec<Fault>,
}

/// A connection that the client is expected to make.
#[derive(Debug)]
struct Comeback {
    since: Mono,
    window: Window,
    /// The rule that says when it is too early.
    early: Rule,
    is_random: bool,
    /// What it comes back after.
    after: String,
    is_reported: bool,
}

/// What the next SUBSCRIBE must say.
#[derive(Debug)]
enum Resume {
    /// It is the client's first one.
    First,
    /// The resume point is void.
    Void,
    From(Received),
}

/// The end of a connection, or of an attempt to make one.
pub(super) struct Ended {
    pub(super) end: End,
    /// For how long the client was subscribed; zero if it never was.
    pub(super) subscribed_for: Duration,
    /// The rule that says when it is too early to come back.
    pub(super) early: Rule,
    /// The end in words, as in "came back too early after …".
    pub(super) after: String,
}

impl Judge {
    /// Starts to judge a client, to which each ACK of AUTH sends `cookie`.
    pub(super) fn new(cookie: Vec<u8>) -> Self {
        Self {
            slack: SLACK,
            waits: Waits::default(),
            comeback: None,
            resume: Resume::First,
            is_after_bad_frame: false,
            cookie,
            cookie_sent: None,
            faults: Vec::new(),
        }
    }

    /// Returns the faults that were found since the last call.
    pub(super) fn take_faults(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.faults)
    }

    pub(super) fn fault(&mut self, rule: Rule, message: impl Into<String>) {
        self.faults.push(Fault::new(rule, message));
    }

    /// Returns how much later than the rules allow something may happen.
    pub(super) fn slack(&self) -> Duration {
        self.slack
    }

    pub(super) fn cookie(&self) -> &[u8] {
        &self.cookie
    }

    /// Records that this machine stalled, and with it perhaps the client's.
    pub(super) fn handle_stall(&mut self, late: Duration) {
        self.slack = self.slack.max(SLACK + late * 2);
    }

    /// Returns how long a subscription must have lasted before its next end, for the waits after it
    /// to be short.
    pub(super) fn settling_time(&self) -> Duration {
        if self.waits.bound() > Duration::from_secs(2) {
            Waits::settled_after()
        } else {
            Duration::ZERO
        }
    }

    /// Judges an AUTH that has arrived at `now`. Returns whether its credentials are right.
    pub(super) fn handle_auth(&mut self, auth: &Auth, login: &Login, now: Mono) -> bool {
        use secrecy::ExposeSecret as _;
        let is_cookie_read = self
            .cookie_sent
            .is_some_and(|sent| now.since(sent) > COOKIE_READ_AFTER + self.slack);
        if is_cookie_read && auth.cookie != self.cookie {
            let what = if auth.cookie.is_empty() {
                "no cookie"
            } else {
                "another cookie"
            };
            let text = format!("AUTH has {what}, although an ACK of AUTH had one");
            self.fault(Rule::Cookies, text);
        }
        let right = auth.token.is_empty()
            && auth.username == login.user
            && auth.password == login.password.expose_secret();
        if !right {
            let text = "AUTH has other credentials than STREAM_USER and STREAM_PASS";
            self.fault(Rule::Authentication, text);
        }
        right
    }

    /// Records that an ACK of AUTH with the cookie is sent.
    pub(super) fn handle_cookie_sent(&mut self, now: Mono) {
        self.cookie_sent.get_or_insert(now);
    }

    /// Records that a connection or an attempt ended at `now`, and that the client must come back.
    pub(super) fn handle_end(&mut self, ended: Ended, now: Mono) {
        let window = self.waits.handle_end(ended.end, ended.subscribed_for);
        self.comeback = Some(Comeback {
            since: now,
            window,
            early: ended.early,
            is_random: ended.end == End::Hinted(Duration::ZERO),
            after: ended.after,
            is_reported: false,
        });
    }

    /// Judges the moment at which a client came back.
    pub(super) fn handle_comeback(&mut self, connected: Mono) {
        let Some(comeback) = self.comeback.take() else {
            return;
        };
        let waited = connected.since(comeback.since);
        let (seconds, after) = (waited.as_secs_f64(), &comeback.after);
        if waited + TIMER_GRAIN < comeback.window.min {
            let text = format!(
                "came back {seconds:.2} s after {after}, but not before {:.2} s is right",
                comeback.window.min.as_secs_f64()
            );
            self.fault(comeback.early, text);
        } else if !comeback.is_reported && waited > comeback.window.max + self.slack {
            let text = late(after, seconds, comeback.window);
            self.fault(Rule::Waits, text);
        }
        if comeback.is_random
            && let Some(times) = self.waits.handle_random_wait(waited)
        {
            let text = format!(
                "came back {times} times in a row within 50 ms: wait for a random time between 0 \
                 and a bound that doubles from 1 s to 30 s"
            );
            self.fault(Rule::Waits, text);
        }
    }

    /// Reports a client that does not come back.
    pub(super) fn poll(&mut self, now: Mono) {
        let slack = self.slack;
        let Some(comeback) = &mut self.comeback else {
            return;
        };
        let waited = now.since(comeback.since);
        if !comeback.is_reported && waited > comeback.window.max + slack {
            comeback.is_reported = true;
            let text = late(&comeback.after, waited.as_secs_f64(), comeback.window);
            self.fault(Rule::Waits, text);
        }
    }

    /// Returns whether the client is so late that it will not come back any more.
    pub(super) fn is_gone(&self, now: Mono) -> bool {
        self.comeback.as_ref().is_some_and(|comeback| {
            now.since(comeback.since) > comeback.window.max + self.slack + GIVE_UP_AFTER
        })
    }

    /// Returns when [`Judge::poll`] or [`Judge::is_gone`] may next have another result.
    pub(super) fn next_change(&self, now: Mono) -> Mono {
        let Some(comeback) = &self.comeback else {
            return Mono::NEVER;
        };
        let late = comeback.since + comeback.window.max + self.slack + Duration::from_millis(1);
        let gone = late + GIVE_UP_AFTER;
        if late > now { late } else { gone }
    }

    /// Judges the resume point of a SUBSCRIBE that arrived at `now`.
    pub(super) fn handle_subscribe(&mut self, subscribe: &Subscribe, mode: Mode, now: Mono) {
        let slack = self.slack;
        let point = subscribe.resume_after_epoch_ms;
        let fault = match (&mut self.resume, point) {
            (Resume::First, _) | (Resume::Void, None) => None,
            (Resume::Void, Some(point)) => Some(Fault::new(
                Rule::TimeStepped,
                format!("resumed after {point}, although TIME_STEPPED has voided the resume point"),
            )),
            (Resume::From(received), _) if received.mode() != mode => None,
            (Resume::From(received), None) => Some(Fault::new(
                Rule::Resuming,
                format!(
                    "subscribed without resume_after_epoch_ms, although {} was received: the ticks \
                     after it are lost",
                    received.possible().as_ms()
                ),
            )),
            (Resume::From(received), Some(point)) => {
                let judged = received.judge(Epoch::from_ms(point), now, slack);
                resume_fault(judged, point, self.is_after_bad_frame)
            }
        };
        self.faults.extend(fault);
    }

    /// Records that the ACK of SUBSCRIBE is sent, and with it that the ticks after `start` follow.
    pub(super) fn handle_subscribed(&mut self, subscribe: &Subscribe, mode: Mode, start: Epoch) {
        self.waits.handle_subscribed();
        self.is_after_bad_frame = false;
        let point = subscribe.resume_after_epoch_ms.map(Epoch::from_ms);
        match (&mut self.resume, point) {
            (Resume::From(received), Some(point)) if received.mode() == mode => {
                received.handle_resumed(point);
            }
            (_, _) => self.resume = Resume::From(Received::new(mode, start)),
        }
    }

    /// Records that a tick is sent that the client can use.
    pub(super) fn handle_sent(&mut self, epoch: Epoch, now: Mono) {
        if let Resume::From(received) = &mut self.resume {
            received.handle_sent(epoch, now);
        }
    }

    /// Records that everything that was sent has arrived, because an orderly end follows it.
    pub(super) fn handle_all_arrived(&mut self) {
        if let Resume::From(received) = &mut self.resume {
            received.handle_all_arrived();
        }
    }

    /// Records that a frame is sent that the client must refuse, and that nothing after it counts.
    pub(super) fn handle_bad_frame(&mut self) {
        self.handle_all_arrived();
        self.is_after_bad_frame = true;
    }

    /// Records that authority time was stepped back so far that resume points are void.
    pub(super) fn handle_time_stepped(&mut self) {
        self.resume = Resume::Void;
    }
}

fn late(after: &str, seconds: f64, window: Window) -> String {
    format!(
        "did not come back within {seconds:.1} s after {after}, but {:.1} s is the longest wait",
        window.max.as_secs_f64()
    )
}

fn resume_fault(judged: ResumePoint, point: i64, is_after_bad_frame: bool) -> Option<Fault> {
    match judged {
        ResumePoint::Right => None,
        ResumePoint::TooEarly { certain } => Some(Fault::new(
            Rule::Resuming,
            format!(
                "resumed after {point}, although {} was received: resume after the last tick \
                 received, or after start_epoch_ms if there was none",
                certain.as_ms()
            ),
        )),
        ResumePoint::TooLate { possible } if is_after_bad_frame => Some(Fault::new(
            Rule::Errors,
            format!(
                "resumed after {point}, although the last tick before the frame with a bad \
                 checksum was {}: neither that frame nor any later one counts",
                possible.as_ms()
            ),
        )),
        ResumePoint::TooLate { possible } => Some(Fault::new(
            Rule::Resuming,
            format!(
                "resumed after {point}, although {} is the last tick that was sent: the ticks in \
                 between are lost",
                possible.as_ms()
            ),
        )),
    }
}
