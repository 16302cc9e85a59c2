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

pub(super) use self::expect::Subscribed;
use super::bytes;
use super::server::{Server, Socket};
use super::stop::{Outcome, Stop, ensure, fail, skip};

/// The frames that are accepted at once, whatever the configuration.
const BURST: u32 = 20;
/// The frames that a SUBSCRIBE counts as.
pub(super) const SUBSCRIBE_COST: u32 = 10;
/// The longest interval of the HEARTBEATs that keep a connection alive, so that authority time is
/// known well.
const BEAT_MAX: Duration = Duration::from_secs(2);
/// The time limit for writing, which a server that does not read exceeds.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);
const READ_LEN: usize = 16_384;
/// The codes by which a server says that it cannot serve this client now, which is no fault.
const UNAVAILABLE: [ErrorCode; 5] = [
    ErrorCode::ServerFull,
    ErrorCode::ServerDraining,
    ErrorCode::TooManyConnections,
    ErrorCode::AuthRateLimited,
    ErrorCode::NoTime,
];

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
            read_at: now,
            has_ended: false,
            connection_id: None,
            estimator: Estimator::new(),
            ticks: Vec::new(),
            beat: None,
            rested_at: now,
        }
    }

    /// Returns when the last bytes arrived.
    pub(super) fn read_at(&self) -> Mono {
        self.read_at
    }

    /// Returns by how much a measured time may exceed a limit without a fault of the server.
    pub(super) fn allowance(&self) -> Duration {
        self.server.allowance()
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
            skip!("no PONG told the time");
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
        let interval = interval.min(BEAT_MAX);
        self.beat = Some((interval, Server::now() + interval));
        Ok(())
    }

    /// Waits until frames that count as `cost` may be sent without exceeding any frame rate.
    pub(super) async fn rest(&mut self, cost: u32) -> Outcome<()> {
        let excess = self.count_frames(cost)?;
        sleep(excess).await;
        Ok(())
    }

    /// Counts frames, and returns how much too early they would be now.
    fn count_frames(&mut self, cost: u32) -> Outcome<Duration> {
        let rate = self.server.welcome()?.ack.frame_rate_limit.max(1);
        let (share, now) = (Duration::from_secs(1) / rate, Server::now());
        self.rested_at = self.rested_at.max(now) + share * cost;
        Ok(self.rested_at.since(now).saturating_sub(share * BURST))
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
                    self.beat = Some((interval, now + interval));
                    self.count_frames(1)?;
                    self.send_heartbeat().await;
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

    /// Checks what holds for every ERROR.
    fn handle_error(&self, error: ErrorMsg) -> Outcome<ErrorMsg> {
        let Ok(code) = error.code.parse::<ErrorCode>() else {
            fail!("ERROR has the unknown code {:?}", error.code)
        };
        if UNAVAILABLE.contains(&code) {
            let message = error.message.escape_debug();
            skip!("the server answered {code}: {message}");
        }
        check_connection_id(&error.connection_id).map_err(|stop| stop.about(&error.code))?;
        if let Some(name) = &self.connection_id {
            ensure!(
                *name == error.connection_id,
                "the ACK calls the connection {name:?}, and ERROR {:?}",
                error.connection_id
            );
        }
        Ok(error)
    }
}

/// Checks the form of a connection's name.
fn check_connection_id(id: &str) -> Outcome<()> {
    let is_valid = (1..=40).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(is_valid, "the connection_id is {id:?}");
    Ok(())
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
