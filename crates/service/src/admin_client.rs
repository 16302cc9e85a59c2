//! Asks an admin port over HTTP or HTTPS, within a bounded time: for the health check of a daemon,
//! and for people who want to see several daemons. It only reads, and sends no token.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    str::FromStr,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use tickstorm_timebase::{Clock as _, Mono, SystemClock};

use crate::admin::reachable;

/// The time limit for everything together, from looking up the host to the end of the response. It
/// is below the timeout of a probe, for which orchestrators can be configured to 5 s or more, and
/// far above the time in which a live daemon responds.
pub const TIME_MAX: Duration = Duration::from_secs(2);

/// The pause before the daemon is asked again because it closed the connection without an answer. A
/// daemon that has too many connections closes some to make room, and this may be one of them.
const RETRY: Duration = Duration::from_millis(10);

/// The maximum number of bytes of a response that are read. The status of an edge with 64 clocks,
/// each of them with an alarm, has about 40 KB.
const RESPONSE_BYTES_MAX: u64 = 1_048_576;

/// Whether an admin port has TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// It has none.
    Http,
    /// It has.
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// The place of an admin port. Its `Display` output is a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminPort {
    scheme: Scheme,
    /// A name or an address, without the brackets of an IPv6 address.
    host: String,
    port: u16,
}

impl AdminPort {
    /// Returns the port of a daemon on this machine that listens on `addr`.
    #[must_use]
    pub fn on_this_machine(scheme: Scheme, addr: SocketAddr) -> Self {
        let addr = reachable(addr);
        Self {
            scheme,
            host: addr.ip().to_string(),
            port: addr.port(),
        }
    }

    /// Returns whether the port has TLS.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host and the port.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// Requests `path`, within [`TIME_MAX`]. `tls` is used if the port has TLS.
    ///
    /// # Errors
    /// Returns an error if there is no complete response in time.
    pub fn get(&self, path: &str, tls: &Arc<ClientConfig>) -> io::Result<Response> {
        let (request, tls) = (Request::new(self, path), Arc::clone(tls));
        // On a thread of its own, because nothing limits the time in which a name is looked up. All
        // else that the thread does ends by the deadline.
        let deadline = Deadline::after(TIME_MAX);
        let (sender, receiver) = mpsc::sync_channel(1);
        thread::Builder::new().spawn(move || {
            // If it is too late, nobody receives the response.
            let _ = sender.send(request.exchange(&tls, deadline));
        })?;
        let response = receiver
            .recv_timeout(TIME_MAX)
            .unwrap_or_else(|_| Err(deadline.missed()))?;
        Response::parse(&response)
    }
}

impl fmt::Display for AdminPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

/// The error for text that is not the place of an admin port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a host and a port, such as 127.0.0.1:8081 or https://edge.example:8081")]
pub struct NotAnAdminPort;

impl FromStr for AdminPort {
    type Err = NotAnAdminPort;

    /// Parses `HOST:PORT`, which means HTTP, or a URL of `http` or `https` with a port and without
    /// a path.
    fn from_str(text: &str) -> Result<Self, NotAnAdminPort> {
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Http, text),
            Some(("http", rest)) => (Scheme::Http, rest.trim_end_matches('/')),
            Some(("https", rest)) => (Scheme::Https, rest.trim_end_matches('/')),
            Some(_) => return Err(NotAnAdminPort),
        };
        let (host, port) = rest.rsplit_once(':').ok_or(NotAnAdminPort)?;
        let port = port.parse().map_err(|_| NotAnAdminPort)?;
        let unbracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match unbracketed {
            Some(ip) if ip.parse::<std::net::Ipv6Addr>().is_ok() => ip,
            Some(_) => return Err(NotAnAdminPort),
            None => host,
        };
        // What is left must not change the meaning of a request.
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || (unbracketed.is_none() && !host.bytes().all(is_allowed)) {
            return Err(NotAnAdminPort);
        }
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
        })
    }
}

/// A response of an admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub code: u16,
    /// The body.
    pub body: String,
}

impl Response {
    fn parse(response: &str) -> io::Result<Self> {
        let malformed = || io::Error::other("the response is not HTTP");
        let rest = response.strip_prefix("HTTP/1.1 ").ok_or_else(malformed)?;
        let code = rest.get(..3).and_then(|code| code.parse().ok());
        let (_, body) = rest.split_once("\r\n\r\n").ok_or_else(malformed)?;
        Ok(Self {
            code: code.ok_or_else(malformed)?,
            body: body.to_owned(),
        })
    }
}

/// A request, owned by the thread that sends it.
struct Request {
    port: AdminPort,
    text: String,
}

impl Request {
    fn new(port: &AdminPort, path: &str) -> Self {
        let host = port.authority();
        Self {
            port: port.clone(),
            text: format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        }
    }

    /// Asks until there is an answer, a reason that will not pass, or no time left.
    fn exchange(&self, tls: &Arc<ClientConfig>, deadline: Deadline) -> io::Result<String> {
        loop {
            match self.exchange_once(tls, deadline) {
                Ok(response) if response.is_empty() => {}
                Err(error) if is_cut_off(&error) => {}
                Err(error) if is_too_late(&error) => return Err(deadline.missed()),
                outcome => return outcome,
            }
            thread::sleep(RETRY.min(deadline.left()?));
        }
    }

    fn exchange_once(&self, tls: &Arc<ClientConfig>, deadline: Deadline) -> io::Result<String> {
        let stream = LimitedStream {
            stream: self.connect(deadline)?,
            deadline,
        };
        match self.port.scheme {
            Scheme::Http => self.send(stream),
            Scheme::Https => {
                let name =
                    ServerName::try_from(self.port.host.clone()).map_err(io::Error::other)?;
                let connection =
                    ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
                self.send(StreamOwned::new(connection, stream))
            }
        }
    }

    fn connect(&self, deadline: Deadline) -> io::Result<TcpStream> {
        let mut last = None;
        for addr in (self.port.host.as_str(), self.port.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&addr, deadline.left()?) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("the host has no address")))
    }

    fn send(&self, mut stream: impl Read + Write) -> io::Result<String> {
        // Written whole: to the stream itself, `write!` would send each part as a segment of its
        // own.
        stream.write_all(self.text.as_bytes())?;
        stream.flush()?;
        let mut response = Vec::new();
        stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response)?;
        Ok(String::from_utf8_lossy(&response).into_owned())
    }
}

fn is_cut_off(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    )
}

/// Returns whether a call on a socket took all the time that it was given.
fn is_too_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

/// The moment by which a response must be complete.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    limit: Duration,
    at: Mono,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self {
            limit,
            at: SystemClock.now() + limit,
        }
    }

    /// Returns the time that is left, which is not zero.
    fn left(self) -> io::Result<Duration> {
        let left = self.at.since(SystemClock.now());
        if left.is_zero() {
            Err(self.missed())
        } else {
            Ok(left)
        }
    }

    fn missed(self) -> io::Error {
        let what = format!("no complete response within {:?}", self.limit);
        io::Error::new(io::ErrorKind::TimedOut, what)
    }
}

/// A stream on which no call outlasts the deadline. The limits of a socket are per call, so each
/// call gets what is left: otherwise a peer could go on forever with single bytes.
struct LimitedStream {
    stream: TcpStream,
    deadline: Deadline,
}

impl Read for LimitedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.deadline.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for LimitedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.deadline.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Returns a configuration of TLS that accepts any certificate, for a client that neither sends a
/// secret nor has to trust the answer.
#[must_use]
pub fn any_certificate() -> Arc<ClientConfig> {
    let provider = Arc::new(tickstorm_tls::provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
}

/// Accepts any certificate, and checks only that the peer has its private key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    /// Never called, since the client offers TLS 1.3 only.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn port(scheme: Scheme, listener: &TcpListener) -> AdminPort {
        AdminPort::on_this_machine(scheme, listener.local_addr().unwrap())
    }

    #[test]
    fn a_port_is_given_as_host_and_port_or_as_a_url() {
        for (text, url) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("localhost:1", "http://localhost:1"),
            ("[::1]:8081", "http://[::1]:8081"),
            ("http://edge-0.example:8081/", "http://edge-0.example:8081"),
            ("https://[2001:db8::1]:8081", "https://[2001:db8::1]:8081"),
            ("https://edge_0:443", "https://edge_0:443"),
        ] {
            let port: AdminPort = text.parse().unwrap();
            assert_eq!(port.to_string(), url);
            assert_eq!(url.parse(), Ok(port));
        }
        for text in [
            "",
            "8081",
            ":8081",
            "localhost",
            "localhost:http",
            "localhost:65536",
            "ftp://localhost:1",
            "http://localhost:1/status",
            "http://user@localhost:1",
            "::1:8081",
            "[localhost]:1",
            "[]:1",
            "host\r\nX: y:1",
            "a b:1",
        ] {
            assert_eq!(text.parse::<AdminPort>(), Err(NotAnAdminPort), "{text:?}");
        }
    }

    #[test]
    fn a_response_has_a_code_and_a_body() {
        let parse = |text: &str| Response::parse(text).map_err(|error| error.to_string());
        let response = Response {
            code: 503,
            body: "a\r\n\r\nb".into(),
        };
        assert_eq!(
            parse("HTTP/1.1 503 Busy\r\nA: b\r\n\r\na\r\n\r\nb"),
            Ok(response)
        );
        for text in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 ok\r\n\r\n", "SSH-2.0\r\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_daemon_that_closes_the_connection_without_an_answer_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port(Scheme::Http, &listener);
        let server = thread::spawn(move || {
            for reset in [false, true] {
                let (mut stream, _) = listener.accept().unwrap();
                // With unread input, closing resets the connection.
                if !reset {
                    let _ = stream.read(&mut [0; 1_024]).unwrap();
                }
            }
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1_024]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        });
        let response = port.get("/health/live", &any_certificate()).unwrap();
        assert_eq!(response.code, 200);
        server.join().unwrap();
    }

    #[test]
    fn a_response_that_comes_byte_by_byte_is_not_awaited() {
        for (scheme, start) in [
            (Scheme::Http, &b"HTTP/1.1 200 OK\r\n"[..]),
            // The start of a record of a handshake.
            (Scheme::Https, &[22, 3, 3, 64, 0][..]),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = port(scheme, &listener);
            let (stop, stopped) = mpsc::channel::<()>();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(start).unwrap();
                // For 30 s at most.
                for _ in 0..300 {
                    let waited = stopped.recv_timeout(Duration::from_millis(100));
                    let is_stopped = waited != Err(mpsc::RecvTimeoutError::Timeout);
                    if is_stopped || stream.write_all(b"x").is_err() {
                        return;
                    }
                }
            });
            let error = port.get("/health/live", &any_certificate()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            drop(stop);
            server.join().unwrap();
        }
    }

    /// What a peer does with a connection.
    #[derive(Clone, Copy, Debug)]
    enum Peer {
        /// It closes the connection after it has read the request.
        Closes,
        /// It closes the connection with unread input, which resets it.
        Resets,
        /// It sends nothing.
        IsSilent,
        /// It sends the start of a response, and then single bytes.
        Drips(&'static [u8]),
    }

    impl Peer {
        /// Accepts connections for as long as the test runs.
        fn serve(self, listener: TcpListener) {
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    match self {
                        Self::Closes => drop(stream.read(&mut [0; 1_024])),
                        Self::Resets => drop(stream.peek(&mut [0])),
                        Self::IsSilent => drop(stream.read_to_end(&mut Vec::new())),
                        Self::Drips(start) => {
                            let mut is_open = stream.write_all(start).is_ok();
                            while is_open {
                                thread::sleep(Duration::from_millis(20));
                                is_open = stream.write_all(b"x").is_ok();
                            }
                        }
                    }
                }
            });
        }
    }

    #[test]
    fn an_exchange_ends_by_its_deadline_whatever_the_peer_does() {
        for (scheme, peer) in [
            (Scheme::Http, Peer::Closes),
            (Scheme::Https, Peer::Closes),
            (Scheme::Http, Peer::Resets),
            (Scheme::Https, Peer::Resets),
            (Scheme::Http, Peer::IsSilent),
            (Scheme::Https, Peer::IsSilent),
            (Scheme::Http, Peer::Drips(b"HTTP/1.1 200 OK\r\n")),
            // The start of a record of a handshake.
            (Scheme::Https, Peer::Drips(&[22, 3, 3, 64, 0])),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let request = Request::new(&port(scheme, &listener), "/status");
            peer.serve(listener);
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || {
                let deadline = Deadline::after(Duration::from_millis(300));
                let _ = sender.send(request.exchange(&any_certificate(), deadline));
            });
            // Far beyond the deadline, and reached only if the exchange does not end by itself.
            let outcome = receiver
                .recv_timeout(Duration::from_secs(30))
                .unwrap_or_else(|_| panic!("{scheme}, {peer:?}: the exchange does not end"));
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{peer:?}: {error}");
            let text = "no complete response within 300ms";
            assert_eq!(error.to_string(), text, "{scheme}, {peer:?}");
        }
    }
}
