//! What comes: a read, and the frames in it. The hot path of the generator.

use nix::sys::epoll::EpollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tickstorm_client::estimate::PongExchange;
use tickstorm_protocol::message::{ErrorMsg, Pong};

use super::{Worker, now_ns};
use crate::generator::client::{ClientStage, Pace};
use crate::generator::connection_end::ConnectionEnd;
use crate::generator::known::TakenFrame;

/// One read's bytes at most, beside what was left over.
const READ_LEN: usize = 64 * 1_024;
/// Room for what is left over: less than the largest frame.
const REST_LEN: usize = 66 * 1_024;
/// PONGs kept for whoever learns the time from them.
const SAMPLES_MAX: usize = 1_000;
/// From one read of those who read a byte a second to the next, in nanoseconds.
const TRICKLE_NS: u64 = 1_000_000_000;

/// What one read needs.
pub(super) fn scratch() -> Vec<u8> {
    vec![0; REST_LEN + READ_LEN]
}

impl Worker {
    /// Something happened to the client at `place`.
    pub(super) fn handle(&mut self, place: u32, flags: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let Some(reader) = self.clients.reader(place) else {
            return;
        };
        if reader.account.is_none() {
            self.greet_if_new(place);
        }
        let Some(reader) = self.clients.reader(place) else {
            return;
        };
        if reader.pace == Pace::Eager {
            if flags.intersects(EpollFlags::EPOLLIN | ended) {
                self.read(place, READ_LEN);
            }
        } else if flags.intersects(ended) {
            self.end(place, &ConnectionEnd::ClosedByEdge);
        }
    }

    #[cold]
    fn greet_if_new(&mut self, place: u32) {
        let client = self.clients.of(place);
        if client.is_some_and(|client| client.state == ClientStage::Connecting) {
            self.greet(place);
        }
    }

    /// Those who read a byte a second do.
    pub(super) fn trickle(&mut self) {
        let now = self.now_ns;
        if now < self.trickled_ns + TRICKLE_NS {
            return;
        }
        self.trickled_ns = now;
        let places = self.clients.places();
        for place in 0..u32::try_from(places).unwrap_or(u32::MAX) {
            let reader = self.clients.reader(place);
            if reader.is_some_and(|reader| reader.pace == Pace::Trickle) {
                self.read(place, 1);
            }
        }
    }

    /// Reads all there is, or once, if that is no more than `most`.
    fn read(&mut self, place: u32, most: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        loop {
            let kept = self.take_rest(place, &mut scratch);
            let Some(socket) = self.clients.socket(place) else {
                break;
            };
            let room = &mut scratch[kept..kept + most];
            self.meter.pause();
            let taken = match recv(socket, room, RecvFlags::DONTWAIT) {
                Ok((_, taken @ 1..)) => taken,
                Ok(_) => {
                    self.end(place, &ConnectionEnd::ClosedByEdge);
                    break;
                }
                Err(Errno::AGAIN) => {
                    self.keep(place, &scratch[..kept]);
                    break;
                }
                Err(Errno::INTR) => {
                    self.keep(place, &scratch[..kept]);
                    continue;
                }
                Err(errno) => {
                    self.end(place, &ConnectionEnd::Receive(errno));
                    break;
                }
            };
            self.now_ns = now_ns();
            self.meter.resume(self.now_ns);
            self.take_frames(place, &scratch[..kept + taken]);
            if taken < most || most == 1 {
                break;
            }
        }
        self.scratch = scratch;
    }

    /// Puts what was left over at the front of `scratch` and says how much that is: nearly always nothing, of anybody.
    fn take_rest(&mut self, place: u32, scratch: &mut [u8]) -> usize {
        if self.rests.is_empty() {
            return 0;
        }
        self.rests.remove(&place).map_or(0, |rest| {
            scratch[..rest.len()].copy_from_slice(&rest);
            rest.len()
        })
    }

    fn keep(&mut self, place: u32, rest: &[u8]) {
        if !rest.is_empty() {
            self.rests.insert(place, rest.to_vec());
        }
    }

    fn take_frames(&mut self, place: u32, bytes: &[u8]) {
        let at_ns = self.now_ns;
        let Some(reader) = self.clients.reader(place) else {
            return;
        };
        if reader.account.is_none() && self.take_echo(place) {
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
                    let Some(reader) = self.clients.reader(place) else {
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
                TakenFrame::Ack(ack) => self.take_ack(place, &ack),
                TakenFrame::Pong(pong) => self.take_pong(&pong, at_ns),
                TakenFrame::Refused(error) => {
                    let ErrorMsg { code, message, .. } = error;
                    return self.end(place, &ConnectionEnd::Refused { code, message });
                }
                TakenFrame::Ignored => {}
                TakenFrame::Incomplete => break,
                TakenFrame::Broken(broken) => {
                    self.harvest.faults.broken += 1;
                    return self.end(place, &ConnectionEnd::Broken(broken));
                }
            }
            if self.clients.reader(place).is_none() {
                return;
            }
        }
        self.keep(place, input);
    }

    /// An echo of a bare loop, which answers one message at a time. False where the client speaks the protocol.
    #[cold]
    fn take_echo(&mut self, place: u32) -> bool {
        let client = self.clients.of(place);
        let Some(client) = client.filter(|client| client.state == ClientStage::Connected) else {
            return false;
        };
        let took_ns = self.now_ns.saturating_sub(client.begun_ns);
        self.harvest.pongs += 1;
        self.harvest.pong.saturating_record(took_ns.max(1));
        true
    }

    fn take_pong(&mut self, pong: &Pong, at_ns: u64) {
        self.harvest.pongs += 1;
        let sent_ns = pong.client_time_us.unsigned_abs().saturating_mul(1_000);
        let took_ns = at_ns.saturating_sub(sent_ns);
        self.harvest.pong.saturating_record(took_ns.max(1));
        if !self.beats.tells_time() {
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
