//! [`Proxy`]: stands between a client and an edge, knows the frames, and makes one mistake that an
//! edge could make.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{FRAME_OVERHEAD, HEADER_LEN, encode};
use tickstorm_protocol::message::{Ack, DataBatch, ErrorMsg, Subscribe};
use tickstorm_testkit::frame::{self, RawFrame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// By how much the mutants of the heartbeat timeout are off.
const TIMEOUT_OFF: Duration = Duration::from_secs(5);
/// How late the ticks of a mutant are.
const TICKS_LATE: Duration = Duration::from_millis(400);
/// How long a client may take to close after the edge has.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(30);
const SECOND: i32 = 0;
const REPLAY: i32 = 2;

/// A mistake of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// None.
    None,
    /// Frames have the CRC32 of zlib.
    WrongPolynomial,
    /// The connection is reset where ERROR should be sent.
    ResetForError,
    /// Ticks are sent before their time.
    EarlyTicks,
    /// Ticks are sent 400 ms after their time.
    LateTicks,
    /// Silent clients are closed 5 s earlier than the ACK says.
    EarlyTimeout,
    /// Silent clients are closed 5 s later than the ACK says.
    LateTimeout,
    /// After a frame that arrived in two pieces, a byte is lost.
    LostByte,
    /// The tick after the resume point is left out.
    ResumeOffByOne,
    /// After the second change of mode, the last ticks of the mode come again.
    DoubledTick,
    /// Ticks that are replayed have quality NORMAL.
    ReplayAsNormal,
    /// ACKs have no edge_id.
    NoEdgeId,
    /// The ACK of AUTH has no frame_rate_limit.
    NoFrameRate,
    /// The ACK of AUTH has no connection_id.
    NoConnectionId,
}

/// The mutated edge.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy for this edge.
    pub(crate) async fn start(edge: SocketAddr, mutation: Mutation) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(client, edge, mutation));
            }
        });
        Self { addr, accepting }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// How the edge's side of a connection ends.
enum End {
    Orderly,
    Reset,
}

async fn carry(client: TcpStream, edge: SocketAddr, mutation: Mutation) {
    let edge = TcpStream::connect(edge).await.unwrap();
    for stream in [&client, &edge] {
        stream.set_nodelay(true).unwrap();
    }
    let (from_client, mut to_client) = client.into_split();
    let (from_edge, to_edge) = edge.into_split();
    let mut requests = tokio::spawn(carry_requests(from_client, to_edge, mutation));
    match carry_answers(from_edge, &mut to_client, mutation).await {
        End::Orderly => {
            let _ = to_client.shutdown().await;
            // What the client still sends is read, so that closing does not reset the connection.
            let _ = timeout(CLOSE_TIME_MAX, &mut requests).await;
            requests.abort();
        }
        End::Reset => {
            to_client.as_ref().set_zero_linger().unwrap();
            requests.abort();
            let _ = requests.await;
            to_client.forget();
        }
    }
}

/// Carries the client's bytes, until it closes.
async fn carry_requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mutation: Mutation) {
    let mut buffer = vec![0; 65_536];
    let mut unfinished = Vec::new();
    let mut has_lost = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut bytes = &buffer[..count];
        let rewritten;
        match mutation {
            Mutation::EarlyTicks | Mutation::ResumeOffByOne => {
                unfinished.extend_from_slice(bytes);
                rewritten = rewrite_requests(&mut unfinished, mutation);
                bytes = &rewritten;
            }
            Mutation::LostByte => {
                if !unfinished.is_empty() && !has_lost {
                    has_lost = true;
                    bytes = &bytes[1..];
                }
                unfinished.extend_from_slice(bytes);
                drop_frames(&mut unfinished);
            }
            Mutation::None
            | Mutation::WrongPolynomial
            | Mutation::ResetForError
            | Mutation::LateTicks
            | Mutation::EarlyTimeout
            | Mutation::LateTimeout
            | Mutation::DoubledTick
            | Mutation::ReplayAsNormal
            | Mutation::NoEdgeId
            | Mutation::NoFrameRate
            | Mutation::NoConnectionId => {}
        }
        // The edge may have closed. The client learns that from what it reads.
        let _ = to.write_all(bytes).await;
    }
    let _ = to.shutdown().await;
}

/// Takes the complete frames from `bytes` and returns them with their SUBSCRIBEs changed.
fn rewrite_requests(bytes: &mut Vec<u8>, mutation: Mutation) -> Vec<u8> {
    let mut rewritten = Vec::new();
    while let Some(raw) = RawFrame::take(bytes) {
        if raw.kind != frame::SUBSCRIBE {
            rewritten.extend(frame::frame(raw.kind, &raw.payload));
            continue;
        }
        let mut subscribe: Subscribe = raw.decode();
        if mutation == Mutation::EarlyTicks {
            subscribe.ahead = true;
        } else if let Some(point) = &mut subscribe.resume_after_epoch_ms {
            *point += 1_000;
        }
        encode(FrameType::Subscribe, &subscribe, &mut rewritten);
    }
    rewritten
}

/// Removes the complete frames from the start of `bytes`, whether they are valid or not.
fn drop_frames(bytes: &mut Vec<u8>) {
    while let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
        let [.., l0, l1, l2, l3] = *header;
        let len = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap();
        let Some(end) = len.checked_add(FRAME_OVERHEAD) else {
            return;
        };
        if bytes.len() < end {
            return;
        }
        bytes.drain(..end);
    }
}

/// Carries the edge's frames, until it closes.
async fn carry_answers(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mutation: Mutation,
) -> End {
    let mut answers = Answers {
        mutation,
        subscribes: 0,
        last_batches: BTreeMap::new(),
    };
    let mut buffer = vec![0; 65_536];
    let mut unfinished = Vec::new();
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return End::Orderly,
            Ok(count) => unfinished.extend_from_slice(&buffer[..count]),
            Err(_) => return End::Reset,
        }
        while let Some(raw) = RawFrame::take(&mut unfinished) {
            if raw.kind == frame::ERROR {
                if mutation == Mutation::ResetForError {
                    return End::Reset;
                }
                let error: ErrorMsg = raw.decode();
                if mutation == Mutation::LateTimeout && error.code == "HEARTBEAT_TIMEOUT" {
                    sleep(TIMEOUT_OFF).await;
                }
            }
            if mutation == Mutation::LateTicks && raw.kind == frame::DATA_BATCH {
                sleep(TICKS_LATE).await;
            }
            let bytes = answers.rewrite(&raw);
            if to.write_all(&bytes).await.is_err() {
                return End::Reset;
            }
        }
    }
}

/// The edge's frames on one connection.
struct Answers {
    mutation: Mutation,
    /// The ACKs of SUBSCRIBE so far.
    subscribes: usize,
    /// The last DATA_BATCH of each mode.
    last_batches: BTreeMap<i32, Vec<u8>>,
}

impl Answers {
    /// Returns what the client gets for a frame of the edge.
    fn rewrite(&mut self, raw: &RawFrame) -> Vec<u8> {
        let mut bytes = frame::frame(raw.kind, &raw.payload);
        match raw.kind {
            frame::ACK => self.rewrite_ack(raw.decode(), &mut bytes),
            frame::DATA_BATCH => {
                let mut batch: DataBatch = raw.decode();
                if self.mutation == Mutation::ReplayAsNormal {
                    for tick in &mut batch.ticks {
                        if tick.quality == REPLAY {
                            tick.quality = 0;
                        }
                    }
                    bytes.clear();
                    encode(FrameType::DataBatch, &batch, &mut bytes);
                }
                self.last_batches.insert(batch.ticks[0].mode, bytes.clone());
            }
            _ => {}
        }
        if self.mutation == Mutation::WrongPolynomial {
            let covered = bytes.len() - 4;
            let checksum = zlib_crc32(&bytes[..covered]);
            bytes[covered..].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }

    fn rewrite_ack(&mut self, mut ack: Ack, bytes: &mut Vec<u8>) {
        let is_of_subscribe = ack.acked_type == u32::from(frame::SUBSCRIBE);
        self.subscribes += usize::from(is_of_subscribe);
        if self.mutation == Mutation::NoEdgeId {
            ack.edge_id.clear();
        }
        if self.mutation == Mutation::NoFrameRate {
            ack.frame_rate_limit = 0;
        }
        if self.mutation == Mutation::NoConnectionId {
            ack.connection_id.clear();
        }
        if self.mutation == Mutation::EarlyTimeout {
            ack.heartbeat_timeout_ms += u32::try_from(TIMEOUT_OFF.as_millis()).unwrap();
        }
        if self.mutation == Mutation::ResumeOffByOne && is_of_subscribe {
            ack.start_epoch_ms -= 1_000;
        }
        bytes.clear();
        encode(FrameType::Ack, &ack, bytes);
        // The third SUBSCRIBE is the second change, back to the first mode.
        if self.mutation == Mutation::DoubledTick && self.subscribes == 3 && is_of_subscribe {
            bytes.extend_from_slice(&self.last_batches[&SECOND]);
        }
    }
}

fn zlib_crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
        })
    })
}
