//! [`Connection`]: a connection that sends any bytes, and judges each frame that arrives by the
//! rules that hold for every frame.
//!
//! End of file, a reset, and an end without close_notify are told apart. What only some cases
//! expect, such as the error code of a refusal, is in `expect`.

mod expect;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tickstorm_client::estimate::{Estimator, PongExchange};
use tickstorm_protocol::frame::{Decoder, Rules};
use tickstorm_protocol::message::{
    Ack, BATCH_TICKS_MAX, DataBatch, ErrorMsg, GoingAway, Pong, SCHEMA_VERSION,
};
use tickstorm_protocol::{ErrorCode, FrameType};
use tickstorm_timebase::Mono;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

pub(super) use self::expect::{Subscribed, instead};
use super::bytes;
use super::server::{Server, Socket};
use super::stop::{Outcome, Stop, ensure, fail, inconclusive};
use super::welcome::is_valid_connection_id;

/// The frames that are sent at once: one less than any configuration accepts, since frames may
/// arrive closer together than they were sent.
const BURST: u32 = 19;
/// The frames that a SUBSCRIBE counts as.
pub(super) const SUBSCRIBE_COST: u32 = 10;
/// The longest interval of the HEARTBEATs that keep a connection alive, so that authority time is
/// known well.
const BEAT_MAX: Duration = Duration::from_secs(2);
/// The longest interval is this many times the time of a frame, if that is longer. A low frame rate
/// then leaves most frames to the case.
const BEAT_FRAMES: u32 = 4;
/// The time limit for writing, which a server that does not read exceeds.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);
const READ_LEN: usize = 16_384;

/// A tick as it arrived.
#[derive(Clone, Debug)]
pub(super) struct SeenTick {
    pub(super) mode: i32,
    pub(super) epoch_ms: i64,
    pub(super) quality: i32,
    /// When the server began to send its batch, as the batch says.
    pub(super) sent_unix_us: i64,
    pub(super) read_at: Mono,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order.
    Eof,
    /// By a reset.
    Reset,
    /// By an end of file of TCP, without a close_notify of TLS.
    WithoutCloseNotify,
}

/// What happened next on a connection.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Ack(Ack),
    Pong(PongExchange),
    /// Ticks, which have been added to those of the connection.
    Ticks,
    Error(ErrorMsg),
    End(End),
    TimeUp,
}

/// A frame whose magic, version, length and checksum are valid.
struct Received {
    type_byte: u8,
    payload: Vec<u8>,
}

/// A connection to the server.
pub(super) struct Connection {
    server: Arc<Server>,
    socket: Box<dyn Socket>,
    decoder: Decoder,
    buffer: Vec<u8>,
    frames: VecDeque<Received>,
    opened_at: Mono,
    /// When the last bytes arrived.
    read_at: Mono,
    has_ended: bool,
    /// The name of the connection in the ACK of AUTH.
    connection_id: Option<String>,
    /// Learned from the PONGs to HEARTBEATs that carry this machine's time.
    estimator: Estimator,
    /// All ticks that have arrived and were not taken.
    ticks: Vec<SeenTick>,
    /// The interval of the HEARTBEATs that are sent while this waits, and when the next is due.
    beat: Option<(Duration, Mono)>,
    /// When as many frames as [`BURST`] may be sent again at once.
    rested_at: Mono,
    /// Whether SUBSCRIBE was sent, so that the server may answer NO_TIME.
    has_subscribed: bool,
}

impl Connection {
    pub(super) fn new(socket: Box<dyn Socket>, server: Arc<Server>) -> Self {
        let now = Server::now();
        Self {
            server,
            socket,
            decoder: Decoder::default(),
            buffer: vec![0; READ_LEN],
            frames: VecDeque::new(),
            opened_at: now,
            read_at: now,
            has_ended: false,
            connection_id: None,
            estimator: Estimator::new(),
            ticks: Vec::new(),
            beat: None,
            rested_at: now,
            has_subscribed: false,
        }
    }

    /// Returns when the last bytes arrived.
    pub(super) fn read_at(&self) -> Mono {
        self.read_at
    }

    /// Returns by how much a time that was measured on this connection may exceed a limit without a
    /// fault of the server.
    pub(super) fn allowance(&self) -> Duration {
        self.server.allowance_since(self.opened_at)
    }

    /// Returns the name that the ACK of AUTH gave to the connection.
    pub(super) fn connection_id(&self) -> Option<&str> {
        self.connection_id.as_deref()
    }

    /// Returns the ticks that have arrived since this was last called.
    pub(super) fn take_ticks(&mut self) -> Vec<SeenTick> {
        std::mem::take(&mut self.ticks)
    }

    /// Returns the ticks that have arrived and were not taken.
    pub(super) fn ticks(&self) -> &[SeenTick] {
        &self.ticks
    }

    /// Returns the earliest and the latest authority time that it may have been at `at`, in
    /// microseconds.
    pub(super) fn unix_us_at(&self, at: Mono) -> Outcome<(i64, i64)> {
        let Some(estimate) = self.estimator.estimate(at) else {
            inconclusive!("no PONG told the time");
        };
        let error_us = i64::try_from(estimate.error_us).unwrap_or(i64::MAX);
        let unix_us = estimate.unix.as_micros();
        Ok((
            unix_us.saturating_sub(error_us),
            unix_us.saturating_add(error_us),
        ))
    }

    /// Makes this send HEARTBEATs while it waits.
    pub(super) fn keep_alive(&mut self) -> Outcome<()> {
        let interval = self.server.welcome()?.heartbeat_interval() * 2 / 3;
        let interval = interval.min(BEAT_MAX.max(self.frame_time()? * BEAT_FRAMES));
        self.beat = Some((interval, Server::now() + interval));
        Ok(())
    }

    /// Waits until frames that count as `cost` may be sent without exceeding any frame rate, and
    /// counts them.
    pub(super) async fn rest(&mut self, cost: u32) -> Outcome<()> {
        self.wait_for_frames(cost).await?;
        self.count_frames(cost)
    }

    /// Waits until frames that count as `cost` may be sent, and keeps the connection alive
    /// meanwhile. What arrives must be ticks and PONGs.
    pub(super) async fn wait_for_frames(&mut self, cost: u32) -> Outcome<()> {
        loop {
            let early = self.early_by(cost)?;
            if early.is_zero() {
                return Ok(());
            }
            if self.beat.is_none() {
                sleep(early).await;
            } else {
                self.listen_for(early).await?;
            }
        }
    }

    /// Counts frames that are about to be sent.
    fn count_frames(&mut self, cost: u32) -> Outcome<()> {
        self.rested_at = self.rested_at.max(Server::now()) + self.frame_time()? * cost;
        Ok(())
    }

    /// Returns how much too early frames that count as `cost` would be now.
    fn early_by(&self, cost: u32) -> Outcome<Duration> {
        let (frame_time, now) = (self.frame_time()?, Server::now());
        let rested_at = self.rested_at.max(now) + frame_time * cost;
        // More than a burst at once takes a connection that is fully rested.
        let at_once = frame_time * BURST.max(cost);
        Ok(rested_at.since(now).saturating_sub(at_once))
    }

    /// Returns the time of a frame in the long run.
    fn frame_time(&self) -> Outcome<Duration> {
        let rate = self.server.welcome()?.frame_rate();
        Ok(Duration::from_secs(1) / rate)
    }

    /// Notes that SUBSCRIBE is sent, so that the server may say that it does not know the time.
    pub(super) fn note_subscribe(&mut self) {
        self.has_subscribed = true;
    }

    /// Sends bytes. If the server has closed the connection, what it sent before says why, so a
    /// failure to write is ignored.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let sending = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        let _ = timeout(WRITE_TIME_MAX, sending).await;
    }

    /// Sends bytes in two segments or, with TLS, records.
    pub(super) async fn send_split(&mut self, bytes: &[u8], at: usize, pause: Duration) {
        let (first, second) = bytes.split_at(at);
        self.send(first).await;
        sleep(pause).await;
        self.send(second).await;
    }

    /// Closes the sending side.
    pub(super) async fn finish(&mut self) {
        let _ = timeout(WRITE_TIME_MAX, self.socket.shutdown()).await;
    }

    /// Sends a HEARTBEAT with this machine's time, whose PONG becomes a time sample.
    pub(super) async fn send_heartbeat(&mut self) {
        let now_us = micros(Server::now());
        self.send(&bytes::heartbeat(now_us)).await;
    }

    /// Waits for what happens next, until `deadline` at most.
    pub(super) async fn step(&mut self, deadline: Mono) -> Outcome<Step> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                match self.handle_frame(&frame)? {
                    Some(step) => return Ok(step),
                    None => continue,
                }
            }
            if self.has_ended {
                fail!("the connection had ended before");
            }
            let now = Server::now();
            if now >= deadline {
                return Ok(Step::TimeUp);
            }
            let wake_at = match self.beat {
                Some((interval, due)) if due <= now => {
                    let early = self.early_by(1)?;
                    if early.is_zero() {
                        self.beat = Some((interval, now + interval));
                        self.count_frames(1)?;
                        self.send_heartbeat().await;
                    } else {
                        self.beat = Some((interval, now + early));
                    }
                    continue;
                }
                Some((_, due)) => due.min(deadline),
                None => deadline,
            };
            let read = timeout(wake_at.since(now), self.socket.read(&mut self.buffer)).await;
            let Ok(read) = read else { continue };
            self.read_at = Server::now();
            let end = match read {
                Ok(0) => End::Eof,
                Ok(count) => {
                    self.decode(count)?;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => End::WithoutCloseNotify,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
                Err(error) => fail!("cannot read: {error}"),
            };
            self.has_ended = true;
            ensure!(
                !self.decoder.has_kept(),
                "the connection ended in the middle of a frame ({end:?})"
            );
            return Ok(Step::End(end));
        }
    }

    fn decode(&mut self, count: usize) -> Outcome<()> {
        let mut rest = &self.buffer[..count];
        loop {
            match self.decoder.decode(Rules::CLIENT, &mut rest) {
                Ok(Some(frame)) => self.frames.push_back(Received {
                    type_byte: frame.type_byte(),
                    payload: frame.payload().to_vec(),
                }),
                Ok(None) => return Ok(()),
                Err(error) => fail!("the server sent an invalid frame: {error}"),
            }
        }
    }

    /// Returns the step that a frame is, or `None` if the frame is skipped.
    fn handle_frame(&mut self, frame: &Received) -> Outcome<Option<Step>> {
        let Some(frame_type) = FrameType::from_byte(frame.type_byte) else {
            return Ok(None);
        };
        Ok(Some(match frame_type {
            FrameType::Ack => Step::Ack(decode(frame_type, frame)?),
            FrameType::Pong => self.handle_pong(&decode(frame_type, frame)?)?,
            FrameType::DataBatch => {
                self.handle_batch(&decode(frame_type, frame)?)?;
                Step::Ticks
            }
            FrameType::Error => Step::Error(self.handle_error(decode(frame_type, frame)?)?),
            FrameType::GoingAway => {
                let _: GoingAway = decode(frame_type, frame)?;
                return Ok(None);
            }
            FrameType::Auth | FrameType::Subscribe | FrameType::Heartbeat => {
                fail!(
                    "the server sent {}, which only clients send",
                    frame_type.name()
                )
            }
        }))
    }

    fn handle_pong(&mut self, pong: &Pong) -> Outcome<Step> {
        let has_time = pong.received_unix_us != 0 && pong.sent_unix_us != 0;
        if has_time {
            ensure!(
                pong.received_unix_us <= pong.sent_unix_us,
                "a PONG was received at {} and sent before that, at {}",
                pong.received_unix_us,
                pong.sent_unix_us
            );
        } else {
            ensure!(
                pong.error_bound_us == u32::MAX,
                "a PONG without a time has the error bound {}",
                pong.error_bound_us
            );
        }
        let exchange = PongExchange {
            t1_us: pong.client_time_us,
            t2_us: pong.received_unix_us,
            t3_us: pong.sent_unix_us,
            t4_us: micros(self.read_at),
            error_bound_us: pong.error_bound_us,
            clock_error_us: pong.clock_error_us,
        };
        // Other values than this machine's time were sent to see whether they are echoed.
        let is_time = (1..=exchange.t4_us).contains(&exchange.t1_us);
        if is_time && has_time {
            self.estimator.handle_exchange(&exchange);
        }
        Ok(Step::Pong(exchange))
    }

    /// Checks what holds for every batch, and adds its ticks to those of the connection.
    fn handle_batch(&mut self, batch: &DataBatch) -> Outcome<()> {
        ensure!(
            batch.schema_version == SCHEMA_VERSION,
            "a DATA_BATCH has schema_version {}",
            batch.schema_version
        );
        let count = batch.ticks.len();
        ensure!(
            (1..=BATCH_TICKS_MAX).contains(&count),
            "a DATA_BATCH has {count} ticks"
        );
        for tick in &batch.ticks {
            let Some(mode) = tick.known_mode() else {
                fail!("a tick has the unknown mode {}", tick.mode)
            };
            ensure!(
                tick.epoch_ms % mode.period_ms() == 0,
                "epoch_ms {} of mode {} is not a multiple of {}",
                tick.epoch_ms,
                mode.name(),
                mode.period_ms()
            );
            self.ticks.push(SeenTick {
                mode: tick.mode,
                epoch_ms: tick.epoch_ms,
                quality: tick.quality,
                sent_unix_us: batch.sent_unix_us,
                read_at: self.read_at,
            });
        }
        Ok(())
    }

    /// Returns whether the server may say by this code that it cannot serve this client now, which
    /// is no fault.
    fn may_be_unavailable(&self, code: ErrorCode) -> bool {
        let is_authenticated = self.connection_id.is_some();
        match code {
            ErrorCode::ServerFull | ErrorCode::TooManyConnections | ErrorCode::AuthRateLimited => {
                !is_authenticated
            }
            ErrorCode::NoTime => is_authenticated && self.has_subscribed,
            ErrorCode::ServerDraining => true,
            ErrorCode::BadMagic
            | ErrorCode::UnsupportedVersion
            | ErrorCode::UnknownType
            | ErrorCode::MessageTooLarge
            | ErrorCode::BadChecksum
            | ErrorCode::MalformedPayload
            | ErrorCode::AuthRequired
            | ErrorCode::AuthFailed
            | ErrorCode::AlreadyAuthenticated
            | ErrorCode::AuthTimeout
            | ErrorCode::InvalidSubscription
            | ErrorCode::UnexpectedMessage
            | ErrorCode::RateLimited
            | ErrorCode::HeartbeatTimeout
            | ErrorCode::SlowConsumer
            | ErrorCode::TimeStepped
            | ErrorCode::Internal => false,
        }
    }

    /// Checks what holds for every ERROR.
    fn handle_error(&self, error: ErrorMsg) -> Outcome<ErrorMsg> {
        let Ok(code) = error.code.parse::<ErrorCode>() else {
            fail!("ERROR has the unknown code {:?}", error.code)
        };
        if self.may_be_unavailable(code) {
            let message = error.message.escape_debug();
            inconclusive!("the server answered {code}: {message}");
        }
        ensure!(
            is_valid_connection_id(&error.connection_id),
            "{}: the connection_id is {:?}",
            error.code,
            error.connection_id
        );
        // An invalid name in the ACK is another fault, which has been reported.
        let named = self.connection_id.as_ref();
        if let Some(name) = named.filter(|name| is_valid_connection_id(name)) {
            ensure!(
                *name == error.connection_id,
                "the ACK calls the connection {name:?}, and ERROR {:?}",
                error.connection_id
            );
        }
        Ok(error)
    }
}

fn decode<M: Message + Default>(frame_type: FrameType, frame: &Received) -> Outcome<M> {
    M::decode(frame.payload.as_slice()).map_err(|error| {
        let name = frame_type.name();
        Stop::Failed(format!("the payload of {name} does not decode: {error}"))
    })
}

fn micros(at: Mono) -> i64 {
    i64::try_from(at.as_nanos() / 1_000).unwrap_or(i64::MAX)
}
