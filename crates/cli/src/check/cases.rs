//! The cases: each has an id, a title, and the sentences of docs/protocol.md that it shows.

mod ahead;
mod auth;
mod closing;
mod frames;
mod heartbeats;
mod lateness;
mod order;
mod pieces;
mod rates;
mod resume;
mod session;
mod switch;
mod ticks;
mod tls;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::server::Server;
use super::stop::Outcome;

/// What runs a case.
type Run = fn(Arc<Server>) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// One thing that a server must do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// The name after `check/`.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The ids of the sentences that it shows.
    pub(super) sentences: &'static [&'static str],
    pub(super) run: Run,
}

impl Case {
    pub(super) fn id(&self) -> String {
        format!("check/{}", self.name)
    }
}

macro_rules! case {
    ($name:literal, $title:literal, $run:path, [$($sentence:literal),* $(,)?]) => {
        Case {
            name: $name,
            title: $title,
            sentences: &[$($sentence),*],
            run: |server| Box::pin($run(server)),
        }
    };
}

/// The case that runs first, because the others need what it learns.
pub(super) const ACK_OF_AUTH: Case = case!(
    "ack-of-auth",
    "AUTH is answered by an ACK with all its fields",
    session::ack_of_auth,
    ["frames-12", "messages-11", "session-21", "cookies-04"]
);

/// All other cases. Those that take long come first, since they run side by side.
pub(super) const CASES: &[Case] = &[
    case!(
        "heartbeat-timeout",
        "a silent client is closed in time, and not before",
        heartbeats::timeout,
        ["session-17", "session-16", "errors-17", "reconnecting-11"]
    ),
    case!(
        "signs-of-life",
        "frames of unknown types are no sign of life",
        heartbeats::signs_of_life,
        ["session-16", "session-17"]
    ),
    case!(
        "auth-timeout",
        "without a complete AUTH, the server closes with AUTH_TIMEOUT",
        auth::timeout,
        ["session-03", "errors-11", "reconnecting-11"]
    ),
    case!(
        "mode-switch",
        "a further SUBSCRIBE replaces the subscription at its ACK",
        switch::mode_switch,
        ["session-31", "session-32", "ticks-03", "ticks-04"]
    ),
    case!(
        "minute-tick",
        "a MINUTE tick is sent at its time",
        ticks::minute_tick,
        ["intro-05", "ticks-01", "ticks-07"]
    ),
    case!(
        "ticks",
        "SECOND ticks are sent once each, in order, and at their time",
        ticks::second_ticks,
        [
            "intro-05",
            "ticks-01",
            "ticks-03",
            "ticks-04",
            "ticks-07",
            "messages-10",
            "messages-18"
        ]
    ),
    case!(
        "start",
        "a subscription without a resume point starts now",
        ticks::start,
        ["ticks-08", "messages-11", "frames-08", "frames-12"]
    ),
    case!(
        "minute",
        "MINUTE ticks are replayed after a resume point",
        resume::minute,
        ["ticks-01", "ticks-03", "ticks-04", "resuming-04"]
    ),
    case!(
        "resume",
        "the ticks after a resume point come as REPLAY, and then those that follow",
        resume::recent,
        [
            "resuming-04",
            "resuming-05",
            "resuming-07",
            "ticks-04",
            "messages-18"
        ]
    ),
    case!(
        "resume-next-connection",
        "no tick is lost or repeated between two connections",
        resume::next_connection,
        ["resuming-01", "resuming-02", "ticks-04"]
    ),
    case!(
        "resume-any-time",
        "a resume point need not be the time of a tick",
        resume::any_time,
        ["resuming-14", "resuming-07"]
    ),
    case!(
        "resume-far-back",
        "a resume point before the window starts at the window",
        resume::far_back,
        ["resuming-06", "resuming-07", "resuming-04", "messages-14"]
    ),
    case!(
        "resume-ahead",
        "a resume point up to 15 s ahead is accepted, and no tick up to it is sent",
        resume::ahead,
        ["resuming-15"]
    ),
    case!(
        "resume-too-far-ahead",
        "a resume point more than 15 s ahead is refused",
        resume::too_far_ahead,
        ["resuming-16", "session-34", "errors-14", "reconnecting-11"]
    ),
    case!(
        "ahead",
        "ticks are sent ahead of their time, if that is what the client subscribed to",
        ahead::ahead,
        ["ahead-03", "ahead-04", "ticks-04", "ticks-08"]
    ),
    case!(
        "rate-limited",
        "what is saved up is accepted at once, and more is answered with RATE_LIMITED",
        rates::limited,
        [
            "session-24",
            "session-25",
            "session-26",
            "errors-16",
            "reconnecting-11"
        ]
    ),
    case!(
        "burst",
        "a SUBSCRIBE and ten HEARTBEATs at once are accepted",
        rates::burst_of_twenty,
        ["session-29"]
    ),
    case!(
        "split-frames",
        "frames may be split at any byte",
        pieces::split,
        ["session-37"]
    ),
    case!(
        "bytewise",
        "frames may arrive byte by byte",
        pieces::bytewise,
        ["session-37"]
    ),
    case!(
        "pipelining",
        "frames in one segment are answered in order",
        pieces::pipelined,
        ["session-37", "session-06"]
    ),
    case!(
        "several-subscribes",
        "each of several SUBSCRIBEs is acknowledged, and the last one is served",
        pieces::several_subscribes,
        ["session-31", "session-32"]
    ),
    case!(
        "bad-magic",
        "each of the two bytes of the magic is checked",
        frames::bad_magic,
        [
            "frames-18",
            "frames-19",
            "frames-20",
            "frames-22",
            "errors-02"
        ]
    ),
    case!(
        "unsupported-version",
        "another version is refused, with the versions that are supported",
        frames::unsupported_version,
        ["frames-18", "frames-19", "errors-03", "compat-07"]
    ),
    case!(
        "unknown-type",
        "unknown types below 0x80 are refused",
        frames::unknown_type,
        ["frames-18", "frames-19", "frames-24", "errors-04"]
    ),
    case!(
        "message-too-large",
        "a payload of more than 4,096 bytes is refused by its header",
        frames::message_too_large,
        ["frames-15", "frames-18", "frames-19", "errors-05"]
    ),
    case!(
        "bad-checksum",
        "a wrong checksum is refused at its fourth byte",
        frames::bad_checksum,
        [
            "frames-04",
            "frames-06",
            "frames-18",
            "frames-19",
            "errors-06"
        ]
    ),
    case!(
        "malformed-payload",
        "a payload that does not decode is refused",
        frames::malformed_payload,
        ["frames-18", "errors-07"]
    ),
    case!(
        "first-failed-check",
        "of several faults, the first in the order of checks is reported",
        order::first_failed_check,
        [
            "frames-18",
            "frames-19",
            "frames-20",
            "session-02",
            "session-08"
        ]
    ),
    case!(
        "auth-required",
        "any other first frame is answered with AUTH_REQUIRED",
        auth::required,
        ["session-01", "session-02", "frames-25", "errors-08"]
    ),
    case!(
        "auth-failed",
        "wrong credentials are answered with AUTH_FAILED",
        auth::failed,
        ["session-04", "errors-09"]
    ),
    case!(
        "already-authenticated",
        "a second AUTH is refused, well-formed or not",
        auth::already,
        ["session-08", "errors-10"]
    ),
    case!(
        "cookies",
        "no cookie makes an AUTH fail",
        auth::cookies,
        ["cookies-07"]
    ),
    case!(
        "cookie-again",
        "a valid cookie is answered by the same cookie",
        auth::cookie_again,
        ["cookies-16"]
    ),
    case!(
        "unexpected-message",
        "a type that only an edge sends is refused",
        order::unexpected_message,
        ["frames-18", "errors-15"]
    ),
    case!(
        "invalid-mode",
        "an unknown mode is refused",
        session::invalid_mode,
        ["session-34", "compat-04", "errors-13"]
    ),
    case!(
        "earlier-schema",
        "a SUBSCRIBE in the schema of the earlier Go server is refused",
        session::earlier_schema,
        ["messages-31", "errors-40", "session-34"]
    ),
    case!(
        "ignorable-types",
        "after AUTH, frames of unknown types from 0x80 are skipped",
        frames::ignorable,
        ["frames-23", "frames-26", "frames-16"]
    ),
    case!(
        "large-ignorable",
        "a skipped payload may be large, up to a limit",
        frames::large_ignorable,
        ["frames-16", "frames-23"]
    ),
    case!(
        "unknown-fields",
        "unknown fields are ignored",
        frames::unknown_fields,
        ["messages-02"]
    ),
    case!(
        "pong",
        "each HEARTBEAT is answered by a PONG that echoes it, in order",
        heartbeats::pong,
        ["frames-13", "messages-07", "messages-08", "frames-09"]
    ),
    case!(
        "pong-times",
        "the times of PONGs agree with each other",
        heartbeats::pong_times,
        ["time-05", "time-06", "time-10"]
    ),
    case!(
        "connection-ids",
        "each connection has a name of its own, also in ERROR",
        session::connection_ids,
        ["session-19", "session-21"]
    ),
    case!(
        "closing",
        "ERROR is the last frame, and an orderly end follows whatever is still unread",
        closing::after_error,
        ["session-64", "frames-11", "frames-22"]
    ),
    case!(
        "end-of-file",
        "an end of file from the client ends the connection",
        closing::end_of_file,
        ["session-63"]
    ),
    case!(
        "tls-or-plain",
        "a port with TLS does not speak plain, and the other way round",
        tls::tls_or_plain,
        ["tls-01"]
    ),
    case!(
        "tls-parameters",
        "only TLS 1.3, with one of two cipher suites, without ALPN and resumption",
        tls::parameters,
        ["tls-01", "tls-03", "tls-04"]
    ),
    case!(
        "tls-records",
        "TLS records and frames are independent of each other",
        tls::records,
        ["tls-08"]
    ),
    case!(
        "tls-close-notify",
        "close_notify comes before the end of file",
        tls::close_notify,
        ["tls-11"]
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::sentences::SENTENCES;
    use super::*;

    #[test]
    fn names_differ_and_every_sentence_is_in_the_table() {
        let all: Vec<_> = CASES.iter().chain([&ACK_OF_AUTH]).collect();
        let names: BTreeSet<_> = all.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all.len());
        let named: BTreeSet<_> = all.iter().flat_map(|case| case.sentences).collect();
        let known: BTreeSet<_> = SENTENCES.iter().map(|sentence| &sentence.id).collect();
        assert_eq!(named, known);
    }
}
