//! The NATS client protocol, as far as the bus needs it, without I/O: it decodes what a server
//! sends and encodes what a client sends.
//!
//! Whatever another client publishes, the connection stays: subjects may contain any bytes, and a
//! message that is too long is skipped as it arrives. The server is trusted to keep to the
//! protocol.

use bytes::{Buf, BufMut, BytesMut};

use crate::headers::HEADER_BYTES_MAX;
use crate::message::{DropReason, MESSAGE_BYTES_MAX};

/// The maximum length of a line from the server, in bytes. INFO is the longest, with the addresses
/// of all servers of a cluster.
const LINE_BYTES_MAX: usize = 65_536;

/// The number of bytes to read at once. In a flood that is a hundred messages.
const READ_BYTES: usize = 16_384;

/// The end of each line and each payload.
const END: &[u8] = b"\r\n";

/// Something that the server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServerOp {
    /// The JSON that describes the server.
    Info(Vec<u8>),
    Message(Delivery),
    Ping,
    Pong,
    Ok,
    /// An error's text, without its quotes.
    Error(String),
}

/// A message that the server delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The number of the subscription.
    pub(super) sid: u64,
    pub(super) subject: Vec<u8>,
    pub(super) reply_to: Option<Vec<u8>>,
    /// The headers; empty if there are none.
    pub(super) headers: BytesMut,
    /// The payload, or the reason why it was skipped.
    pub(super) payload: Result<BytesMut, DropReason>,
}

/// The server did not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("the server sent a line of more than {LINE_BYTES_MAX} bytes")]
    LongLine,
    #[error("the server sent a line that is not of the NATS protocol")]
    UnknownLine,
    #[error("the server sent a message that does not end where it should")]
    UnendedPayload,
}

/// The lengths of the parts of a message that follow its line, in bytes.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    headers: usize,
    payload: usize,
}

impl Lengths {
    const fn total(self) -> usize {
        self.headers.saturating_add(self.payload)
    }
}

/// Decodes the bytes that a server sends.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Bytes that are not decoded yet: at most a line, or a message of the maximum length, and one
    /// read.
    buffer: BytesMut,
    /// The number of bytes at the start of `buffer` that contain no end of a line.
    searched: usize,
    /// The number of bytes of a payload, and of its end, that remain to be skipped.
    skip: usize,
    /// The message whose payload is not complete.
    head: Option<(Delivery, Lengths)>,
}

impl Decoder {
    /// Returns the buffer to append received bytes to, with room for [`READ_BYTES`].
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// Returns the next thing that the server sent; `None` if it is not complete.
    ///
    /// # Errors
    /// Returns an error if the server does not keep to the protocol.
    pub(super) fn next(&mut self) -> Result<Option<ServerOp>, WireError> {
        let skipped = self.skip.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.skip -= skipped;
        if self.skip > 0 {
            return Ok(None);
        }
        if self.head.is_none() {
            let Some(line) = self.line()? else {
                return Ok(None);
            };
            let Some((delivery, lengths)) = message_head(&line) else {
                return control(&line).map(Some);
            };
            if lengths.payload > MESSAGE_BYTES_MAX || lengths.headers > HEADER_BYTES_MAX {
                self.skip = lengths.total().saturating_add(END.len());
                return Ok(Some(ServerOp::Message(Delivery {
                    payload: Err(DropReason::Oversized),
                    ..delivery
                })));
            }
            self.head = Some((delivery, lengths));
        }
        self.payload()
    }

    /// Takes the next line off the buffer, without its end.
    fn line(&mut self) -> Result<Option<BytesMut>, WireError> {
        let unsearched = &self.buffer[self.searched..];
        let Some(end) = unsearched.windows(END.len()).position(|two| two == END) else {
            // The last byte may be the first of the end.
            self.searched = self.buffer.len().saturating_sub(1);
            return if self.buffer.len() > LINE_BYTES_MAX {
                Err(WireError::LongLine)
            } else {
                Ok(None)
            };
        };
        let line = self.buffer.split_to(self.searched + end);
        self.buffer.advance(END.len());
        self.searched = 0;
        Ok(Some(line))
    }

    /// Takes the headers and the payload of the pending message off the buffer, if they are
    /// complete.
    fn payload(&mut self) -> Result<Option<ServerOp>, WireError> {
        let received = self.buffer.len();
        let is_complete = |lengths: Lengths| received >= lengths.total() + END.len();
        let Some((delivery, lengths)) = self.head.take_if(|(_, lengths)| is_complete(*lengths))
        else {
            return Ok(None);
        };
        let headers = self.buffer.split_to(lengths.headers);
        let payload = self.buffer.split_to(lengths.payload);
        if !self.buffer.starts_with(END) {
            return Err(WireError::UnendedPayload);
        }
        self.buffer.advance(END.len());
        Ok(Some(ServerOp::Message(Delivery {
            headers,
            payload: Ok(payload),
            ..delivery
        })))
    }
}

/// Reads the line before a message, and returns the lengths of the message's parts with it:
/// `MSG subject sid [reply] length`, or `HMSG subject sid [reply] header-length total-length`.
fn message_head(line: &[u8]) -> Option<(Delivery, Lengths)> {
    let (words, has_headers) = match line.strip_prefix(b"HMSG ") {
        Some(words) => (words, true),
        None => (line.strip_prefix(b"MSG ")?, false),
    };
    let mut words = words.split(|&byte| byte == b' ');
    let (subject, sid) = (words.next()?, words.next()?);
    let rest = [words.next(), words.next(), words.next(), words.next()];
    let (reply_to, headers, total) = match (has_headers, rest) {
        (false, [Some(total), None, ..]) => (None, None, total),
        (false, [reply_to, Some(total), None, _]) => (reply_to, None, total),
        (true, [headers, Some(total), None, _]) => (None, headers, total),
        (true, [reply_to, headers, Some(total), None]) => (reply_to, headers, total),
        (_, _) => return None,
    };
    let length = |word: &[u8]| usize::try_from(number(word)?).ok();
    let (headers, total) = (headers.map_or(Some(0), length)?, length(total)?);
    let lengths = Lengths {
        headers,
        payload: total.checked_sub(headers)?,
    };
    let delivery = Delivery {
        sid: number(sid)?,
        subject: subject.to_vec(),
        reply_to: reply_to.map(<[u8]>::to_vec),
        headers: BytesMut::new(),
        payload: Ok(BytesMut::new()),
    };
    Some((delivery, lengths))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads a line that is not followed by a payload.
fn control(line: &[u8]) -> Result<ServerOp, WireError> {
    if let Some(json) = line.strip_prefix(b"INFO ") {
        return Ok(ServerOp::Info(json.to_vec()));
    }
    if let Some(text) = line.strip_prefix(b"-ERR") {
        let text = String::from_utf8_lossy(text);
        let text = text.trim().trim_matches('\'');
        return Ok(ServerOp::Error(text.to_owned()));
    }
    match line {
        b"PING" => Ok(ServerOp::Ping),
        b"PONG" => Ok(ServerOp::Pong),
        b"+OK" => Ok(ServerOp::Ok),
        _ => Err(WireError::UnknownLine),
    }
}

/// Returns the subject of the subscription that an error's text says is refused. The text may go
/// on with the number of a subscription that the client had.
pub(super) fn refused_subscription(error: &str) -> Option<&str> {
    let subject = error.strip_prefix("Permissions Violation for Subscription to \"")?;
    subject.split_once('"').map(|(subject, _)| subject)
}

/// Returns the subject of the message that an error's text says is refused, as the server quotes
/// it. The subjects of the bus need no escapes.
pub(super) fn refused_publish(error: &str) -> Option<&str> {
    let subject = error.strip_prefix("Permissions Violation for Publish to \"")?;
    subject.strip_suffix('"')
}

/// Encodes the client's side of the protocol.
pub(super) mod encode {
    use super::{BufMut, BytesMut, END};

    pub(in super::super) const PING: &[u8] = b"PING\r\n";
    pub(in super::super) const PONG: &[u8] = b"PONG\r\n";

    pub(in super::super) fn subscribe(subject: &str, sid: u64) -> String {
        format!("SUB {subject} {sid}\r\n")
    }

    pub(in super::super) fn unsubscribe(sid: u64) -> String {
        format!("UNSUB {sid}\r\n")
    }

    /// Encodes a message with headers.
    pub(in super::super) fn publish_with_headers(
        subject: &str,
        headers: &str,
        payload: &[u8],
    ) -> BytesMut {
        let total = headers.len() + payload.len();
        let head = format!("HPUB {subject} {} {total}\r\n", headers.len());
        message(&head, &[headers.as_bytes(), payload])
    }

    pub(in super::super) fn publish(
        subject: &str,
        reply_to: Option<&str>,
        payload: &[u8],
    ) -> BytesMut {
        let head = match reply_to {
            Some(reply_to) => format!("PUB {subject} {reply_to} {}\r\n", payload.len()),
            None => format!("PUB {subject} {}\r\n", payload.len()),
        };
        message(&head, &[payload])
    }

    fn message(head: &str, parts: &[&[u8]]) -> BytesMut {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = BytesMut::with_capacity(head.len() + len + END.len());
        bytes.put_slice(head.as_bytes());
        for part in parts {
            bytes.put_slice(part);
        }
        bytes.put_slice(END);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes `bytes`, which arrive in chunks that end at `cuts`.
    fn decode(bytes: &[u8], cuts: &[usize]) -> Result<Vec<ServerOp>, WireError> {
        let mut decoder = Decoder::default();
        let mut ops = Vec::new();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            decoder.buffer().extend_from_slice(&bytes[pair[0]..pair[1]]);
            while let Some(op) = decoder.next()? {
                ops.push(op);
            }
            assert!(decoder.buffer.len() <= LINE_BYTES_MAX + 2 * MESSAGE_BYTES_MAX);
        }
        Ok(ops)
    }

    fn message(subject: &[u8], reply_to: Option<&[u8]>, payload: &[u8]) -> ServerOp {
        ServerOp::Message(Delivery {
            sid: 7,
            subject: subject.to_vec(),
            reply_to: reply_to.map(<[u8]>::to_vec),
            headers: BytesMut::new(),
            payload: Ok(payload.into()),
        })
    }

    #[test]
    fn everything_that_a_server_sends_is_decoded() {
        let bytes = b"INFO {\"a\":1}\r\n+OK\r\nPING\r\nPONG\r\n-ERR 'Stale Connection'\r\n\
                      MSG a.b 7 2\r\nhi\r\nMSG a.b 7 c.d 0\r\n\r\nMSG a 7 4\r\n\r\n\r\n\r\n";
        let expected = [
            ServerOp::Info(b"{\"a\":1}".to_vec()),
            ServerOp::Ok,
            ServerOp::Ping,
            ServerOp::Pong,
            ServerOp::Error("Stale Connection".into()),
            message(b"a.b", None, b"hi"),
            message(b"a.b", Some(b"c.d"), b""),
            message(b"a", None, b"\r\n\r\n"),
        ];
        assert_eq!(decode(bytes, &[]).unwrap(), expected);
        let every: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(decode(bytes, &every).unwrap(), expected);
    }

    fn with_headers(reply_to: Option<&[u8]>, headers: &[u8], payload: &[u8]) -> ServerOp {
        ServerOp::Message(Delivery {
            sid: 7,
            subject: b"a.b".to_vec(),
            reply_to: reply_to.map(<[u8]>::to_vec),
            headers: headers.into(),
            payload: Ok(payload.into()),
        })
    }

    #[test]
    fn messages_with_headers_are_decoded_whatever_the_headers_hold() {
        let bytes = b"HMSG a.b 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n\
                      HMSG a.b 7 c.d 3 3\r\n\xFF\r\n\r\n\
                      HMSG a.b 7 0 2\r\nhi\r\nMSG a.b 7 2\r\nhi\r\n";
        let expected = [
            with_headers(None, b"NATS/1.0\r\n\r\n", b"hi"),
            with_headers(Some(b"c.d"), b"\xFF\r\n", b""),
            with_headers(None, b"", b"hi"),
            message(b"a.b", None, b"hi"),
        ];
        assert_eq!(decode(bytes, &[]).unwrap(), expected);
        let every: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(decode(bytes, &every).unwrap(), expected);
    }

    #[test]
    fn a_message_with_long_headers_is_skipped_as_it_arrives() {
        let headers = HEADER_BYTES_MAX + 1;
        let mut bytes = format!("HMSG a.b 7 {headers} {}\r\n", headers + 2).into_bytes();
        bytes.extend_from_slice(&vec![b'\r'; headers + 2]);
        bytes.extend_from_slice(b"\r\nPING\r\n");
        let skipped = ServerOp::Message(Delivery {
            sid: 7,
            subject: b"a.b".to_vec(),
            reply_to: None,
            headers: BytesMut::new(),
            payload: Err(DropReason::Oversized),
        });
        let cuts: Vec<_> = (0..bytes.len()).step_by(100).collect();
        assert_eq!(decode(&bytes, &cuts).unwrap(), [skipped, ServerOp::Ping]);
    }

    #[test]
    fn what_is_published_with_headers_has_both_lengths() {
        let bytes = encode::publish_with_headers("a.b", "NATS/1.0\r\n\r\n", b"hi");
        assert_eq!(bytes, b"HPUB a.b 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"[..]);
        assert_eq!(bytes.len(), bytes.capacity(), "it was not reallocated");
    }

    #[test]
    fn an_error_names_the_subscription_that_is_refused() {
        for text in [
            r#"Permissions Violation for Subscription to "a.*""#,
            r#"Permissions Violation for Subscription to "a.*" (sid "4")"#,
        ] {
            assert_eq!(refused_subscription(text), Some("a.*"));
        }
        for text in [
            r#"Permissions Violation for Publish to "a.*""#,
            "Permissions Violation for Subscription to \"a",
            "maximum subscriptions exceeded",
        ] {
            assert_eq!(refused_subscription(text), None);
        }
    }

    #[test]
    fn an_error_names_the_subject_of_the_message_that_is_refused() {
        let text = r#"Permissions Violation for Publish to "a.b""#;
        assert_eq!(refused_publish(text), Some("a.b"));
        for text in [
            r#"Permissions Violation for Subscription to "a.b""#,
            "Permissions Violation for Publish to \"a.b",
            "Permissions Violation for Publish to \"",
            "Permissions Violation",
        ] {
            assert_eq!(refused_publish(text), None);
        }
    }

    #[test]
    fn subjects_of_any_bytes_and_payloads_of_any_length_do_not_end_a_connection() {
        let mut bytes = b"MSG a\xFF 7 \xC2\xA0\x0B\x00 2\r\nhi\r\nMSG b 7 1000000\r\n".to_vec();
        bytes.extend_from_slice(&[b'\r'; 1_000_000]);
        bytes.extend_from_slice(b"\r\nPING\r\n");
        let long = ServerOp::Message(Delivery {
            sid: 7,
            subject: b"b".to_vec(),
            reply_to: None,
            headers: BytesMut::new(),
            payload: Err(DropReason::Oversized),
        });
        let expected = [
            message(b"a\xFF", Some(b"\xC2\xA0\x0B\x00"), b"hi"),
            long,
            ServerOp::Ping,
        ];
        let cuts: Vec<_> = (0..bytes.len()).step_by(1_000).collect();
        assert_eq!(decode(&bytes, &cuts).unwrap(), expected);
    }

    #[test]
    fn a_server_that_does_not_keep_to_the_protocol_is_given_up() {
        for (bytes, error) in [
            (b"HELLO\r\n".to_vec(), WireError::UnknownLine),
            (b"MSG a x 1\r\n".to_vec(), WireError::UnknownLine),
            (b"MSG a 1 b 1 c\r\n".to_vec(), WireError::UnknownLine),
            (b"MSG a 1\r\n".to_vec(), WireError::UnknownLine),
            (b"HMSG a 1 2\r\n".to_vec(), WireError::UnknownLine),
            (b"HMSG a 1 3 2\r\n".to_vec(), WireError::UnknownLine),
            (b"HMSG a 1 x 2\r\n".to_vec(), WireError::UnknownLine),
            (b"HMSG a 1 b 2 2 2\r\n".to_vec(), WireError::UnknownLine),
            (b"MSG a 1 2\r\nhi  ".to_vec(), WireError::UnendedPayload),
            (vec![b'x'; LINE_BYTES_MAX + 1], WireError::LongLine),
        ] {
            assert_eq!(decode(&bytes, &[]), Err(error));
        }
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_they_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1_500), 1..5),
            cuts in prop::collection::vec(0_usize..10_000, 0..20),
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for payload in &payloads {
                bytes.extend_from_slice(format!("MSG s 7 r {}\r\n", payload.len()).as_bytes());
                bytes.extend_from_slice(payload);
                bytes.extend_from_slice(END);
                expected.push(ServerOp::Message(Delivery {
                    sid: 7,
                    subject: b"s".to_vec(),
                    reply_to: Some(b"r".to_vec()),
                    headers: BytesMut::new(),
                    payload: if payload.len() > MESSAGE_BYTES_MAX {
                        Err(DropReason::Oversized)
                    } else {
                        Ok(payload.as_slice().into())
                    },
                }));
            }
            prop_assert_eq!(decode(&bytes, &cuts), Ok(expected));
        }

        #[test]
        fn noise_is_decoded_or_refused(bytes: Vec<u8>, cuts: Vec<usize>) {
            let _ = decode(&bytes, &cuts);
        }
    }
}
