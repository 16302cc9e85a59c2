//! What cases expect of a [`Connection`]. Each method fails with what arrived instead.

use std::time::Duration;

use tickstorm_client::estimate::PongExchange;
use tickstorm_protocol::ErrorCode;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::message::{Ack, ErrorMsg};
use tickstorm_timebase::{Mode, Mono};

use super::{Connection, End, SUBSCRIBE_COST, SeenTick, Step};
use crate::check::bytes;
use crate::check::server::Server;
use crate::check::stop::{Outcome, Stop, ensure, fail};
use crate::check::welcome::identity_faults;

/// The time limit for an answer, apart from that to AUTH.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// The time limit for the answer to AUTH, which the server may delay.
const AUTH_TIME_MAX: Duration = Duration::from_secs(10);
/// The time limit for the ACK of SUBSCRIBE.
const SUBSCRIBE_TIME_MAX: Duration = Duration::from_secs(8);
/// The time limit for ticks that are due or about to be, beyond their time. Replays may wait.
const TICK_TIME_MAX: Duration = Duration::from_secs(10);
/// The HEARTBEATs by which a connection learns authority time.
const SAMPLES: usize = 3;
/// The hint after INVALID_SUBSCRIPTION for a resume point too far ahead.
const RESUME_HINT_MS: std::ops::RangeInclusive<u32> = 1_100..=2_100;

/// A subscription as the server has acknowledged it.
#[derive(Clone, Debug)]
pub(in crate::check) struct Subscribed {
    pub(in crate::check) ack: Ack,
    /// When SUBSCRIBE was sent.
    pub(in crate::check) sent_at: Mono,
    /// When its ACK arrived.
    pub(in crate::check) read_at: Mono,
    /// The ticks that arrived between the two.
    pub(in crate::check) before_ack: Vec<SeenTick>,
}

impl Connection {
    /// Expects the ACK of AUTH.
    pub(in crate::check) async fn ack_of_auth(&mut self) -> Outcome<Ack> {
        let ack = self.ack(FrameType::Auth, AUTH_TIME_MAX).await?;
        // The case ack-of-auth judges the first one. If others had to report the same faults, these
        // would hide everything else.
        if let Some(welcome) = self.server.known_welcome() {
            let (known, faults) = (identity_faults(&welcome.ack), identity_faults(&ack));
            ensure!(
                !known.is_empty() || faults.is_empty(),
                "the ACK of AUTH: {}",
                faults.join("; ")
            );
        }
        self.connection_id = Some(ack.connection_id.clone());
        Ok(ack)
    }

    /// Expects the ACK of SUBSCRIBE.
    pub(in crate::check) async fn ack_of_subscribe(&mut self) -> Outcome<Ack> {
        self.note_subscribe();
        let ack = self.ack(FrameType::Subscribe, SUBSCRIBE_TIME_MAX).await?;
        ensure!(
            ack.acked_type == u32::from(FrameType::Subscribe.byte()),
            "the ACK of SUBSCRIBE has acked_type {}",
            ack.acked_type
        );
        Ok(ack)
    }

    async fn ack(&mut self, answered: FrameType, within: Duration) -> Outcome<Ack> {
        let what = format!("the ACK of {}", answered.name());
        let deadline = Server::now() + within;
        loop {
            match self
                .step(deadline)
                .await
                .map_err(|stop| stop.about(&what))?
            {
                Step::Ack(ack) => return Ok(ack),
                // An earlier subscription may still send ticks.
                Step::Ticks => {}
                Step::Pong(_) if self.beat.is_some() => {}
                other @ Step::Pong(_)
                | other @ Step::Error(_)
                | other @ Step::End(_)
                | other @ Step::TimeUp => return Err(instead(&what, &other)),
            }
        }
    }

    /// Learns authority time.
    pub(in crate::check) async fn learn_time(&mut self) -> Outcome<()> {
        for _ in 0..SAMPLES {
            self.rest(1).await?;
            self.send_heartbeat().await;
            self.pong().await?;
        }
        self.unix_us_at(self.read_at).map(drop)
    }

    /// Subscribes, and expects the ACK. Ticks of an earlier subscription may come before it.
    pub(in crate::check) async fn subscribe(
        &mut self,
        mode: Mode,
        resume_after_ms: Option<i64>,
        ahead: bool,
    ) -> Outcome<Subscribed> {
        self.rest(SUBSCRIBE_COST).await?;
        let earlier = self.ticks.len();
        let sent_at = Server::now();
        self.send(&bytes::subscribe(mode, resume_after_ms, ahead))
            .await;
        let ack = self.ack_of_subscribe().await?;
        Ok(Subscribed {
            ack,
            sent_at,
            read_at: self.read_at,
            before_ack: self.ticks.split_off(earlier),
        })
    }

    /// Expects a PONG. Ticks may come before it.
    pub(in crate::check) async fn pong(&mut self) -> Outcome<PongExchange> {
        let deadline = Server::now() + ANSWER_TIME_MAX;
        loop {
            match self.step(deadline).await? {
                Step::Pong(exchange) => return Ok(exchange),
                Step::Ticks => {}
                other @ Step::Ack(_)
                | other @ Step::Error(_)
                | other @ Step::End(_)
                | other @ Step::TimeUp => return Err(instead("PONG", &other)),
            }
        }
    }

    /// Expects a PONG that echoes this time.
    pub(in crate::check) async fn echo(&mut self, client_time_us: i64) -> Outcome<()> {
        let pong = self.pong().await?;
        ensure!(
            pong.t1_us == client_time_us,
            "PONG echoes client_time_us {} instead of {client_time_us}",
            pong.t1_us
        );
        Ok(())
    }

    /// Expects that HEARTBEAT is still answered.
    pub(in crate::check) async fn still_answers(&mut self) -> Outcome<()> {
        self.rest(1).await?;
        let now_us = super::micros(Server::now());
        self.send(&bytes::heartbeat(now_us)).await;
        self.echo(now_us).await
    }

    /// Receives ticks until one has at least this epoch. Its time may be up to `due_in` away.
    pub(in crate::check) async fn ticks_until(
        &mut self,
        epoch_ms: i64,
        due_in: Duration,
    ) -> Outcome<()> {
        let deadline = Server::now() + due_in + TICK_TIME_MAX;
        loop {
            if self
                .ticks
                .last()
                .is_some_and(|tick| tick.epoch_ms >= epoch_ms)
            {
                return Ok(());
            }
            match self.step(deadline).await? {
                Step::Ticks | Step::Pong(_) => {}
                Step::TimeUp => match self.ticks.last() {
                    Some(last) => fail!(
                        "tick {epoch_ms} did not come; the last one was {}",
                        last.epoch_ms
                    ),
                    None => fail!("no tick came"),
                },
                other @ Step::Ack(_) | other @ Step::Error(_) | other @ Step::End(_) => {
                    return Err(instead("ticks", &other));
                }
            }
        }
    }

    /// Receives what comes within this time: only ticks and PONGs may.
    pub(in crate::check) async fn listen_for(&mut self, time: Duration) -> Outcome<()> {
        let deadline = Server::now() + time;
        loop {
            match self.step(deadline).await? {
                Step::Ticks | Step::Pong(_) => {}
                Step::TimeUp => return Ok(()),
                other @ Step::Ack(_) | other @ Step::Error(_) | other @ Step::End(_) => {
                    return Err(instead("ticks", &other));
                }
            }
        }
    }

    /// Expects that nothing arrives within this time.
    pub(in crate::check) async fn nothing_for(&mut self, time: Duration) -> Outcome<()> {
        match self.step(Server::now() + time).await? {
            Step::TimeUp => Ok(()),
            other @ Step::Ack(_)
            | other @ Step::Pong(_)
            | other @ Step::Ticks
            | other @ Step::Error(_)
            | other @ Step::End(_) => Err(instead("nothing", &other)),
        }
    }

    /// Expects ERROR with this code, and then an orderly end. Ticks may come first.
    pub(in crate::check) async fn refusal(&mut self, code: ErrorCode) -> Outcome<ErrorMsg> {
        self.refusal_within(code, ANSWER_TIME_MAX).await
    }

    /// Does the same, within this time.
    pub(in crate::check) async fn refusal_within(
        &mut self,
        code: ErrorCode,
        within: Duration,
    ) -> Outcome<ErrorMsg> {
        let deadline = Server::now() + within;
        let error = loop {
            match self.step(deadline).await? {
                Step::Error(error) => break error,
                Step::Ticks => {}
                Step::Pong(_) if self.beat.is_some() => {}
                other @ Step::Ack(_)
                | other @ Step::Pong(_)
                | other @ Step::End(_)
                | other @ Step::TimeUp => return Err(instead(code.as_str(), &other)),
            }
        };
        self.refused_by(code, &error).await?;
        Ok(error)
    }

    /// Expects that an ERROR has this code and its hint, and then an orderly end.
    pub(in crate::check) async fn refused_by(
        &mut self,
        code: ErrorCode,
        error: &ErrorMsg,
    ) -> Outcome<()> {
        let (found, message) = (&error.code, error.message.escape_debug());
        ensure!(
            *found == code.as_str(),
            "the answer is {found} ({message}) instead of {code}"
        );
        check_hint(code, error.retry_after_ms)?;
        self.orderly_end().await
    }

    /// Expects an orderly end next. [`Connection::read_at`] still says when ERROR arrived.
    pub(in crate::check) async fn orderly_end(&mut self) -> Outcome<()> {
        let refused_at = self.read_at;
        match self.step(refused_at + ANSWER_TIME_MAX).await? {
            Step::End(End::Eof) => {}
            other @ Step::Ack(_)
            | other @ Step::Pong(_)
            | other @ Step::Ticks
            | other @ Step::Error(_)
            | other @ Step::End(_)
            | other @ Step::TimeUp => return Err(instead("an orderly end after ERROR", &other)),
        }
        self.read_at = refused_at;
        Ok(())
    }

    /// Expects that the connection ends in any way, and returns how.
    pub(in crate::check) async fn end(&mut self) -> Outcome<End> {
        let deadline = Server::now() + ANSWER_TIME_MAX;
        loop {
            match self.step(deadline).await? {
                Step::End(end) => return Ok(end),
                Step::Ticks | Step::Pong(_) => {}
                other @ Step::Ack(_) | other @ Step::Error(_) | other @ Step::TimeUp => {
                    return Err(instead("the end of the connection", &other));
                }
            }
        }
    }
}

/// Checks the hint of an ERROR.
fn check_hint(code: ErrorCode, hint_ms: u32) -> Outcome<()> {
    let range = match code.retry_after_ms() {
        Some(range) => range,
        None if code == ErrorCode::InvalidSubscription && hint_ms != 0 => RESUME_HINT_MS,
        None => 0..=0,
    };
    ensure!(
        range.contains(&hint_ms),
        "{code} has a retry_after_ms of {hint_ms}, which is not within {range:?}"
    );
    Ok(())
}

/// Returns the failure of a case that expected `expected` when `step` happened.
pub(in crate::check) fn instead(expected: &str, step: &Step) -> Stop {
    let seen = match step {
        Step::Ack(ack) => format!("an ACK of type {}", ack.acked_type),
        Step::Pong(_) => "PONG".into(),
        Step::Ticks => "DATA_BATCH".into(),
        Step::Error(error) => {
            format!("{} ({})", error.code, error.message.escape_debug())
        }
        Step::End(End::Eof) => "the end of the connection".into(),
        Step::End(End::Reset) => "a reset of the connection".into(),
        Step::End(End::WithoutCloseNotify) => "the end of TCP without close_notify".into(),
        Step::TimeUp => "silence".into(),
    };
    Stop::Failed(format!("{seen} instead of {expected}"))
}
