//! The process of an attacker with a stolen login.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tickstorm_bench::machine;
use tickstorm_command::Failure;
use tickstorm_timebase::{Clock as _, ClockId, HostClock as _, Mono, SystemClock, SystemHost};

use super::attack::BusAttack;
use super::nats::{NatsConnection, ServerEvent};
use super::thief::{Moment, Thief};
use crate::ordered_process::{self, Reports};
use crate::pacer::Pacer;

/// The hidden command that turns this program into such a process.
pub(crate) const COMMAND: &str = "thief";

/// The number of the first subscription that is made over and over. Those before it are made once.
const FIRST_EXCESS: u64 = 1_000;
/// The most messages between two looks at what has arrived.
const MESSAGES_PER_TURN: u32 = 1_000;
/// The longest wait for something to send, in which something may arrive.
const WAIT_MAX: Duration = Duration::from_millis(2);
/// The number of times in a row that the server may end the connection before it is reported.
const CUT_OFF_MAX: u32 = 100;
/// The wait before the next attempt to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);

/// What the process must do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TheftOrder {
    pub(super) attack: BusAttack,
    pub(super) nats: SocketAddr,
    pub(super) user: String,
    pub(super) password: String,
    /// The id of the clock whose login is stolen. If it is an edge's, a clock to pose as.
    pub(super) own: String,
    pub(super) others: Vec<String>,
    /// The duration of the attack; at half of it, a wrong time changes its sign.
    pub(super) seconds: u32,
    /// The CPUs to run on; all if empty.
    pub(super) cpus: Vec<usize>,
}

/// What it has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TheftCounts {
    pub(crate) published: u64,
    /// Messages that NATS has refused.
    pub(crate) refused: u64,
    /// Subscriptions that NATS has refused.
    pub(crate) subscriptions_refused: u64,
    /// Subscriptions made over and over.
    pub(crate) subscribed: u64,
    /// Subscriptions beyond the number that a connection may have, which NATS has refused.
    pub(crate) excess_refused: u64,
    /// Messages of other senders.
    pub(crate) heard: u64,
    /// Connections that the server has ended.
    pub(crate) cut_off: u64,
}

/// Runs until standard input ends.
pub(crate) fn run() -> Result<(), Failure> {
    let (order, reports) = ordered_process::receive::<TheftOrder>()?;
    if !order.cpus.is_empty() {
        machine::pin(&order.cpus).context("can't use the CPUs of the order")?;
    }
    Ok(steal(&order, reports)?)
}

fn steal(order: &TheftOrder, mut reports: Reports) -> anyhow::Result<()> {
    let own: ClockId = order.own.parse()?;
    let others: Result<Vec<ClockId>, _> = order.others.iter().map(|id| id.parse()).collect();
    let random = StdRng::seed_from_u64(rand::random());
    let started = SystemClock.now();
    let mut theft = Theft {
        order,
        thief: Thief::new(order.attack, own, others?, random),
        pacer: Pacer::new(order.attack.messages_per_second(), started),
        half_time: started + Duration::from_secs(order.seconds.into()) / 2,
        counts: TheftCounts::default(),
    };
    let mut nats = theft.connect()?;
    let mut cut_off_in_a_row = 0;
    while !reports.are_over() {
        match theft.turn(&mut nats) {
            Ok(()) => cut_off_in_a_row = 0,
            Err(error) => {
                cut_off_in_a_row += 1;
                theft.counts.cut_off += 1;
                anyhow::ensure!(cut_off_in_a_row < CUT_OFF_MAX, error);
                std::thread::sleep(RECONNECT_AFTER);
                if let Ok(again) = theft.connect() {
                    nats = again;
                }
            }
        }
        reports.report_in_time(&theft.counts)?;
    }
    // The server has then said what it refuses.
    if nats.await_all().is_ok() {
        theft.take_events(&mut nats)?;
    }
    Reports::report(&theft.counts)
}

struct Theft<'a> {
    order: &'a TheftOrder,
    thief: Thief,
    pacer: Pacer,
    half_time: Mono,
    counts: TheftCounts,
}

impl Theft<'_> {
    fn connect(&self) -> anyhow::Result<NatsConnection> {
        let TheftOrder {
            nats,
            user,
            password,
            ..
        } = self.order;
        let mut nats = NatsConnection::log_in(*nats, user, password)
            .with_context(|| format!("can't log in to NATS as {user}"))?;
        let allowed = self.thief.subscriptions();
        let forbidden = self.thief.forbidden_subscriptions();
        for (id, subject) in (1..).zip(allowed.iter().chain(&forbidden)) {
            nats.subscribe(subject, id);
        }
        nats.flush()?;
        Ok(nats)
    }

    fn turn(&mut self, nats: &mut NatsConnection) -> anyhow::Result<()> {
        self.take_events(nats)?;
        let now = SystemClock.now();
        let moment = self.moment(now);
        let mut sent = 0;
        let (mut published, mut subscribed) = (0, 0);
        while sent < MESSAGES_PER_TURN && self.pacer.take(now) {
            if let Some(subject) = self.thief.next_subscription() {
                nats.subscribe(subject, FIRST_EXCESS + self.counts.subscribed + subscribed);
                subscribed += 1;
            } else if let Some(message) = self.thief.next(moment) {
                nats.publish(
                    &message.subject,
                    message.reply_to.as_deref(),
                    &message.payload,
                );
                published += 1;
            } else {
                break;
            }
            sent += 1;
        }
        nats.flush()?;
        self.counts.published += published;
        self.counts.subscribed += subscribed;
        if sent < MESSAGES_PER_TURN {
            std::thread::sleep(self.pacer.wait(now).min(WAIT_MAX));
        }
        Ok(())
    }

    /// Handles what has arrived. Answers are appended to the output.
    fn take_events(&mut self, nats: &mut NatsConnection) -> anyhow::Result<()> {
        let moment = self.moment(SystemClock.now());
        for event in nats.take_events()? {
            match event {
                ServerEvent::Message {
                    subject,
                    reply_to,
                    payload,
                } => {
                    self.counts.heard += 1;
                    let reply_to = reply_to.as_deref();
                    for answer in self
                        .thief
                        .handle_message(&subject, reply_to, &payload, moment)
                    {
                        nats.publish(&answer.subject, None, &answer.payload);
                        self.counts.published += 1;
                    }
                }
                ServerEvent::Refusal(text) if text.contains("for Publish") => {
                    self.counts.refused += 1;
                }
                ServerEvent::Refusal(text) if text.contains("for Subscription") => {
                    self.counts.subscriptions_refused += 1;
                }
                ServerEvent::Refusal(text) if text.contains("maximum subscriptions exceeded") => {
                    self.counts.excess_refused += 1;
                }
                // It ends the connection, which the next turn notices.
                ServerEvent::Refusal(_) | ServerEvent::Ping | ServerEvent::Pong => {}
            }
        }
        Ok(())
    }

    fn moment(&self, now: Mono) -> Moment {
        Moment {
            unix_us: SystemHost::new(0).read().unix.as_micros(),
            is_second_half: now >= self.half_time,
        }
    }
}
