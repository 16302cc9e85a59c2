//! [`Peer`]: a client of an edge that sends any bytes it is told to and believes nothing it is sent. Each frame that arrives
//! is checked to the last bit; end of file, reset and silence are told apart, since a reset may eat an ERROR on its way. What
//! tests expect to come lies in `expect`.

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

/// How long the `expect_*` calls wait: so long that only a defect takes it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Options of a peer's socket that must be set before it connects.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerOptions {
    /// SO_RCVBUF in bytes: a small one lets a peer that doesn't read fill up soon.
    pub receive_buffer: Option<u32>,
    /// The address to come from; the system's choice where there is none.
    pub from: Option<IpAddr>,
}

/// What came next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole frame.
    Frame(RawFrame),
    /// The other side ended the stream in order, `torn` bytes into a frame.
    Eof {
        /// Bytes of a frame that was never finished; 0 at a frame's boundary.
        torn: usize,
    },
    /// The other side reset the connection, `torn` bytes into a frame.
    Reset {
        /// Bytes of a frame that was never finished; 0 at a frame's boundary.
        torn: usize,
    },
    /// Nothing that completes a frame.
    Timeout,
}

/// A raw connection to an edge.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    unparsed: Vec<u8>,
}

impl Peer {
    /// Connects with the kernel's buffers.
    ///
    /// # Panics
    /// Where that fails, as all calls here that return no `Result`.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, PeerOptions::default()).await
    }

    /// Connects with `socket`'s options.
    ///
    /// # Panics
    /// Where that fails.
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
            Ok(Err(error)) => panic!("connecting to {addr}: {error}"),
            Err(_) => panic!("connecting to {addr}: nothing within {PATIENCE:?}"),
        }
    }

    /// This side's address.
    ///
    /// # Panics
    /// Never on a connected socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.stream
            .local_addr()
            .expect("a connected socket has an address")
    }

    /// Sends bytes as they are. Fails where the edge has closed, which a test may be about.
    ///
    /// # Errors
    /// What the socket says, or `TimedOut` where the edge takes nothing.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match timeout(PATIENCE, self.stream.write_all(bytes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// Where the edge doesn't take them.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = self.try_send(bytes).await;
        sent.unwrap_or_else(|error| panic!("sending {} bytes: {error}", bytes.len()));
    }

    /// Sends each byte in a segment of its own.
    ///
    /// # Panics
    /// Where the edge doesn't take them.
    pub async fn send_bytewise(&mut self, bytes: &[u8]) {
        for byte in bytes.chunks(1) {
            self.send(byte).await;
            tokio::task::yield_now().await;
        }
    }

    /// Sends a good frame of a message.
    ///
    /// # Panics
    /// Where the edge doesn't take it.
    pub async fn send_message(&mut self, kind: u8, message: &impl Message) {
        self.send(&frame::frame(kind, &message.encode_to_vec()))
            .await;
    }

    /// Sends AUTH with user and password.
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

    /// Sends SUBSCRIBE for ticks from now on, at their time.
    pub async fn subscribe(&mut self, mode: Mode) {
        self.send(&subscribe(mode, None, false)).await;
    }

    /// Sends SUBSCRIBE with everything that it can say.
    pub async fn subscribe_with(&mut self, mode: Mode, resume_after_ms: Option<i64>, ahead: bool) {
        self.send(&subscribe(mode, resume_after_ms, ahead)).await;
    }

    /// Sends HEARTBEAT; `client_time_us` is what PONG is to echo.
    pub async fn heartbeat(&mut self, client_time_us: i64) {
        self.send(&heartbeat(client_time_us)).await;
    }

    /// Ends this side's sending in order; the edge sees end of file.
    ///
    /// # Panics
    /// Where the connection is gone already.
    pub async fn finish(&mut self) {
        self.stream
            .shutdown()
            .await
            .expect("shutting the sending side of a live connection");
    }

    /// Ends the connection so that the edge sees a reset.
    ///
    /// # Panics
    /// Where the socket refuses the option, which none does.
    pub fn reset(self) {
        let socket = SockRef::from(&self.stream);
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("any TCP socket takes SO_LINGER");
    }

    /// What comes next, waiting for it at most `within`.
    ///
    /// # Panics
    /// Where the edge sends bytes that are no valid frame.
    pub async fn next_frame(&mut self, within: Duration) -> Received {
        timeout(within, self.read_frame())
            .await
            .unwrap_or(Received::Timeout)
    }

    /// Cancelling it loses nothing: bytes are kept as soon as they are read.
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
                Err(error) => panic!("reading from the edge: {error}"),
            }
        }
    }
}

/// Reads by way of the stack, so that a thousand peers cost the test's own memory nothing but what they were sent.
fn read_once(stream: &TcpStream, unparsed: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16_384];
    let count = stream.try_read(&mut buffer)?;
    unparsed.extend_from_slice(&buffer[..count]);
    Ok(count)
}

/// An AUTH frame with user and password.
#[must_use]
pub fn auth(username: &str, password: &str) -> Vec<u8> {
    let message = Auth {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    };
    frame::frame(frame::AUTH, &message.encode_to_vec())
}

/// A SUBSCRIBE frame.
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

/// A HEARTBEAT frame.
#[must_use]
pub fn heartbeat(client_time_us: i64) -> Vec<u8> {
    frame::frame(
        frame::HEARTBEAT,
        &Heartbeat { client_time_us }.encode_to_vec(),
    )
}
