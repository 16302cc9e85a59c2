//! The sentences of docs/protocol.md that the cases show, with the ids that they have in
//! conformance/sentences.json.

/// A sentence of docs/protocol.md.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sentence {
    pub(super) id: &'static str,
    /// The heading under which it stands.
    pub(super) section: &'static str,
    pub(super) text: &'static str,
    /// What of it no case shows; `None` if the cases show all of it.
    pub(super) not_seen: Option<&'static str>,
}

const fn sentence(id: &'static str, section: &'static str, text: &'static str) -> Sentence {
    Sentence {
        id,
        section,
        text,
        not_seen: None,
    }
}

impl Sentence {
    /// Returns the sentence with what of it no case shows.
    const fn except(self, not_seen: &'static str) -> Self {
        Self {
            not_seen: Some(not_seen),
            ..self
        }
    }
}

/// In the order of the document.
#[rustfmt::skip]
pub(super) const SENTENCES: &[Sentence] = &[
    sentence(
        "intro-05", "The TickStorm client protocol, version 1",
        "The edge then sends one message for each second, or for each minute, at the moment \
         when that second or minute begins.",
    ),
    sentence(
        "frames-04", "Frames",
        "`crc` is the CRC32C (Castagnoli, as in iSCSI and not as in zlib) of all bytes before \
         it, that is, of the header and the payload.",
    ),
    sentence(
        "frames-06", "Frames",
        "`len` and `crc` are big-endian.",
    ),
    sentence(
        "frames-08", "Frames",
        "| 0x02 | SUBSCRIBE | client | `Subscribe` | an empty payload means mode SECOND |",
    ),
    sentence(
        "frames-09", "Frames",
        "| 0x03 | HEARTBEAT | client | `Heartbeat` | the payload may be empty |",
    ),
    sentence(
        "frames-11", "Frames",
        "| 0x05 | ERROR | edge | `ErrorMsg` | the last frame before the edge closes |",
    ),
    sentence(
        "frames-12", "Frames",
        "| 0x06 | ACK | edge | `Ack` | answers AUTH and SUBSCRIBE |",
    ),
    sentence(
        "frames-13", "Frames",
        "| 0x07 | PONG | edge | `Pong` | answers HEARTBEAT, one for each |",
    ),
    sentence(
        "frames-15", "Frames",
        "A client's payload may have at most 4,096 bytes.",
    ),
    sentence(
        "frames-16", "Frames",
        "After authentication, a payload of a type from 0x80 to 0xFF may have as many as the \
         edge allows: 65,536, or fewer if the edge is configured so, but never fewer than \
         4,096.",
    ),
    sentence(
        "frames-18", "Frames",
        "A receiver checks the magic (each of its two bytes separately), the version, the \
         type, the length and the checksum (each at its fourth byte), in this order, then the \
         session's rules on the type (AUTH_REQUIRED, ALREADY_AUTHENTICATED and \
         UNEXPECTED_MESSAGE), then whether the payload decodes as its message, and then the \
         other rules of the session.",
    ).except("what a client does when it receives frames"),
    sentence(
        "frames-19", "Frames",
        "An edge reports the first check that fails, as soon as it has the byte that decides \
         it; it does not wait for the rest of the frame.",
    ),
    sentence(
        "frames-20", "Frames",
        "This also holds for the first frame: if its header or checksum is invalid, the edge \
         reports that, not AUTH_REQUIRED.",
    ),
    sentence(
        "frames-22", "Frames",
        "When this document says that an edge reports such a code, answers with it or closes \
         with it, the edge sends ERROR with that `code` and closes the connection.",
    ),
    sentence(
        "frames-23", "Frames",
        "A receiver skips a frame of an unknown type from 0x80 to 0xFF, once it has verified \
         the checksum.",
    ).except("what a client does"),
    sentence(
        "frames-24", "Frames",
        "A client also skips unknown types below 0x80; an edge answers them with \
         UNKNOWN_TYPE.",
    ).except("what a client does"),
    sentence(
        "frames-26", "Frames",
        "GOING_AWAY counts as unknown if a client sends it.",
    ),
    sentence(
        "frames-25", "Frames",
        "Before authentication an edge skips nothing, and answers an unknown type from 0x80 \
         to 0xFF with AUTH_REQUIRED.",
    ),
    sentence(
        "messages-02", "Messages",
        "Ignore unknown fields.",
    ).except("what a client does"),
    sentence(
        "messages-07", "Messages",
        "| `Heartbeat` | 1 `client_time_us`: a reading of any monotonic clock; the edge only \
         echoes it |",
    ),
    sentence(
        "messages-08", "Messages",
        "| `Pong` | 1 `client_time_us` (echoed), 2 `received_unix_us`, 3 `sent_unix_us`, 4 \
         `error_bound_us`, 5 `clock_error_us` |",
    ).except("whether clock_error_us is right"),
    sentence(
        "messages-10", "Messages",
        "| `DataBatch` | 1 `schema_version` (1), 2 `ticks` (1 to 1,000 `Tick`s), 3 \
         `sent_unix_us`: the authority time at which the edge began to send the batch |",
    ),
    sentence(
        "messages-11", "Messages",
        "| `Ack` | 1 `acked_type` (1 AUTH, 2 SUBSCRIBE), 2 `heartbeat_interval_ms` and 3 \
         `heartbeat_timeout_ms` (in both ACKs), 4 `edge_id`, 5 `start_epoch_ms` (in the ACK \
         of SUBSCRIBE), 6 `protocol_minor` (now 1), and only in the ACK of AUTH: 7 \
         `connection_id` (see [Session](#session)), 8 `frame_rate_limit` (frames per second), \
         9 `cookie` |",
    ),
    sentence(
        "messages-14", "Messages",
        "`resume_after_epoch_ms` is declared `optional`: the value 0 is a resume point, and \
         only an absent field means that there is none.",
    ),
    sentence(
        "messages-18", "Messages",
        "REPLAY: the tick was sent more than a second after its time, or because the client \
         resumed.",
    ).except("ticks that are sent more than a second after their time"),
    sentence(
        "messages-31", "Messages",
        "An edge answers a SUBSCRIBE that has a field 2, 3 or 4, of whatever type, or mode 2, \
         with INVALID_SUBSCRIPTION, and says so in `message`.",
    ),
    sentence(
        "session-01", "Session",
        "AUTH must be the first frame.",
    ),
    sentence(
        "session-02", "Session",
        "Any other frame with a valid header and checksum is answered with AUTH_REQUIRED, \
         whatever its payload.",
    ),
    sentence(
        "session-03", "Session",
        "The edge waits 5 s (unless configured otherwise) for a complete AUTH, counted from \
         the moment when it accepts the connection, and then closes with AUTH_TIMEOUT.",
    ).except("whether the time is the configured one, since no answer says it"),
    sentence(
        "session-04", "Session",
        "Wrong credentials are answered with AUTH_FAILED.",
    ),
    sentence(
        "session-06", "Session",
        "What you send after AUTH is kept meanwhile.",
    ).except("an answer to AUTH that is delayed"),
    sentence(
        "session-08", "Session",
        "A second AUTH, well-formed or not, is answered with ALREADY_AUTHENTICATED.",
    ),
    sentence(
        "session-16", "Session",
        "AUTH, SUBSCRIBE and HEARTBEAT count as signs of life; nothing else does.",
    ),
    sentence(
        "session-17", "Session",
        "After `heartbeat_timeout_ms` (20,000 unless configured otherwise) without one, the \
         edge closes with HEARTBEAT_TIMEOUT, never earlier and at most 500 ms later.",
    ),
    sentence(
        "session-19", "Session",
        "The edge gives each connection a name, and sends it as `connection_id` in the ACK of \
         AUTH and in ERROR, even in an ERROR without AUTH.",
    ),
    sentence(
        "session-21", "Session",
        "It has at most 40 characters, visible ASCII without spaces; ignore any other.",
    ).except("what a client does with other names"),
    sentence(
        "session-24", "Session",
        "After AUTH, a client may send 10 frames per second of all types together (unless \
         configured otherwise: `frame_rate_limit` in the ACK of AUTH says how many), and a \
         SUBSCRIBE counts as ten frames.",
    ),
    sentence(
        "session-25", "Session",
        "Frames that you do not send are saved up for as long as `heartbeat_timeout_ms`, but \
         at most for 30 s, so bursts of up to 200 frames are accepted.",
    ).except("how many frames are saved up after a burst"),
    sentence(
        "session-26", "Session",
        "If you send more, the edge closes with RATE_LIMITED.",
    ),
    sentence(
        "session-29", "Session",
        "Whatever the configuration, a burst of 20 frames is accepted, so that a SUBSCRIBE \
         and the eight HEARTBEATs at the start (see [Authority time](#authority-time)) always \
         fit.",
    ),
    sentence(
        "session-31", "Session",
        "A further SUBSCRIBE replaces the subscription.",
    ),
    sentence(
        "session-32", "Session",
        "All ticks before its ACK belong to the old subscription, all ticks after it to the \
         new one.",
    ),
    sentence(
        "session-34", "Session",
        "An invalid SUBSCRIBE closes the connection.",
    ),
    sentence(
        "session-37", "Session",
        "AUTH, SUBSCRIBE and HEARTBEAT may be sent in one segment, and any frame may be split \
         at any byte.",
    ),
    sentence(
        "session-63", "Session",
        "Your end of file ends the connection immediately, whatever the edge still had to \
         send; there are no half-closed connections.",
    ).except("an end of file while the edge still has something to send"),
    sentence(
        "session-64", "Session",
        "An edge that closes with an error code sends ERROR, shuts down its sending side, and \
         then reads and discards your data for up to a second, so that unread data does not \
         cause a reset that destroys the ERROR in transit.",
    ).except("for how long the edge reads and discards"),
    sentence(
        "cookies-04", "Device cookies",
        "To a client, it is a string of 1 to 64 bytes that means nothing.",
    ),
    sentence(
        "cookies-07", "Device cookies",
        "A cookie never makes an AUTH fail: one that is longer than 64 bytes, or not valid \
         for these credentials, is ignored.",
    ),
    sentence(
        "cookies-16", "Device cookies",
        "An edge that accepts an AUTH with a valid cookie answers with the cookie of the same \
         device id for the credentials that it accepted: the same bytes, if the key is the \
         same.",
    ),
    sentence(
        "ticks-01", "Ticks",
        "A tick is identified by its mode and its `epoch_ms`, which is a multiple of 1,000 \
         (SECOND) or 60,000 (MINUTE).",
    ),
    sentence(
        "ticks-03", "Ticks",
        "All ticks are of the mode subscribed to, and `epoch_ms` strictly increases, within a \
         batch and from batch to batch.",
    ),
    sentence(
        "ticks-04", "Ticks",
        "The first tick is later than the `start_epoch_ms` in the ACK of SUBSCRIBE, and after \
         that point no tick is missing or repeated.",
    ),
    sentence(
        "ticks-07", "Ticks",
        "No tick is sent before its time, unless the client subscribed ahead.",
    ),
    sentence(
        "ticks-08", "Ticks",
        "Without a resume point, the subscription starts now: `start_epoch_ms` is the latest \
         tick of the mode whose time has come, even if you subscribe ahead, and the ticks \
         after it follow.",
    ),
    sentence(
        "resuming-01", "Resuming",
        "To lose no tick between two connections, set `resume_after_epoch_ms` in SUBSCRIBE to \
         the `epoch_ms` of the last tick that you received.",
    ),
    sentence(
        "resuming-02", "Resuming",
        "If you have not received any, use the `start_epoch_ms` of your last subscription's \
         ACK.",
    ),
    sentence(
        "resuming-04", "Resuming",
        "The edge first sends the ticks after the resume point whose time had come when it \
         sent the ACK, as REPLAY, in batches of at most 1,000 ticks.",
    ),
    sentence(
        "resuming-05", "Resuming",
        "The ticks after these follow as usual, each with its own quality, and the last batch \
         with REPLAY ticks may also hold the first of them.",
    ),
    sentence(
        "resuming-06", "Resuming",
        "An edge replays the last 600 s (unless configured otherwise).",
    ).except("whether the window is the configured one, since no answer says it"),
    sentence(
        "resuming-07", "Resuming",
        "The `start_epoch_ms` of the ACK is your resume point or, if that is further back, \
         the start of those 600 s.",
    ),
    sentence(
        "resuming-14", "Resuming",
        "The resume point need not be the `epoch_ms` of a tick; any time will do.",
    ),
    sentence(
        "resuming-15", "Resuming",
        "It may be up to 15 s in the future, as it usually is for clients that receive ticks \
         ahead; ticks at or before it are not sent.",
    ),
    sentence(
        "resuming-16", "Resuming",
        "A resume point more than 15 s in the future is answered with INVALID_SUBSCRIPTION.",
    ),
    sentence(
        "ahead-03", "Delivery ahead",
        "The edge then sends each tick 800 ms before its time (an operator may configure \
         another lead), and the client *releases* it itself, when its own estimate of \
         authority time reaches `epoch_ms`.",
    ).except("the client's release, and whether the lead is the configured one"),
    sentence(
        "ahead-04", "Delivery ahead",
        "A tick that is due less than 800 ms after the ACK is sent right after it.",
    ),
    sentence(
        "time-05", "Authority time",
        "t2 = `received_unix_us`: authority time when the edge reads it",
    ).except("whether it is UTC: PONGs are compared with each other and with ticks"),
    sentence(
        "time-06", "Authority time",
        "t3 = `sent_unix_us`: authority time when the edge writes the PONG",
    ).except("whether it is UTC: PONGs are compared with each other and with ticks"),
    sentence(
        "time-10", "Authority time",
        "error ≤ round trip / 2 + `error_bound_us` + 200 ppm of the sample's age",
    ).except("the error against UTC: PONGs are compared with each other"),
    sentence(
        "errors-02", "Errors",
        "| BAD_MAGIC | a frame does not start with 0xF5 0x7D | no |",
    ),
    sentence(
        "errors-03", "Errors",
        "| UNSUPPORTED_VERSION | the frame's version is not 1; `supported_versions` lists the \
         supported ones | no |",
    ),
    sentence(
        "errors-04", "Errors",
        "| UNKNOWN_TYPE | the frame's type is below 0x80, and version 1 does not have it | no \
         |",
    ),
    sentence(
        "errors-05", "Errors",
        "| MESSAGE_TOO_LARGE | the payload exceeds the limit for its type: 4,096, or more for \
         types from 0x80 after authentication | no |",
    ),
    sentence(
        "errors-06", "Errors",
        "| BAD_CHECKSUM | the checksum does not match the bytes | at once |",
    ),
    sentence(
        "errors-07", "Errors",
        "| MALFORMED_PAYLOAD | the payload does not decode as its type's message | no |",
    ),
    sentence(
        "errors-08", "Errors",
        "| AUTH_REQUIRED | the first frame is not AUTH | no |",
    ),
    sentence(
        "errors-09", "Errors",
        "| AUTH_FAILED | the credentials are wrong, or this edge does not know them yet or \
         any more | no |",
    ).except("credentials that this edge does not know yet or any more"),
    sentence(
        "errors-10", "Errors",
        "| ALREADY_AUTHENTICATED | AUTH was sent a second time | no |",
    ),
    sentence(
        "errors-11", "Errors",
        "| AUTH_TIMEOUT | no complete AUTH arrived in time | later |",
    ),
    sentence(
        "errors-13", "Errors",
        "| INVALID_SUBSCRIPTION | the mode is unknown | no |",
    ),
    sentence(
        "errors-40", "Errors",
        "| INVALID_SUBSCRIPTION | the SUBSCRIBE is in the schema of the earlier Go server | no \
         |",
    ),
    sentence(
        "errors-14", "Errors",
        "| INVALID_SUBSCRIPTION | the resume point is more than 15 s ahead of authority time \
         | once more with it, then without |",
    ),
    sentence(
        "errors-15", "Errors",
        "| UNEXPECTED_MESSAGE | after AUTH, a frame of a type below 0x80 that only an edge \
         sends | no |",
    ),
    sentence(
        "errors-16", "Errors",
        "| RATE_LIMITED | too many frames per second, or too many replayed ticks per minute | \
         later |",
    ).except("too many replayed ticks per minute"),
    sentence(
        "errors-17", "Errors",
        "| HEARTBEAT_TIMEOUT | you were silent | at once |",
    ),
    sentence(
        "reconnecting-11", "Reconnecting",
        "It is 1 to 500 with SERVER_DRAINING; 1 to 5,000 with TIME_STEPPED and \
         HEARTBEAT_TIMEOUT; 1,000 to 10,000 with SERVER_FULL, TOO_MANY_CONNECTIONS, NO_TIME \
         and the *later* codes; 1,100 to 2,100 with INVALID_SUBSCRIPTION for the resume \
         point; and 0 with all others.",
    ).except(
        "the hints of SERVER_DRAINING, TIME_STEPPED, SERVER_FULL, TOO_MANY_CONNECTIONS and \
         NO_TIME",
    ),
    sentence(
        "compat-04", "Compatibility",
        "An edge answers an unknown mode with INVALID_SUBSCRIPTION.",
    ),
    sentence(
        "compat-07", "Compatibility",
        "UNSUPPORTED_VERSION itself always comes in a version-1 frame.",
    ),
    sentence(
        "tls-01", "TLS",
        "A port of an edge is either TLS 1.3 or plain, never both, and the operator says \
         which.",
    ),
    sentence(
        "tls-03", "TLS",
        "The cipher suites are TLS_AES_256_GCM_SHA384 and TLS_CHACHA20_POLY1305_SHA256.",
    ),
    sentence(
        "tls-04", "TLS",
        "There is no ALPN, no session resumption, and no early data, because AUTH could be \
         replayed.",
    ),
    sentence(
        "tls-08", "TLS",
        "Records and frames are independent of each other: a record may hold several frames, \
         and a frame may span several records.",
    ),
    sentence(
        "tls-11", "TLS",
        "The edge sends close_notify before its end of file; a client need not insist on it.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOCUMENT: &str = include_str!("../../../../docs/protocol.md");
    const VECTORS: &str = include_str!("../../../../conformance/sentences.json");

    #[test]
    fn the_vectors_name_the_same_sentences() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        let listed = vectors["sentences"].as_array().unwrap().iter();
        let is_checked = |sentence: &&serde_json::Value| {
            let by = sentence["checked_by"].as_array().unwrap();
            by.iter().any(|name| name == "check")
        };
        let text = |value: &serde_json::Value| one_line(value.as_str().unwrap());
        let expected: BTreeSet<_> = listed
            .filter(is_checked)
            .map(|sentence| (text(&sentence["id"]), text(&sentence["sentence"])))
            .collect();
        let checked = SENTENCES
            .iter()
            .map(|sentence| (sentence.id.to_owned(), sentence.text.to_owned()));
        assert_eq!(checked.collect::<BTreeSet<_>>(), expected);
    }

    fn one_line(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_sentence_is_in_the_document_under_its_heading() {
        let is_heading = |line: &str, section: &str| {
            line.strip_prefix('#')
                .is_some_and(|rest| rest.trim_start_matches('#').trim() == section)
        };
        for sentence in SENTENCES {
            let under: Vec<_> = DOCUMENT
                .lines()
                .skip_while(|line| !is_heading(line, sentence.section))
                .skip(1)
                .take_while(|line| !line.starts_with('#'))
                .collect();
            let under = one_line(&under.join(" "));
            assert!(
                under.contains(sentence.text),
                "{}: {}",
                sentence.id,
                sentence.text
            );
        }
    }
}
