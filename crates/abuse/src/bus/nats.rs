//! [`NatsConnection`]: a connection to a NATS server as a thief has it. A client library would
//! refuse to send half of what an attack consists of.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use serde_json::json;
use tickstorm_timebase::{Clock as _, SystemClock};

/// The longest line of the protocol that is read, in bytes. A server's INFO has a few hundred.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The time that the server may take to answer, or to accept what is sent.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Something that the server has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerEvent {
    /// A message of a subscription.
    Message {
        subject: String,
        reply_to: Option<String>,
        payload: Vec<u8>,
    },
    /// An error, such as a permission that is missing.
    Refusal(String),
    Ping,
    Pong,
}

/// Decodes what a server sends. It does no I/O.
#[derive(Debug, Default)]
pub(super) struct ServerDecoder {
    input: Vec<u8>,
    /// The number of bytes of `input` that have been decoded.
    at: usize,
}

impl ServerDecoder {
    pub(super) fn handle_input(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Returns the next event that is complete.
    pub(super) fn poll(&mut self) -> io::Result<Option<ServerEvent>> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the server broke the protocol");
        loop {
            let rest = &self.input[self.at..];
            let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
                return match rest.len() > LINE_BYTES_MAX {
                    true => Err(broken()),
                    false => Ok(None),
                };
            };
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| broken())?;
            let after_line = self.at + end + 2;
            let (verb, arguments) = line.split_once(' ').unwrap_or((line, ""));
            let event = match verb {
                "MSG" => {
                    let words: Vec<_> = arguments.split(' ').collect();
                    let (subject, reply_to, len) = match words[..] {
                        [subject, _, len] => (subject, None, len),
                        [subject, _, reply_to, len] => (subject, Some(reply_to.to_owned()), len),
                        _ => return Err(broken()),
                    };
                    let len: usize = len.parse().map_err(|_| broken())?;
                    let Some(payload) = self.input.get(after_line..after_line + len + 2) else {
                        return Ok(None);
                    };
                    let event = ServerEvent::Message {
                        subject: subject.to_owned(),
                        reply_to,
                        payload: payload[..len].to_vec(),
                    };
                    self.at = after_line + len + 2;
                    return Ok(Some(event));
                }
                "-ERR" => Some(ServerEvent::Refusal(arguments.to_owned())),
                "PING" => Some(ServerEvent::Ping),
                "PONG" => Some(ServerEvent::Pong),
                "INFO" | "+OK" => None,
                _ => return Err(broken()),
            };
            self.at = after_line;
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

/// A connection with a login.
pub(super) struct NatsConnection {
    stream: TcpStream,
    decoder: ServerDecoder,
    output: Vec<u8>,
    events: VecDeque<ServerEvent>,
    buffer: Vec<u8>,
}

impl NatsConnection {
    /// Connects, logs in, and waits until the server has accepted the login.
    pub(super) fn log_in(addr: SocketAddr, user: &str, password: &str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut this = Self {
            stream,
            decoder: ServerDecoder::default(),
            output: Vec::new(),
            events: VecDeque::new(),
            buffer: vec![0; 64 << 10],
        };
        let options = json!({
            "user": user,
            "pass": password,
            "name": "thief",
            "verbose": false,
            "pedantic": false,
            "headers": false,
        });
        this.output
            .extend_from_slice(format!("CONNECT {options}\r\n").as_bytes());
        this.await_all()?;
        match this.events.pop_front() {
            None => Ok(this),
            Some(event) => Err(io::Error::other(format!("the login failed: {event:?}"))),
        }
    }

    /// Subscribes to a subject.
    pub(super) fn subscribe(&mut self, subject: &str, id: u64) {
        self.output
            .extend_from_slice(format!("SUB {subject} {id}\r\n").as_bytes());
    }

    /// Appends a message to the output.
    pub(super) fn publish(&mut self, subject: &str, reply_to: Option<&str>, payload: &[u8]) {
        let head = match reply_to {
            None => format!("PUB {subject} {}\r\n", payload.len()),
            Some(reply_to) => format!("PUB {subject} {reply_to} {}\r\n", payload.len()),
        };
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(payload);
        self.output.extend_from_slice(b"\r\n");
    }

    /// Sends the output.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Returns the events that have arrived. Pings are answered.
    pub(super) fn take_events(&mut self) -> io::Result<Vec<ServerEvent>> {
        self.receive()?;
        Ok(self.events.drain(..).collect())
    }

    /// Sends the output, and waits until the server has handled all of it.
    pub(super) fn await_all(&mut self) -> io::Result<()> {
        self.output.extend_from_slice(b"PING\r\n");
        self.flush()?;
        let until = SystemClock.now() + PATIENCE;
        loop {
            self.receive()?;
            if let Some(at) = self
                .events
                .iter()
                .position(|event| *event == ServerEvent::Pong)
            {
                self.events.remove(at);
                return Ok(());
            }
            if SystemClock.now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            let len = match recv(&self.stream, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, len)) => len,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.decoder.handle_input(&self.buffer[..len]);
            while let Some(event) = self.decoder.poll()? {
                if event == ServerEvent::Ping {
                    self.output.extend_from_slice(b"PONG\r\n");
                } else {
                    self.events.push_back(event);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const STREAM: &[u8] =
        b"INFO {\"a\":1}\r\n+OK\r\nPING\r\nMSG a.b 1 r.x 4\r\n\r\n\r\n\r\nMSG c 2 0\r\n\
        \r\n-ERR 'Permissions Violation for Publish to \"a\"'\r\nPONG\r\n";

    fn events(piece: usize) -> Vec<ServerEvent> {
        let mut decoder = ServerDecoder::default();
        let mut events = Vec::new();
        for bytes in STREAM.chunks(piece) {
            decoder.handle_input(bytes);
            while let Some(event) = decoder.poll().unwrap() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn a_stream_in_any_pieces_has_the_same_events() {
        let message =
            |subject: &str, reply_to: Option<&str>, payload: &[u8]| ServerEvent::Message {
                subject: subject.into(),
                reply_to: reply_to.map(Into::into),
                payload: payload.into(),
            };
        let expected = [
            ServerEvent::Ping,
            message("a.b", Some("r.x"), b"\r\n\r\n"),
            message("c", None, b""),
            ServerEvent::Refusal("'Permissions Violation for Publish to \"a\"'".into()),
            ServerEvent::Pong,
        ];
        for piece in 1..=STREAM.len() {
            assert_eq!(events(piece), expected, "pieces of {piece} bytes");
        }
    }

    #[test]
    fn what_is_not_nats_is_an_error() {
        for stream in [&b"HTTP/1.1 400\r\n"[..], b"MSG a\r\n", b"MSG a 1 x\r\n"] {
            let mut decoder = ServerDecoder::default();
            decoder.handle_input(stream);
            assert!(decoder.poll().is_err());
        }
        let mut decoder = ServerDecoder::default();
        decoder.handle_input(&vec![b'x'; LINE_BYTES_MAX + 1]);
        assert!(decoder.poll().is_err());
    }

    #[test]
    fn a_login_is_sent_and_messages_follow_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut stream = stream;
            stream.write_all(b"INFO {}\r\n").unwrap();
            let mut heard = Vec::new();
            for _ in 0..2 {
                heard.push(lines.next().unwrap().unwrap());
            }
            stream.write_all(b"PONG\r\nPING\r\n").unwrap();
            for _ in 0..4 {
                heard.push(lines.next().unwrap().unwrap());
            }
            heard
        });
        let mut nats = NatsConnection::log_in(addr, "clock-2", "secret").unwrap();
        let until = SystemClock.now() + PATIENCE;
        while nats.output.is_empty() {
            assert_eq!(nats.take_events().unwrap(), [], "the ping is answered");
            assert!(SystemClock.now() < until, "no PING");
        }
        nats.subscribe("a.*", 1);
        nats.publish("b", Some("r"), b"hi");
        nats.flush().unwrap();
        let heard = server.join().unwrap();
        assert!(heard[0].starts_with("CONNECT {"), "{heard:?}");
        assert!(heard[0].contains(r#""user":"clock-2""#), "{heard:?}");
        assert_eq!(heard[1..], ["PING", "PONG", "SUB a.* 1", "PUB b r 2", "hi"]);
    }
}
