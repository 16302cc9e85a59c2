//! Connections that send AUTH together, and the edge's answers. They do not subscribe: ticks and
//! their order are verified at the subscribers of the load generator.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::SockRef;
use tickstorm_protocol::frame::{Decoder, Rules};
use tickstorm_tls::{ClientHandshake, ClientSession, HandshakeProgress, Opened};

use super::answer::{AuthFault, judge};
use super::tokens::{AuthVerdict, RandomTokens};
use crate::machine::now_ns;
use crate::tls::ClientTls;

/// The time that a connect over loopback may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The time after which an AUTH counts as unanswered.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// The longest single wait for answers, in milliseconds.
const WAIT_MS: u16 = 10;
/// The largest number of events per wait.
const EVENTS: usize = 256;
/// The size of the buffer for a read: the answer to an AUTH is far shorter.
const READ_LEN: usize = 4_096;

/// The connections of one round.
pub(super) struct AuthConnections {
    epoll: Epoll,
    clients: Vec<AuthClient>,
}

struct AuthClient {
    stream: TcpStream,
    tls: Option<AuthTls>,
    /// The AUTH frame.
    frame: Vec<u8>,
    expected: AuthVerdict,
    decoder: Decoder,
    stage: AuthStage,
}

/// TLS of a connection.
struct AuthTls {
    session: Box<ClientSession>,
    /// Input that has not been opened.
    input: Vec<u8>,
}

/// The stage of an AUTH. Times are from the machine's own clock, in nanoseconds.
#[derive(Debug)]
enum AuthStage {
    Connected,
    Sent {
        at_ns: u64,
    },
    Answered {
        sent_ns: u64,
        at_ns: u64,
    },
    Failed {
        sent_ns: Option<u64>,
        fault: AuthFault,
    },
}

/// The outcome of one AUTH.
pub(super) struct SentAuth {
    pub(super) expected: AuthVerdict,
    /// When it was sent; `None` if it could not be.
    pub(super) sent_ns: Option<u64>,
    /// When the answer arrived, or why there was no right answer.
    pub(super) answered: Result<u64, AuthFault>,
}

impl AuthConnections {
    /// Makes a connection for each of `verdicts`, without sending any frame yet.
    pub(super) fn connect(
        addr: SocketAddr,
        tls: Option<&ClientTls>,
        tokens: &mut RandomTokens,
        verdicts: impl Iterator<Item = AuthVerdict>,
    ) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut clients = Vec::new();
        for expected in verdicts {
            let (stream, tls) = dial(addr, tls).with_context(|| format!("connect to {addr}"))?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, clients.len() as u64);
            epoll.add(&stream, event)?;
            clients.push(AuthClient {
                stream,
                tls,
                frame: tokens.auth(expected),
                expected,
                decoder: Decoder::default(),
                stage: AuthStage::Connected,
            });
        }
        Ok(Self { epoll, clients })
    }

    /// Sends the AUTHs of all connections, one right after another.
    pub(super) fn send(&mut self) {
        for client in &mut self.clients {
            client.send();
        }
    }

    /// Waits until all are answered, for at most [`ANSWERED_WITHIN`].
    pub(super) fn await_answers(&mut self) -> anyhow::Result<()> {
        let until_ns =
            now_ns().saturating_add(u64::try_from(ANSWERED_WITHIN.as_nanos()).unwrap_or(u64::MAX));
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while now_ns() < until_ns && self.clients.iter().any(AuthClient::is_waiting) {
            let ready = match self.epoll.wait(&mut events, WAIT_MS) {
                Err(Errno::EINTR) => 0,
                outcome => outcome?,
            };
            for event in &events[..ready] {
                let client = usize::try_from(event.data())
                    .ok()
                    .and_then(|number| self.clients.get_mut(number));
                if let Some(client) = client {
                    client.read();
                    if !client.is_waiting() {
                        // Later events, such as the end of the stream after an ERROR, are not an
                        // answer.
                        self.epoll.delete(&client.stream)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Closes all connections by a reset, so that no port is left in TIME_WAIT, and returns the
    /// outcome of each AUTH.
    pub(super) fn finish(mut self) -> Vec<SentAuth> {
        let clients = std::mem::take(&mut self.clients);
        clients.into_iter().map(AuthClient::finish).collect()
    }
}

impl AuthClient {
    fn is_waiting(&self) -> bool {
        matches!(self.stage, AuthStage::Sent { .. })
    }

    fn send(&mut self) {
        let at_ns = now_ns();
        if let Some(tls) = &mut self.tls {
            let mut sealed = Vec::new();
            if let Err(error) = tls.session.seal(&self.frame, &mut sealed) {
                let fault = AuthFault::Send(io::Error::other(error));
                let sent_ns = None;
                self.stage = AuthStage::Failed { sent_ns, fault };
                return;
            }
            self.frame = sealed;
        }
        // A newly connected socket accepts all of a few hundred bytes, unless it is broken.
        self.stage = match self.stream.write_all(&self.frame) {
            Ok(()) => AuthStage::Sent { at_ns },
            Err(error) => AuthStage::Failed {
                sent_ns: None,
                fault: AuthFault::Send(error),
            },
        };
    }

    fn read(&mut self) {
        let AuthStage::Sent { at_ns: sent_ns } = self.stage else {
            return;
        };
        match self.take_answer() {
            Ok(false) => {}
            Ok(true) => {
                self.stage = AuthStage::Answered {
                    sent_ns,
                    at_ns: now_ns(),
                };
            }
            Err(fault) => {
                self.stage = AuthStage::Failed {
                    sent_ns: Some(sent_ns),
                    fault,
                };
            }
        }
    }

    /// Reads once. Returns false if the answer is not complete yet.
    fn take_answer(&mut self) -> Result<bool, AuthFault> {
        let mut bytes = [0; READ_LEN];
        let len = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(AuthFault::Closed),
            Ok(len) => len,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(AuthFault::Receive(error)),
        };
        let opened;
        let mut input = match &mut self.tls {
            None => &bytes[..len],
            Some(tls) => {
                opened = tls.open(&bytes[..len])?;
                &opened
            }
        };
        match self.decoder.decode(Rules::CLIENT, &mut input)? {
            Some(frame) => judge(&frame, self.expected).map(|()| true),
            None => Ok(false),
        }
    }

    fn finish(self) -> SentAuth {
        // If this is refused, the connection ends by an ordinary close.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        let (sent_ns, answered) = match self.stage {
            AuthStage::Connected => (None, Err(AuthFault::Unanswered)),
            AuthStage::Sent { at_ns } => (Some(at_ns), Err(AuthFault::Unanswered)),
            AuthStage::Answered { sent_ns, at_ns } => (Some(sent_ns), Ok(at_ns)),
            AuthStage::Failed { sent_ns, fault } => (sent_ns, Err(fault)),
        };
        SentAuth {
            expected: self.expected,
            sent_ns,
            answered,
        }
    }
}

impl AuthTls {
    /// Shakes hands over a blocking stream.
    fn shake_hands(stream: &mut TcpStream, tls: &ClientTls) -> anyhow::Result<Self> {
        let mut output = Vec::new();
        let (config, name) = (Arc::clone(&tls.config), tls.name.clone());
        let mut handshake = ClientHandshake::start(config, name, &mut output)?;
        let mut bytes = [0; READ_LEN];
        loop {
            stream.write_all(&output)?;
            output.clear();
            let len = stream.read(&mut bytes)?;
            anyhow::ensure!(
                len > 0,
                "the edge closed the connection during the handshake"
            );
            let progress = handshake.handle_input(&bytes[..len], &mut output)?;
            if let HandshakeProgress::Established(established) = progress {
                stream.write_all(&output)?;
                return Ok(Self {
                    session: established.session,
                    input: established.unread,
                });
            }
        }
    }

    /// Takes input, and returns the contents of the records that are now complete.
    fn open(&mut self, bytes: &[u8]) -> Result<Vec<u8>, AuthFault> {
        self.input.extend_from_slice(bytes);
        let mut opened = Vec::new();
        loop {
            match self.session.open(&mut self.input)? {
                Opened::Incomplete => return Ok(opened),
                Opened::Record { record, content } => {
                    opened.extend_from_slice(&self.input[content]);
                    self.input.drain(..record);
                }
                Opened::Closed if opened.is_empty() => return Err(AuthFault::Closed),
                Opened::Closed => return Ok(opened),
            }
        }
    }
}

fn dial(addr: SocketAddr, tls: Option<&ClientTls>) -> anyhow::Result<(TcpStream, Option<AuthTls>)> {
    let mut stream = TcpStream::connect_timeout(&addr, CONNECT_WITHIN)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CONNECT_WITHIN))?;
    let tls = match tls {
        Some(tls) => Some(AuthTls::shake_hands(&mut stream, tls).context("TLS handshake")?),
        None => None,
    };
    stream.set_nonblocking(true)?;
    Ok((stream, tls))
}
