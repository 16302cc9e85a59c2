//! The network and the edges of the vectors: a script accepts or refuses each attempt to connect,
//! and plays the edge at the other end. Its times are authority time, which continues while the
//! client's machine is suspended.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tickstorm_client::{Dial, Epoch, Error, Event, Mode, Options, Quality, connect_by};
use tickstorm_protocol::ErrorCode;
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{DataBatch, Tick};
use tickstorm_protocol::session::server::{self, Step};
use tickstorm_testkit::vectors::{integer, interval};
use tickstorm_timebase::{Clock as _, Mono};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::words;
use crate::edge::{BASE_US, Edge, Seen, TokioClock, edge_of};

const BASE_MS: i64 = BASE_US / 1_000;
/// How long before their time an edge sends ticks to a client that subscribes ahead.
const LEAD_MS: i64 = 800;
/// The usual limit for a connection to an IP address, which the driver keeps to.
const CONNECT_MS: i64 = 3_000;
/// By how much virtual time may exceed a time of the vectors, since its timers count milliseconds.
pub(super) const SLACK_MS: i64 = 5;

/// An attempt to connect.
pub(super) struct Ask {
    pub(super) address: String,
    pub(super) at_ms: i64,
    reply: oneshot::Sender<io::Result<Dialled>>,
}

/// The client's end of a connection.
struct Dialled {
    socket: DuplexStream,
    /// The number of IP addresses that the name has.
    ip_addresses: usize,
}

struct Dialler {
    asks: mpsc::UnboundedSender<Ask>,
    time: Time,
    /// The number of IP addresses that the last name had.
    ip_addresses: usize,
}

impl Dial for Dialler {
    type Socket = DuplexStream;

    async fn dial(&mut self, address: &str) -> io::Result<DuplexStream> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            address: address.to_owned(),
            at_ms: self.time.now_ms(),
            reply,
        };
        // If the script is over, the client is about to be dropped.
        let _ = self.asks.send(ask);
        let dialled = answer
            .await
            .unwrap_or(Err(io::ErrorKind::ConnectionRefused.into()))?;
        self.ip_addresses = dialled.ip_addresses;
        Ok(dialled.socket)
    }

    fn ip_addresses(&self, _address: &str) -> usize {
        self.ip_addresses
    }
}

/// The time of the script, in milliseconds since it began.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) clock: TokioClock,
    began: Mono,
}

impl Time {
    pub(super) fn now_ms(&self) -> i64 {
        let elapsed = self.clock.now().since(self.began) + self.clock.suspended();
        i64::try_from(elapsed.as_millis()).unwrap()
    }

    /// Returns the moment at which this time has come, if the machine is not suspended meanwhile.
    pub(super) fn at(&self, at_ms: i64) -> Instant {
        let wait = u64::try_from(at_ms - self.now_ms()).unwrap_or(0);
        Instant::now() + Duration::from_millis(wait)
    }
}

/// What a client hands out.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seeing {
    Tick {
        epoch: Epoch,
        quality: Quality,
    },
    Gap {
        after: Epoch,
        before: Epoch,
    },
    Ended {
        come_back: &'static str,
        resumes: bool,
    },
    Connected,
    Moved,
}

/// The events of a client, each with its time.
pub(super) type Record = Arc<Mutex<Vec<(i64, Seeing)>>>;

/// The network between a client and its edges.
pub(super) struct Network {
    asks: mpsc::UnboundedReceiver<Ask>,
    pub(super) time: Time,
    /// Authority time minus the script's time.
    pub(super) authority_ms: i64,
    pub(super) record: Record,
    client: JoinHandle<Result<(), Error>>,
    edges: u32,
}

impl Network {
    /// Starts a client; authority time is `authority_ms` now.
    pub(super) fn start(options: Options, authority_ms: i64) -> Self {
        let clock = TokioClock::starting_now();
        let time = Time {
            clock,
            began: clock.now(),
        };
        let (sender, asks) = mpsc::unbounded_channel();
        let dialler = Dialler {
            asks: sender,
            time,
            ip_addresses: 0,
        };
        let record = Record::default();
        let written = Arc::clone(&record);
        let client = tokio::spawn(async move {
            let mut ticks = connect_by(dialler, clock, options).await?;
            while let Some(event) = ticks.next().await {
                written
                    .lock()
                    .unwrap()
                    .push((time.now_ms(), seeing(event?)));
            }
            Ok(())
        });
        Self {
            asks,
            time,
            authority_ms,
            record,
            client,
            edges: 0,
        }
    }

    /// Waits for the next attempt to connect, until a time in the script.
    pub(super) async fn ask_until(&mut self, at_ms: i64) -> Option<Ask> {
        timeout_at(self.time.at(at_ms), self.asks.recv())
            .await
            .ok()
            .flatten()
    }

    /// Waits for the client to give up, and returns the reason.
    pub(super) async fn gives_up(&mut self) -> Error {
        let asked = self.ask_until(self.time.now_ms() + 100_000).await;
        assert!(asked.is_none(), "another attempt to connect");
        let ended = (&mut self.client).await.unwrap();
        ended.expect_err("the client gives up")
    }

    /// Lets an attempt reach an edge, which knows authority time.
    pub(super) fn accept(&mut self, ask: Ask) -> Edge {
        self.accept_at_one_of(1, ask)
    }

    /// Lets an attempt reach an edge at one of the IP addresses of a name.
    pub(super) fn accept_at_one_of(&mut self, ip_addresses: usize, ask: Ask) -> Edge {
        let (near, mut edge) = edge_of(self.time.clock, self.time.began);
        edge.skew_us = self.authority_ms * 1_000 - BASE_US;
        self.edges += 1;
        edge.limits.edge_id = format!("edge-{}", self.edges);
        let _ = ask.reply.send(Ok(Dialled {
            socket: near,
            ip_addresses,
        }));
        edge
    }

    /// Leaves an attempt unanswered until the client cuts it off or its driver gives it up, and
    /// checks when that is.
    pub(super) async fn ignore(&self, mut ask: Ask, attempt: &Value, id: &Value) {
        let usual = self.time.at(ask.at_ms + CONNECT_MS);
        if timeout_at(usual, ask.reply.closed()).await.is_err() {
            let _ = ask.reply.send(Err(io::ErrorKind::TimedOut.into()));
        }
        self.check_limit(attempt, ask.at_ms, id);
    }

    /// Checks that an attempt is given up now, in time.
    pub(super) fn check_limit(&self, attempt: &Value, made_ms: i64, id: &Value) {
        let waited = self.time.now_ms() - made_ms;
        let (least, most) = interval(&attempt["gives_up_ms"]);
        let is_right = (least..=most).contains(&waited);
        assert!(is_right, "{id}: gives up after {waited} ms: {attempt}");
    }

    pub(super) fn refuse(ask: Ask) {
        let _ = ask.reply.send(Err(io::ErrorKind::ConnectionRefused.into()));
    }

    /// Checks that the ticks that were handed out are in order, each once, and without a gap,
    /// except after the resume point was given up.
    pub(super) fn check_ticks(&self, mode: Mode, id: &Value) {
        let mut last = None;
        for (at_ms, seen) in self.record.lock().unwrap().iter() {
            match seen {
                Seeing::Tick { epoch, .. } => {
                    let follows = last.is_none_or(|last| mode.next_after(last) == *epoch);
                    assert!(follows, "{id}: {epoch:?} after {last:?} at {at_ms} ms");
                    last = Some(*epoch);
                }
                Seeing::Ended { resumes: false, .. } => last = None,
                Seeing::Gap { .. } => panic!("{id}: {seen:?} at {at_ms} ms"),
                Seeing::Ended { .. } | Seeing::Connected | Seeing::Moved => {}
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.client.abort();
    }
}

/// Returns the number of IP addresses that the name has at an attempt.
pub(super) fn ip_addresses(attempt: &Value) -> usize {
    let given = attempt.get("ip_addresses").map_or(1, integer);
    usize::try_from(given).unwrap()
}

fn seeing(event: Event) -> Seeing {
    match event {
        Event::Tick(tick) => Seeing::Tick {
            epoch: tick.epoch,
            quality: tick.quality,
        },
        Event::Gap { after, before, .. } => Seeing::Gap { after, before },
        Event::Reconnecting { why, resumes, .. } => Seeing::Ended {
            come_back: words(why.come_back(), true),
            resumes,
        },
        Event::Reconnected { .. } => Seeing::Connected,
        Event::Moved { .. } => Seeing::Moved,
        other @ (Event::ModeChanged { .. } | _) => panic!("{other:?}"),
    }
}

/// What an edge does for a while.
#[derive(Clone, Copy)]
pub(super) struct Behaviour {
    /// How long before their time ticks are sent; `None` if they are not sent.
    pub(super) lead_ms: Option<i64>,
    /// Whether HEARTBEAT is answered with the time, or without it; `None` if it is not answered.
    pub(super) knows_time: Option<bool>,
}

impl Behaviour {
    pub(super) const HEALTHY: Self = Self {
        lead_ms: Some(0),
        knows_time: Some(true),
    };
    pub(super) const TIMELESS: Self = Self {
        lead_ms: None,
        knows_time: Some(false),
    };

    pub(super) fn of(phase: &Value) -> Self {
        Self {
            lead_ms: match phase["ticks"].as_str().unwrap() {
                "on time" => Some(0),
                "ahead" => Some(LEAD_MS),
                "none" => None,
                other => panic!("{other}"),
            },
            knows_time: match phase["pongs"].as_str().unwrap() {
                "with time" => Some(true),
                "without time" => Some(false),
                "none" => None,
                other => panic!("{other}"),
            },
        }
    }
}

/// Plays an edge until a time in the script, and returns whether the client closed the connection.
/// Adds the times of HEARTBEATs to `heartbeats`. It is cancel safe.
pub(super) async fn serve(
    edge: &mut Edge,
    (mode, behaviour): (Mode, Behaviour),
    time: Time,
    until_ms: i64,
    heartbeats: &mut Vec<i64>,
) -> bool {
    loop {
        let mut next_ms = until_ms;
        if let Some(lead_ms) = behaviour.lead_ms {
            if !send_due(edge, mode, lead_ms).await {
                return true;
            }
            let due = mode.next_after(last_tick(edge)).as_ms() - BASE_MS - lead_ms;
            next_ms = next_ms.min(time.now_ms() + due - edge.authority_ms());
        }
        match edge.see_until(time.at(next_ms)).await {
            Seen::Step(Step::Heartbeat { client_time_us }) => {
                heartbeats.push(time.now_ms());
                if !answer(edge, behaviour, client_time_us).await {
                    return true;
                }
            }
            Seen::Step(other) => panic!("{other:?} instead of HEARTBEAT"),
            Seen::Closed => return true,
            Seen::Nothing if time.now_ms() >= until_ms => return false,
            Seen::Nothing => {}
        }
    }
}

/// Returns the last tick that an edge has sent, or the start of the subscription.
pub(super) fn last_tick(edge: &Edge) -> Epoch {
    Epoch::from_ms(BASE_MS + edge.last_ms)
}

/// Sends the ticks that are due, as REPLAY if they are more than a second late.
async fn send_due(edge: &mut Edge, mode: Mode, lead_ms: i64) -> bool {
    let now_ms = BASE_MS + edge.authority_ms();
    let (mut late, mut due) = (Vec::new(), Vec::new());
    let mut next = mode.next_after(last_tick(edge)).as_ms();
    while next <= now_ms + lead_ms {
        let batch = if next < now_ms - 1_000 {
            &mut late
        } else {
            &mut due
        };
        batch.push(next - BASE_MS);
        next += mode.period_ms();
    }
    for (quality, epochs_ms) in [(Quality::Replay, late), (Quality::Normal, due)] {
        let Some(&last) = epochs_ms.last() else {
            continue;
        };
        let frame = edge.batch(mode, quality, epochs_ms);
        edge.last_ms = last;
        if !edge.try_send(&frame).await {
            return false;
        }
    }
    true
}

async fn answer(edge: &mut Edge, behaviour: Behaviour, client_time_us: i64) -> bool {
    let mut frame = Vec::new();
    match behaviour.knows_time {
        Some(true) => {
            let now_us = BASE_US + edge.authority_ms() * 1_000;
            server::pong(client_time_us, now_us, now_us, 10, 0, &mut frame);
        }
        Some(false) => server::pong(client_time_us, 0, 0, u32::MAX, 0, &mut frame),
        None => return true,
    }
    edge.try_send(&frame).await
}

/// Ends a connection as the vectors say.
pub(super) async fn end(mut edge: Edge, ends: &Value) {
    match ends.as_str() {
        Some("eof" | "reset") => {}
        Some("bad frame") => {
            edge.try_send(b"\xf5\x7d\x01\x04\0\0\0\0bad!").await;
        }
        Some("other schema") => {
            let batch = DataBatch {
                schema_version: 2,
                ticks: vec![Tick::default()],
                sent_unix_us: 0,
            };
            let mut frame = Vec::new();
            frame::encode(FrameType::DataBatch, &batch, &mut frame);
            edge.try_send(&frame).await;
        }
        Some(other) => panic!("{other} is no end in the vectors"),
        None => refuse(edge, &ends["error"]).await,
    }
}

/// Sends ERROR, whose code may be one that does not exist, and closes the connection.
pub(super) async fn refuse(mut edge: Edge, error: &Value) {
    let (code, mut frame) = (error["code"].as_str().unwrap(), Vec::new());
    let retry_after_ms = u32::try_from(integer(&error["retry_after_ms"])).unwrap();
    match code.parse::<ErrorCode>() {
        Ok(code) => server::error(code, "as scripted", retry_after_ms, "", &mut frame),
        Err(unknown) => {
            let message = tickstorm_protocol::message::ErrorMsg {
                code: unknown.0,
                retry_after_ms,
                ..Default::default()
            };
            frame::encode(FrameType::Error, &message, &mut frame);
        }
    }
    edge.try_send(&frame).await;
}

/// Waits until the client closes the connection, and returns when.
pub(super) async fn closed_at(edge: &mut Edge, time: Time, until_ms: i64) -> Option<i64> {
    loop {
        match edge.see_until(time.at(until_ms)).await {
            Seen::Step(_) => {}
            Seen::Closed => return Some(time.now_ms()),
            Seen::Nothing => return None,
        }
    }
}
