//! Interprets a received message according to its subject, in the same way on every bus.

use tickstorm_timebase::Mode;

use crate::message::{self, DropReason};
use crate::subject::{INBOX, Subjects};
use crate::{ClockEvent, EdgeEvent, ReplyTo};

/// An event for a clock or an edge, or the reason for dropping the message.
pub(crate) enum Inbound {
    Clock(Result<ClockEvent, DropReason>),
    Edge(Result<EdgeEvent, DropReason>),
}

/// Reads a message. Returns `None` if its subject is neither `inbox` nor one of `subjects`.
pub(crate) fn read(
    subjects: &Subjects,
    inbox: &str,
    subject: &str,
    reply_to: Option<&str>,
    payload: &[u8],
) -> Option<Inbound> {
    if subject == subjects.time() {
        return Some(Inbound::Clock(read_request(reply_to, payload)));
    }
    if subject == inbox {
        let reply = message::decode_reply(payload);
        return Some(Inbound::Edge(reply.map(EdgeEvent::Reply)));
    }
    let mode = Mode::ALL
        .into_iter()
        .find(|&mode| subject == subjects.tick(mode))?;
    let announcement = message::decode_announcement(mode, payload);
    Some(Inbound::Edge(announcement.map(EdgeEvent::Announcement)))
}

/// Reads a time request. Its sender could name any subject for the answer, including those of
/// ticks, so only inboxes are answered.
fn read_request(reply_to: Option<&str>, payload: &[u8]) -> Result<ClockEvent, DropReason> {
    let reply_to = reply_to
        .filter(|subject| subject.starts_with(INBOX))
        .ok_or(DropReason::Malformed)?;
    Ok(ClockEvent::Request {
        nonce: message::decode_request(payload)?,
        reply_to: ReplyTo(reply_to.to_owned()),
    })
}
