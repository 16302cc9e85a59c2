//! The baseline for sending: a bare loop of `send(2)` over the descriptors that the edge's fan-out
//! has just used, on the same threads. Its cost is what plain sockets cost on this machine.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send as send_once};
use tickstorm_edge::Edge;

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
    edge.on_shards(Arc::new(move |sockets: &[RawFd]| {
        let one = send_all(sockets, &frames, &burst);
        if let Ok(mut sum) = sum.lock() {
            sum.cpu_us += one.cpu_us;
            sum.sockets += one.sockets;
            sum.sends += one.sends;
            sum.stalls += one.stalls;
            sum.failed += one.failed;
        }
    }))
    .await;
    total
        .lock()
        .map_or_else(|_| BareSends::default(), |total| *total)
}

/// Sends each frame to all sockets when its last tick is due: a batch can't leave before its last
/// tick is due.
fn send_all(sockets: &[RawFd], frames: &[Vec<u8>], burst: &BurstPlan) -> BareSends {
    let mut bare = BareSends {
        sockets: sockets.len() as u64,
        ..BareSends::default()
    };
    let mut number = 0;
    for frame in frames {
        number = (number + burst.per_frame).min(burst.ticks);
        wait_until(burst.due_ns(number.saturating_sub(1)));
        let before = CpuTime::of_thread();
        for socket in sockets {
            match send_once(*socket, frame, FLAGS) {
                Ok(sent) if sent == frame.len() => bare.sends += 1,
                outcome => finish(*socket, frame, outcome, &mut bare),
            }
        }
        bare.cpu_us += CpuTime::of_thread().total_us - before.total_us;
    }
    bare
}

/// Finishes a partial send: the stream must end at a frame's boundary, however full the socket is.
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
