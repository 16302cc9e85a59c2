//! The bytes of bus.proto: typed values in, typed values out, and a closed list of reasons why bytes are none. The generated
//! types stay in here.

use prost::Message;
use tickstorm_timebase::{Announcement, Epoch, Mode, Reply};

use proto::tickstorm::bus::v1::{TickAnnouncement, TimeReply, TimeRequest};
use proto::tickstorm::v1::Mode as WireMode;

#[expect(unreachable_pub, reason = "prost-build writes it so")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

/// The largest message that is looked at, in bytes: eight times the largest that this version sends, so that later versions
/// have room for more fields.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// Why a message that arrived never became an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Not the message that its subject carries, or with a mode or id that there is not.
    Malformed,
    /// Longer than [`MESSAGE_BYTES_MAX`].
    Oversized,
    /// An announcement of one mode on the other's subject.
    WrongSubject,
    /// The subscriber had not taken what came before it.
    Full,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [
        Self::Malformed,
        Self::Oversized,
        Self::WrongSubject,
        Self::Full,
    ];

    /// Value of the label `reason` of `tickstorm_bus_dropped_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::WrongSubject => "wrong_subject",
            Self::Full => "full",
        }
    }
}

/// An announcement's bytes.
#[must_use]
pub fn encode_announcement(announcement: &Announcement) -> Vec<u8> {
    TickAnnouncement {
        mode: wire_mode(announcement.mode).into(),
        epoch_ms: announcement.epoch.as_ms(),
        clock_id: announcement.clock_id.to_string(),
        rank: announcement.rank,
        sent_unix_us: announcement.sent_unix_us,
        timeline: announcement.timeline,
    }
    .encode_to_vec()
}

/// An announcement from bytes that came on the subject of `mode`.
///
/// # Errors
/// Why they are to be dropped.
pub fn decode_announcement(mode: Mode, bytes: &[u8]) -> Result<Announcement, DropReason> {
    let message: TickAnnouncement = decode(bytes)?;
    match WireMode::try_from(message.mode) {
        Ok(said) if said == wire_mode(mode) => {}
        Ok(_) => return Err(DropReason::WrongSubject),
        Err(_) => return Err(DropReason::Malformed),
    }
    Ok(Announcement {
        mode,
        epoch: Epoch::from_ms(message.epoch_ms),
        clock_id: message
            .clock_id
            .parse()
            .map_err(|_| DropReason::Malformed)?,
        rank: message.rank,
        sent_unix_us: message.sent_unix_us,
        timeline: message.timeline,
    })
}

/// A time request's bytes.
#[must_use]
pub fn encode_request(nonce: u64) -> Vec<u8> {
    TimeRequest { nonce }.encode_to_vec()
}

/// The nonce of a time request.
///
/// # Errors
/// Why the bytes are to be dropped.
pub fn decode_request(bytes: &[u8]) -> Result<u64, DropReason> {
    decode(bytes).map(|message: TimeRequest| message.nonce)
}

/// A reply's bytes.
#[must_use]
pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    TimeReply {
        nonce: reply.nonce,
        clock_id: reply.clock_id.to_string(),
        rank: reply.rank,
        received_unix_us: reply.received_unix_us,
        sent_unix_us: reply.sent_unix_us,
        clock_error_us: reply.clock_error_us,
        synchronized: reply.synchronized,
        timeline: reply.timeline,
    }
    .encode_to_vec()
}

/// A reply from bytes.
///
/// # Errors
/// Why they are to be dropped.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, DropReason> {
    let message: TimeReply = decode(bytes)?;
    Ok(Reply {
        nonce: message.nonce,
        clock_id: message
            .clock_id
            .parse()
            .map_err(|_| DropReason::Malformed)?,
        rank: message.rank,
        received_unix_us: message.received_unix_us,
        sent_unix_us: message.sent_unix_us,
        clock_error_us: message.clock_error_us,
        synchronized: message.synchronized,
        timeline: message.timeline,
    })
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, DropReason> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DropReason::Oversized);
    }
    M::decode(bytes).map_err(|_| DropReason::Malformed)
}

const fn wire_mode(mode: Mode) -> WireMode {
    match mode {
        Mode::Second => WireMode::Second,
        Mode::Minute => WireMode::Minute,
    }
}
