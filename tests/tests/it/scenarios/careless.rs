//! A client that cares for little, and has one bad habit on top. It knows just enough of the
//! protocol to get ticks, and always comes back.

use std::io;
use std::time::Duration;

use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{Ack, Auth, DataBatch, Heartbeat, Subscribe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use prost::Message;

/// A bad habit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    NeverResumes,
    NeverWaits,
    NeverHeartbeats,
    DiesAtUnknownTypes,
    TrustsChecksums,
    IgnoresGoingAway,
}

/// The wait before each connection, which is about right after most hints.
const WAIT: Duration = Duration::from_millis(500);
/// The interval between HEARTBEATs.
const INTERVAL: Duration = Duration::from_secs(1);

/// Connects again and again.
pub(super) async fn run(addr: &str, habit: Habit) {
    let (mut last_ms, mut cookie) = (None, Vec::new());
    loop {
        // Whatever the reason, this client comes back.
        let _ = follow(addr, habit, &mut last_ms, &mut cookie).await;
        if habit != Habit::NeverWaits {
            sleep(WAIT).await;
        }
    }
}

async fn follow(
    addr: &str,
    habit: Habit,
    last_ms: &mut Option<i64>,
    cookie: &mut Vec<u8>,
) -> io::Result<()> {
    let mut socket = TcpStream::connect(addr).await?;
    let auth = Auth {
        username: "stream_user".into(),
        password: "stream_pass".into(),
        cookie: cookie.clone(),
        ..Auth::default()
    };
    let subscribe = Subscribe {
        resume_after_epoch_ms: last_ms.filter(|_| habit != Habit::NeverResumes),
        ..Subscribe::default()
    };
    let mut out = Vec::new();
    frame::encode(FrameType::Auth, &auth, &mut out);
    frame::encode(FrameType::Subscribe, &subscribe, &mut out);
    let mut input = Vec::new();
    loop {
        socket.write_all(&std::mem::take(&mut out)).await?;
        let next_heartbeat = Instant::now() + INTERVAL;
        loop {
            while let Some((type_byte, payload)) = take(&mut input) {
                match FrameType::from_byte(type_byte) {
                    Some(FrameType::DataBatch) => {
                        let batch = DataBatch::decode(&payload[..])?;
                        *last_ms = batch.ticks.last().map(|tick| tick.epoch_ms);
                    }
                    Some(FrameType::Ack) => {
                        let ack = Ack::decode(&payload[..])?;
                        if (1..=64).contains(&ack.cookie.len()) {
                            *cookie = ack.cookie;
                        }
                    }
                    None if habit == Habit::DiesAtUnknownTypes => return Ok(()),
                    Some(_) | None => {}
                }
            }
            match timeout_at(next_heartbeat, socket.read_buf(&mut input)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(read) => drop(read?),
                Err(_) => break,
            }
        }
        if habit != Habit::NeverHeartbeats {
            frame::encode(FrameType::Heartbeat, &Heartbeat::default(), &mut out);
        }
    }
}

/// Takes the type and the payload of a complete frame off the input, whatever its checksum.
fn take(input: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let len: [u8; 4] = input.get(4..8)?.try_into().unwrap();
    let end = usize::try_from(u32::from_be_bytes(len)).unwrap() + 12;
    let frame = input.get(..end)?.to_vec();
    input.drain(..end);
    Some((frame[3], frame[8..end - 4].to_vec()))
}
