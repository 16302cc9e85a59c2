//! [`Peer`]: a client that sends arbitrary bytes to an edge and trusts nothing that it receives.
//!
//! Each frame that arrives is verified completely. End of file, reset and silence are told apart,
//! since a reset may destroy an ERROR in transit. The `expect_*` methods are in `expect`.

mod expect;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use prost::Message;
use socket2::SockRef;
use tickstorm_protocol::message::{Auth, Heartbeat, Subscribe};
use tickstorm_timebase::Mode;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::frame::{self, RawFrame};

/// The bound of the `expect_*` methods, so long that only a defect exceeds it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Options of a peer's socket that must be set before it connects.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerOptions {
    /// SO_RCVBUF in bytes. With a small buffer, a peer that does not read fills up soon.
    pub receive_buffer: Option<u32>,
    /// The source address; `None` leaves the choice to the system.
    pub from: Option<IpAddr>,
}

/// The result of [`Peer::next_frame`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A complete frame.
    Frame(RawFrame),
    /// The other side closed the stream in order, `torn` bytes into a frame.
    Eof {
        /// Bytes of a frame that was never finished; 0 at a frame's boundary.
        torn: usize,
    },
    /// The other side reset the connection, `torn` bytes into a frame.
    Reset {
        /// Bytes of a frame that was never finished; 0 at a frame's boundary.
        torn: usize,
    },
    /// No complete frame within the time.
    Timeout,
}

/// A raw connection to an edge.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    unparsed: Vec<u8>,
}

impl Peer {
    /// Connects with default options.
    ///
    /// # Panics
    /// Panics if that fails. Nearly all methods here panic instead of returning an error.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, PeerOptions::default()).await
    }

    /// Connects with the given options.
    ///
    /// # Panics
    /// Panics if that fails.
    pub async fn connect_with(addr: SocketAddr, options: PeerOptions) -> Self {
        let connecting = async {
            let socket = if addr.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            if let Some(bytes) = options.receive_buffer {
                socket.set_recv_buffer_size(bytes)?;
            }
            if let Some(ip) = options.from {
                socket.bind(SocketAddr::new(ip, 0))?;
            }
            let stream = socket.connect(addr).await?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        };
        match timeout(PATIENCE, connecting).await {
            Ok(Ok(stream)) => Self {
                stream,
                unparsed: Vec::new(),
            },
            Ok(Err(error)) => panic!("can't connect to {addr}: {error}"),
            Err(_) => panic!("can't connect to {addr}: no answer within {PATIENCE:?}"),
        }
    }

    /// Returns the local address.
    ///
    /// # Panics
    /// Never, since the socket is connected.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.stream
            .local_addr()
            .expect("a connected socket has an address")
    }

    /// Sends raw bytes. Fails if the edge has closed the connection, for tests in which that is
    /// allowed.
    ///
    /// # Errors
    /// The socket's error, or `TimedOut` if the edge does not read.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match timeout(PATIENCE, self.stream.write_all(bytes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// Sends raw bytes.
    ///
    /// # Panics
    /// Panics if the edge does not accept them.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = self.try_send(bytes).await;
        sent.unwrap_or_else(|error| panic!("can't send {} bytes: {error}", bytes.len()));
    }

    /// Sends each byte in a separate segment.
    ///
    /// # Panics
    /// Panics if the edge does not accept them.
    pub async fn send_bytewise(&mut self, bytes: &[u8]) {
        for byte in bytes.chunks(1) {
            self.send(byte).await;
            tokio::task::yield_now().await;
        }
    }

    /// Sends a message in a valid frame.
    ///
    /// # Panics
    /// Panics if the edge does not accept it.
    pub async fn send_message(&mut self, kind: u8, message: &impl Message) {
        self.send(&frame::frame(kind, &message.encode_to_vec()))
            .await;
    }

    /// Sends AUTH with a user name and a password.
    pub async fn auth(&mut self, username: &str, password: &str) {
        self.send(&auth(username, password)).await;
    }

    /// Sends AUTH with a token.
    pub async fn auth_token(&mut self, token: &str) {
        let message = Auth {
            token: token.to_owned(),
            ..Auth::default()
        };
        self.send_message(frame::AUTH, &message).await;
    }

    /// Sends SUBSCRIBE for the ticks that follow, each sent at its time.
    pub async fn subscribe(&mut self, mode: Mode) {
        self.send(&subscribe(mode, None, false)).await;
    }

    /// Sends SUBSCRIBE with all its fields.
    pub async fn subscribe_with(&mut self, mode: Mode, resume_after_ms: Option<i64>, ahead: bool) {
        self.send(&subscribe(mode, resume_after_ms, ahead)).await;
    }

    /// Sends HEARTBEAT; PONG must echo `client_time_us`.
    pub async fn heartbeat(&mut self, client_time_us: i64) {
        self.send(&heartbeat(client_time_us)).await;
    }

    /// Shuts down the sending side in order; the edge sees end of file.
    ///
    /// # Panics
    /// Panics if the connection no longer exists.
    pub async fn finish(&mut self) {
        self.stream
            .shutdown()
            .await
            .expect("the connection is still open");
    }

    /// Closes the connection so that the edge sees a reset.
    ///
    /// # Panics
    /// Panics if the socket refuses the option, which none does.
    pub fn reset(self) {
        let socket = SockRef::from(&self.stream);
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("any TCP socket accepts SO_LINGER");
    }

    /// Returns what arrives next, within at most `within`.
    ///
    /// # Panics
    /// Panics if the edge sends bytes that are not a valid frame.
    pub async fn next_frame(&mut self, within: Duration) -> Received {
        timeout(within, self.read_frame())
            .await
            .unwrap_or(Received::Timeout)
    }

    /// Waits for the next frame, and returns its type without taking the frame. Returns `None` if
    /// none arrives within [`PATIENCE`], or the stream ends.
    ///
    /// # Panics
    /// Panics if the edge sends bytes that are not a valid frame.
    pub async fn peek_kind(&mut self) -> Option<u8> {
        match self.next_frame(PATIENCE).await {
            Received::Frame(frame) => {
                let bytes = frame::frame(frame.kind, &frame.payload);
                self.unparsed.splice(..0, bytes);
                Some(frame.kind)
            }
            Received::Eof { .. } | Received::Reset { .. } | Received::Timeout => None,
        }
    }

    /// Reads the next frame. Cancel-safe: bytes are kept as soon as they are read.
    async fn read_frame(&mut self) -> Received {
        loop {
            if let Some(frame) = RawFrame::take(&mut self.unparsed) {
                return Received::Frame(frame);
            }
            let outcome = match self.stream.readable().await {
                Ok(()) => read_once(&self.stream, &mut self.unparsed),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(0) => {
                    return Received::Eof {
                        torn: self.unparsed.len(),
                    };
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Received::Reset {
                        torn: self.unparsed.len(),
                    };
                }
                Err(error) => panic!("can't read from the edge: {error}"),
            }
        }
    }
}

/// Reads into a buffer on the stack, so that a thousand peers use no more of the test's memory than
/// the bytes that they have received.
fn read_once(stream: &TcpStream, unparsed: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16_384];
    let count = stream.try_read(&mut buffer)?;
    unparsed.extend_from_slice(&buffer[..count]);
    Ok(count)
}

/// Encodes an AUTH frame with a user name and a password.
#[must_use]
pub fn auth(username: &str, password: &str) -> Vec<u8> {
    let message = Auth {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    };
    frame::frame(frame::AUTH, &message.encode_to_vec())
}

/// Encodes a SUBSCRIBE frame.
#[must_use]
pub fn subscribe(mode: Mode, resume_after_ms: Option<i64>, ahead: bool) -> Vec<u8> {
    let mode = match mode {
        Mode::Second => 0,
        Mode::Minute => 1,
    };
    let message = Subscribe {
        mode,
        resume_after_epoch_ms: resume_after_ms,
        ahead,
    };
    frame::frame(frame::SUBSCRIBE, &message.encode_to_vec())
}

/// Encodes a HEARTBEAT frame.
#[must_use]
pub fn heartbeat(client_time_us: i64) -> Vec<u8> {
    frame::frame(
        frame::HEARTBEAT,
        &Heartbeat { client_time_us }.encode_to_vec(),
    )
}
