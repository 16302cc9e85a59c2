//! Reads and the frames in them: the hot path of the generator.

use std::collections::HashMap;

use nix::sys::epoll::EpollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tickstorm_client::estimate::PongExchange;
use tickstorm_protocol::message::{ErrorMsg, Pong};

use super::{Worker, now_ns};
use crate::generator::client::{ClientStage, Pace};
use crate::generator::connection_end::ConnectionEnd;
use crate::generator::known::TakenFrame;

/// The largest number of bytes per read, not counting the start of a frame kept from the previous
/// read.
const READ_LEN: usize = 64 * 1_024;
/// Room for the start of a frame or record kept from the previous read, which is shorter than the
/// largest frame.
const PARTIAL_FRAME_LEN: usize = 66 * 1_024;
/// The largest number of PONGs kept for learning authority time.
const SAMPLES_MAX: usize = 1_000;
/// The interval between reads of clients that read one byte per second, in nanoseconds.
const TRICKLE_NS: u64 = 1_000_000_000;

/// Allocates the buffer for reads.
pub(super) fn scratch() -> Vec<u8> {
    vec![0; PARTIAL_FRAME_LEN + READ_LEN]
}

impl Worker {
    /// Handles an event of the client in `slot`.
    pub(super) fn handle(&mut self, slot: u32, flags: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let Some(reader) = self.clients.reader(slot) else {
            return;
        };
        if reader.account.is_none() {
            self.greet_if_new(slot);
        }
        let Some(reader) = self.clients.reader(slot) else {
            return;
        };
        if reader.pace == Pace::Eager {
            if flags.intersects(EpollFlags::EPOLLIN | ended) {
                self.read(slot, READ_LEN, flags.intersects(ended));
            }
        } else if flags.intersects(ended) {
            self.end(slot, &ConnectionEnd::ClosedByEdge);
        }
    }

    #[cold]
    fn greet_if_new(&mut self, slot: u32) {
        let client = self.clients.of(slot);
        if client.is_some_and(|client| client.state == ClientStage::Connecting) {
            self.greet(slot);
        }
    }

    /// Reads one byte for each client that reads one byte per second, if a second has passed.
    pub(super) fn trickle(&mut self) {
        let now = self.now_ns;
        if now < self.trickled_ns + TRICKLE_NS {
            return;
        }
        self.trickled_ns = now;
        let slots = self.clients.slot_count();
        for slot in 0..u32::try_from(slots).unwrap_or(u32::MAX) {
            let reader = self.clients.reader(slot);
            if reader.is_some_and(|reader| reader.pace == Pace::Trickle) {
                self.read(slot, 1, false);
            }
        }
    }

    /// Reads `most` bytes at a time until the socket is empty, or just once if `most` is 1. A short
    /// read means that it is empty, unless the connection `has_ended`: no other event reports that.
    fn read(&mut self, slot: u32, most: usize, has_ended: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        loop {
            let kept = self.take_partial_input(slot, &mut scratch);
            let Some(socket) = self.clients.socket(slot) else {
                break;
            };
            let room = &mut scratch[kept..kept + most];
            self.meter.pause();
            let received = match recv(socket, room, RecvFlags::DONTWAIT) {
                Ok((_, received @ 1..)) => received,
                Ok(_) if self.setup.tls.is_some() => {
                    self.end(slot, &ConnectionEnd::Truncated);
                    break;
                }
                Ok(_) => {
                    self.end(slot, &ConnectionEnd::ClosedByEdge);
                    break;
                }
                Err(Errno::AGAIN) => {
                    self.keep_partial_input(slot, &scratch[..kept]);
                    break;
                }
                Err(Errno::INTR) => {
                    self.keep_partial_input(slot, &scratch[..kept]);
                    continue;
                }
                Err(errno) => {
                    self.end(slot, &ConnectionEnd::Receive(errno));
                    break;
                }
            };
            self.now_ns = now_ns();
            self.meter.resume(self.now_ns);
            let input = &mut scratch[..kept + received];
            if self.setup.tls.is_some() {
                self.handle_records(slot, input);
            } else {
                self.handle_frames(slot, input);
            }
            if (received < most && !has_ended) || most == 1 {
                break;
            }
        }
        self.scratch = scratch;
    }

    /// The incomplete input of clients, by slot: frames, or records if clients use TLS.
    fn partial_input(&mut self) -> &mut HashMap<u32, Vec<u8>> {
        if self.setup.tls.is_some() {
            &mut self.partial_records
        } else {
            &mut self.partial_frames
        }
    }

    /// Moves the kept start of a frame or record to the front of `scratch` and returns its length.
    /// Nearly always no client has one.
    fn take_partial_input(&mut self, slot: u32, scratch: &mut [u8]) -> usize {
        let partial_input = self.partial_input();
        if partial_input.is_empty() {
            return 0;
        }
        partial_input.remove(&slot).map_or(0, |partial| {
            scratch[..partial.len()].copy_from_slice(&partial);
            partial.len()
        })
    }

    pub(super) fn keep_partial_input(&mut self, slot: u32, partial: &[u8]) {
        if !partial.is_empty() {
            self.partial_input().insert(slot, partial.to_vec());
        }
    }

    /// Handles the frames at the front of `bytes`, which start with the kept start of a frame.
    pub(super) fn handle_frames(&mut self, slot: u32, bytes: &[u8]) {
        let at_ns = self.now_ns;
        let Some(reader) = self.clients.reader(slot) else {
            return;
        };
        if reader.account.is_none() && self.handle_echo(slot) {
            return;
        }
        let mut input = bytes;
        let period_ms = self.setup.mode.period_ms();
        loop {
            let (setup, shared) = (&self.setup, &self.shared);
            match self.frames.take(&mut input, &mut self.retired) {
                TakenFrame::Ticks(known) => {
                    self.meter.begin();
                    let ticks = known.ticks;
                    let due = || shared.due(ticks, setup.lead);
                    known.arrivals.record(at_ns, due);
                    if ticks.bare {
                        continue;
                    }
                    let Some(reader) = self.clients.reader(slot) else {
                        return;
                    };
                    let faults = &mut self.harvest.faults;
                    match &mut reader.account {
                        Some(account) => {
                            account.take(ticks.first_ms, ticks.last_ms, period_ms, faults);
                        }
                        None => faults.strange += ticks.count,
                    }
                }
                TakenFrame::Ack(ack) => self.handle_ack(slot, ack),
                TakenFrame::Pong(pong) => self.handle_pong(&pong, at_ns),
                TakenFrame::Refused(error) => {
                    let ErrorMsg { code, message, .. } = error;
                    return self.end(slot, &ConnectionEnd::Refused { code, message });
                }
                TakenFrame::Ignored => {}
                TakenFrame::Incomplete => break,
                TakenFrame::Broken(broken) => {
                    self.harvest.faults.broken += 1;
                    return self.end(slot, &ConnectionEnd::Broken(broken));
                }
            }
            if self.clients.reader(slot).is_none() {
                return;
            }
        }
        if !input.is_empty() {
            self.partial_frames.insert(slot, input.to_vec());
        }
    }

    /// Counts an answer of the bare echo loop, which answers one message at a time. Returns false
    /// if the client speaks the protocol.
    #[cold]
    fn handle_echo(&mut self, slot: u32) -> bool {
        let client = self.clients.of(slot);
        let Some(client) = client.filter(|client| client.state == ClientStage::Connected) else {
            return false;
        };
        let took_ns = self.now_ns.saturating_sub(client.started_ns);
        self.harvest.pongs += 1;
        self.harvest.pong.saturating_record(took_ns.max(1));
        true
    }

    fn handle_pong(&mut self, pong: &Pong, at_ns: u64) {
        self.harvest.pongs += 1;
        let sent_ns = pong.client_time_us.unsigned_abs().saturating_mul(1_000);
        let took_ns = at_ns.saturating_sub(sent_ns);
        self.harvest.pong.saturating_record(took_ns.max(1));
        if !self.heartbeats.learns_time() {
            return;
        }
        let sample = PongExchange {
            t1_us: pong.client_time_us,
            t2_us: pong.received_unix_us,
            t3_us: pong.sent_unix_us,
            t4_us: i64::try_from(at_ns.div_ceil(1_000)).unwrap_or(i64::MAX),
            error_bound_us: pong.error_bound_us,
            clock_error_us: pong.clock_error_us,
        };
        if let Ok(mut samples) = self.shared.samples.lock()
            && samples.len() < SAMPLES_MAX
        {
            samples.push(sample);
        }
    }
}
