//! The encoding of bus.proto: it converts typed values to bytes and back, with a closed list of
//! reasons for rejecting bytes. The generated types are private to this module.

use prost::Message;
use tickstorm_timebase::{Announcement, Epoch, Mode, Reply};

use crate::reply_address::{REPLY_KEY_BYTES, ReplyKey};

use proto::tickstorm::bus::v1::{TickAnnouncement, TimeReply, TimeRequest};
use proto::tickstorm::v1::Mode as WireMode;

#[expect(unreachable_pub, reason = "prost-build generates it")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

/// The maximum size of an accepted message, in bytes: eight times the largest that this version
/// sends, so that later versions have room for more fields.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// The reason why a received message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// It is not the kind of message that its subject carries, or has an unknown mode, an invalid
    /// id, or no valid reply subject.
    Malformed,
    /// It is longer than [`MESSAGE_BYTES_MAX`].
    Oversized,
    /// It is an announcement of one mode on the subject of the other.
    WrongSubject,
    /// It contains another clock's id than its subject.
    ForeignId,
    /// Its sender is not one of the clocks that the edge listens to.
    UnknownClock,
    /// It is an announcement that another clock sent under this clock's id.
    SharedId,
    /// It is a request whose key is not that of its reply subject, or that has none although its
    /// edge sends one.
    ForeignReply,
    /// Its sender, a clock or a reply subject, sends too many messages.
    RateLimited,
    /// It is a request, and the clock has as many requests to answer as it can.
    Overloaded,
    /// It is a request that was read so late that no edge waits for the answer.
    Stale,
    /// The subscriber's queue was full.
    Full,
}

impl DropReason {
    /// The reasons for which edges drop messages.
    pub const AT_EDGES: [Self; 7] = [
        Self::Malformed,
        Self::Oversized,
        Self::WrongSubject,
        Self::ForeignId,
        Self::UnknownClock,
        Self::RateLimited,
        Self::Full,
    ];

    /// The reasons for which clocks drop messages.
    pub const AT_CLOCKS: [Self; 8] = [
        Self::Malformed,
        Self::Oversized,
        Self::SharedId,
        Self::ForeignReply,
        Self::RateLimited,
        Self::Overloaded,
        Self::Stale,
        Self::Full,
    ];

    /// Returns the value of the label `reason` of `tickstorm_bus_dropped_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::WrongSubject => "wrong_subject",
            Self::ForeignId => "foreign_id",
            Self::UnknownClock => "unknown_clock",
            Self::SharedId => "shared_id",
            Self::ForeignReply => "foreign_reply",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Stale => "stale",
            Self::Full => "full",
        }
    }

    /// Returns whether a message that is dropped for this reason shows that something else than a
    /// clock uses its sender's login.
    #[must_use]
    pub const fn accuses_sender(self) -> bool {
        match self {
            Self::Malformed
            | Self::Oversized
            | Self::WrongSubject
            | Self::ForeignId
            | Self::RateLimited => true,
            // The sender may be a clock that is not listed yet, or the edge is at fault.
            Self::UnknownClock
            | Self::SharedId
            | Self::ForeignReply
            | Self::Overloaded
            | Self::Stale
            | Self::Full => false,
        }
    }
}

/// Encodes an announcement.
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

/// Decodes an announcement that arrived on the subject of `mode`.
///
/// # Errors
/// Returns the reason if the message must be dropped.
pub fn decode_announcement(mode: Mode, bytes: &[u8]) -> Result<Announcement, DropReason> {
    let message: TickAnnouncement = decode(bytes)?;
    match WireMode::try_from(message.mode) {
        Ok(found) if found == wire_mode(mode) => {}
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

/// Encodes a time request with the key of its reply subject.
#[must_use]
pub fn encode_request(nonce: u64, key: &ReplyKey) -> Vec<u8> {
    TimeRequest {
        nonce,
        reply_key: key.as_bytes().to_vec(),
    }
    .encode_to_vec()
}

/// Decodes a time request and returns its nonce and the key of its reply subject, if it has one.
///
/// # Errors
/// Returns the reason if the message must be dropped.
pub fn decode_request(bytes: &[u8]) -> Result<(u64, Option<ReplyKey>), DropReason> {
    let message: TimeRequest = decode(bytes)?;
    if message.reply_key.is_empty() {
        return Ok((message.nonce, None));
    }
    let key: [u8; REPLY_KEY_BYTES] = message
        .reply_key
        .try_into()
        .map_err(|_| DropReason::Malformed)?;
    Ok((message.nonce, Some(key.into())))
}

/// Encodes a reply.
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

/// Decodes a reply.
///
/// # Errors
/// Returns the reason if the message must be dropped.
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
