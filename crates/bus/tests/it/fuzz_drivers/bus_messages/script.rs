//! [`Script`]: what the attacker publishes, and when.

use std::time::Duration;

use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, encode_announcement, encode_reply, encode_request,
};
use tickstorm_bus::{MemoryLink, ReplyKey};
use tickstorm_timebase::{Announcement, ClockId, Epoch, Mode, Reply};

/// What the attacker does next.
pub(super) enum Operation {
    Pass(Duration),
    Publish(Message),
}

pub(super) struct Message {
    pub(super) subject: String,
    pub(super) reply_to: Option<String>,
    pub(super) payload: Vec<u8>,
}

/// What the attacker knows and may do.
pub(super) struct Attacker<'a> {
    pub(super) edge: &'a MemoryLink,
    /// The clock whose login it has; `None` if it may publish anything.
    pub(super) login: Option<ClockId>,
    /// The number of the edge's last request.
    pub(super) nonce: u64,
    /// Unix time in microseconds.
    pub(super) unix_us: i64,
}

/// Operations, each followed by its operands. Beyond the end, all bytes are 0.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn operation(&mut self, attacker: &Attacker<'_>) -> Option<Operation> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.byte() {
            operation @ ..64 => Operation::Pass(Duration::from_millis(operation.into())),
            operation @ 64..80 => {
                Operation::Pass(Duration::from_millis(500 * u64::from(operation - 63)))
            }
            _ => Operation::Publish(self.message(attacker)),
        })
    }

    fn message(&mut self, attacker: &Attacker<'_>) -> Message {
        let sender = match &attacker.login {
            Some(id) => id.to_string(),
            None => self.sender(),
        };
        let subject = self.subject(attacker, &sender);
        let reply_to = match self.byte() % 4 {
            0 => None,
            1 => Some(attacker.edge.reply_subject()),
            2 => Some(attacker.edge.subjects().reply(other_key().token())),
            _ => Some(self.text()),
        };
        let mut payload = self.payload(attacker, &sender);
        if self.byte() % 4 == 3 {
            let (at, change) = (usize::from(self.byte()), self.byte());
            if let Some(byte) = payload.get_mut(at) {
                *byte ^= change;
            }
        }
        Message {
            subject,
            reply_to,
            payload,
        }
    }

    fn sender(&mut self) -> String {
        match self.byte() % 6 {
            known @ 0..4 => format!("clock-{known}"),
            4 => format!("clock-{}", self.byte()),
            _ => self.text(),
        }
    }

    fn subject(&mut self, attacker: &Attacker<'_>, sender: &str) -> String {
        let subjects = attacker.edge.subjects();
        let start = match self.byte() % 7 {
            0 => subjects.ticks(Mode::Second).replace('*', ""),
            1 => subjects.ticks(Mode::Minute).replace('*', ""),
            2 | 3 => attacker.edge.reply_subject() + ".",
            4 => subjects.reply(other_key().token()) + ".",
            _ if attacker.login.is_some() => subjects.ticks(Mode::Second).replace('*', ""),
            5 => return subjects.time().to_owned(),
            _ => return self.text(),
        };
        start + sender
    }

    fn payload(&mut self, attacker: &Attacker<'_>, sender: &str) -> Vec<u8> {
        let id = sender.parse().unwrap_or_else(|_| super::id("clock-2"));
        let id = match self.byte() % 8 {
            0 => super::id("clock-0"),
            _ => id,
        };
        match self.byte() % 6 {
            0 => self.bytes().to_vec(),
            1 | 2 => {
                let received_unix_us = self.time_near(attacker.unix_us);
                encode_reply(&Reply {
                    nonce: attacker.nonce.wrapping_sub(self.byte().into()),
                    clock_id: id,
                    rank: self.byte().into(),
                    received_unix_us,
                    sent_unix_us: self.time_near(received_unix_us),
                    clock_error_us: u32::from(self.byte()) * 1_000,
                    synchronized: self.byte() % 2 == 1,
                    timeline: self.byte().into(),
                })
            }
            3 => {
                let mode = Mode::ALL[usize::from(self.byte() % 2)];
                let epoch = Epoch::from_ms(self.time_near(attacker.unix_us) / 1_000);
                encode_announcement(&Announcement {
                    mode,
                    epoch: if self.byte() % 4 == 3 {
                        epoch
                    } else {
                        mode.floor(epoch)
                    },
                    clock_id: id,
                    rank: self.byte().into(),
                    sent_unix_us: self.time_near(attacker.unix_us),
                    timeline: self.byte().into(),
                })
            }
            4 => {
                let nonce = attacker.nonce.wrapping_sub(self.byte().into());
                match self.byte() % 2 {
                    0 => encode_request(nonce, &attacker.edge.reply_key()),
                    _ => encode_request(nonce, &other_key()),
                }
            }
            _ => {
                let len = MESSAGE_BYTES_MAX - 1 + usize::from(self.byte() % 3);
                vec![self.byte(); len]
            }
        }
    }

    /// Returns a time at any distance from `unix_us`, in microseconds.
    fn time_near(&mut self, unix_us: i64) -> i64 {
        match self.byte() % 6 {
            0 => unix_us,
            1 => unix_us.saturating_add(self.signed_byte() * 1_000),
            2 => unix_us.saturating_add(self.signed_byte() * 100_000),
            3 => unix_us.saturating_add(self.signed_byte() * 1_000_000),
            4 => unix_us.saturating_add(self.signed_byte() * 3_600_000_000),
            _ => i64::from_be_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    fn signed_byte(&mut self) -> i64 {
        i64::from(self.byte()) - 128
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte());
        self.take(len)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Returns the key of another edge.
fn other_key() -> ReplyKey {
    [1; 16].into()
}
