//! The baseline for sending: a bare loop of `send(2)` over the descriptors that the edge's fan-out
//! has just used, on the same threads. Its cost is what plain sockets cost on this machine. With
//! TLS, the loop also seals: each frame in one record, with the key of its connection, and with
//! nothing else that TLS needs. Its cost is then what sockets and cryptography cost.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::aead::{Aad, Nonce};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send as send_once};
use tickstorm_edge::{BareSealing, Edge};

use crate::frame;
use crate::machine::{CpuTime, now_ns};
use crate::orders::{BareSends, BurstPlan};

const FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// A sleep ends this long before its deadline, and the thread spins for the remaining time, as the
/// edge does before a tick.
const SPIN: Duration = Duration::from_micros(150);

/// The pause before a full socket is tried again.
const STALL: Duration = Duration::from_micros(50);

/// The number of stalls after which a send gives up its socket: 10 s in all.
const STALLS_MAX: u64 = 200_000;

/// Sends the ticks of `burst` from all shards at the same time.
pub(super) async fn send(edge: &Edge, burst: BurstPlan, offset_ns: i64) -> BareSends {
    let sent_unix_us = offset_ns.saturating_add_unsigned(burst.at_ns) / 1_000;
    let frames = frame::bare(&burst, sent_unix_us);
    let total = Arc::new(Mutex::new(BareSends::default()));
    let sum = Arc::clone(&total);
    edge.on_shards(Arc::new(
        move |sockets: &[RawFd], keys: &mut [BareSealing<'_>]| {
            let mut bare = BareSends {
                sockets: sockets.len() as u64,
                ..BareSends::default()
            };
            for (number, frame) in (1..).zip(&frames) {
                // A batch can't leave before its last tick is due.
                let last = (number * burst.per_frame)
                    .min(burst.ticks)
                    .saturating_sub(1);
                wait_until(burst.due_ns(last));
                let before = CpuTime::of_thread();
                if keys.is_empty() {
                    send_all(sockets, frame, &mut bare);
                } else {
                    seal_and_send_all(sockets, keys, frame, &mut bare);
                }
                bare.cpu_us += CpuTime::of_thread().total_us - before.total_us;
            }
            if let Ok(mut sum) = sum.lock() {
                sum.cpu_us += bare.cpu_us;
                sum.sockets += bare.sockets;
                sum.sends += bare.sends;
                sum.stalls += bare.stalls;
                sum.failed += bare.failed;
            }
        },
    ))
    .await;
    total
        .lock()
        .map_or_else(|_| BareSends::default(), |total| *total)
}

fn send_all(sockets: &[RawFd], frame: &[u8], bare: &mut BareSends) {
    for socket in sockets {
        match send_once(*socket, frame, FLAGS) {
            Ok(sent) if sent == frame.len() => bare.sends += 1,
            outcome => finish(*socket, frame, outcome, bare),
        }
    }
}

/// The length of a record's header.
const HEADER: usize = 5;
/// The length of a record's content type and authentication tag.
const TYPE_AND_TAG: usize = 17;
/// The content type of application data.
const APPLICATION_DATA: u8 = 23;

fn seal_and_send_all(
    sockets: &[RawFd],
    keys: &mut [BareSealing<'_>],
    frame: &[u8],
    bare: &mut BareSends,
) {
    let protected = frame.len() + TYPE_AND_TAG;
    let [.., high, low] = protected.to_be_bytes();
    let header = [APPLICATION_DATA, 3, 3, high, low];
    let mut record = vec![0; HEADER + protected];
    record[..HEADER].copy_from_slice(&header);
    for (socket, key) in sockets.iter().zip(keys) {
        let mut nonce = key.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(key.count.to_be_bytes()) {
            *byte ^= count;
        }
        *key.count += 1;
        let (sealed, type_and_tag) = record[HEADER..].split_at_mut(frame.len());
        let sealing = key.context.seal_out_of_place_scatter(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(header),
            frame,
            sealed,
            &[APPLICATION_DATA],
            type_and_tag,
        );
        if sealing.is_err() {
            bare.failed += 1;
            continue;
        }
        match send_once(*socket, &record, FLAGS) {
            Ok(sent) if sent == record.len() => bare.sends += 1,
            outcome => finish(*socket, &record, outcome, bare),
        }
    }
}

/// Finishes a partial send: the stream must end at the boundary of a frame or record, however full
/// the socket is.
#[cold]
fn finish(socket: RawFd, frame: &[u8], outcome: Result<usize, Errno>, bare: &mut BareSends) {
    let (mut sent, mut outcome, mut stalls) = (0, outcome, 0);
    loop {
        match outcome {
            Ok(more) => sent += more,
            Err(Errno::EAGAIN | Errno::EINTR) if stalls < STALLS_MAX => {
                stalls += 1;
                std::thread::sleep(STALL);
            }
            Err(_) => {
                bare.failed += 1;
                break;
            }
        }
        if sent == frame.len() {
            bare.sends += 1;
            break;
        }
        outcome = send_once(socket, &frame[sent..], FLAGS);
    }
    bare.stalls += u64::from(stalls > 0);
}

fn wait_until(at_ns: u64) {
    loop {
        let left = Duration::from_nanos(at_ns.saturating_sub(now_ns()));
        if left.is_zero() {
            return;
        }
        if left > SPIN {
            std::thread::sleep(left - SPIN);
        } else {
            std::hint::spin_loop();
        }
    }
}
