//! Queries a daemon's own admin port for its health: the probe for a container that contains no
//! shell and no curl.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
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

use crate::admin::reachable;

/// The time limit for everything together, from connecting to the end of the response. It is below
/// the timeout of a probe, for which orchestrators can be configured to 5 s or more, and far above
/// the time in which a live daemon responds.
const TIME_MAX: Duration = Duration::from_secs(2);

/// The pause before the daemon is asked again because it closed the connection without an answer. A
/// daemon that has too many connections closes some to make room, and this may be one of them.
const RETRY: Duration = Duration::from_millis(10);

/// The maximum number of bytes of a response that are read, enough for all possible reasons.
const RESPONSE_BYTES_MAX: u64 = 65_536;

/// Whether the admin port has TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Http,
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

/// The reason that a daemon does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unhealthy {
    /// The daemon can't be queried.
    #[error("cannot query {url}")]
    Unreachable { url: String, source: io::Error },
    /// The daemon reports that it is not healthy.
    #[error("{url} returned {response}")]
    Reported { url: String, response: String },
}

/// Requests `path` from the admin port that listens on `addr`. Any answer other than 200 is an
/// error.
pub(crate) fn ask(scheme: Scheme, addr: SocketAddr, path: &str) -> Result<(), Unhealthy> {
    let addr = reachable(addr);
    let url = format!("{scheme}://{addr}{path}");
    match exchange_in_time(scheme, addr, path) {
        Ok(response) if response.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(response) => {
            let body = response.rsplit("\r\n").next().unwrap_or_default();
            let response = body.to_owned();
            Err(Unhealthy::Reported { url, response })
        }
        Err(source) => Err(Unhealthy::Unreachable { url, source }),
    }
}

/// Exchanges request and response on a thread of its own, which ends with the process if it takes
/// too long: the limits of a socket are per call, and a peer can stretch them with single bytes.
fn exchange_in_time(scheme: Scheme, addr: SocketAddr, path: &str) -> io::Result<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = path.to_owned();
    thread::Builder::new().spawn(move || {
        // If it is too late, nobody receives the response.
        let _ = sender.send(exchange(scheme, addr, &path));
    })?;
    receiver.recv_timeout(TIME_MAX).unwrap_or_else(|_| {
        let what = format!("no complete response within {TIME_MAX:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    })
}

/// Asks until there is an answer, or a reason that will not pass.
fn exchange(scheme: Scheme, addr: SocketAddr, path: &str) -> io::Result<String> {
    loop {
        match exchange_once(scheme, addr, path) {
            Ok(response) if response.is_empty() => {}
            Err(error) if is_cut_off(&error) => {}
            outcome => return outcome,
        }
        thread::sleep(RETRY);
    }
}

fn is_cut_off(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    )
}

fn exchange_once(scheme: Scheme, addr: SocketAddr, path: &str) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&addr, TIME_MAX)?;
    match scheme {
        Scheme::Http => request(stream, addr, path),
        Scheme::Https => {
            let name = ServerName::from(addr.ip());
            let connection = client_config()
                .and_then(|config| ClientConnection::new(Arc::new(config), name))
                .map_err(io::Error::other)?;
            request(StreamOwned::new(connection, stream), addr, path)
        }
    }
}

fn request(mut stream: impl Read + Write, addr: SocketAddr, path: &str) -> io::Result<String> {
    // Written whole: to the stream itself, `write!` would send each part as a segment of its own.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(tickstorm_tls::provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Accepts any certificate. The probe asks a port of its own host, by an address that certificates
/// rarely contain, and neither sends a secret nor has to trust the answer: a certificate that has
/// expired must not get a daemon restarted.
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

    #[test]
    fn a_daemon_that_closes_the_connection_without_an_answer_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
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
        ask(Scheme::Http, addr, "/health/live").unwrap();
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
            let addr = listener.local_addr().unwrap();
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
            let error = ask(scheme, addr, "/health/live").unwrap_err();
            let Unhealthy::Unreachable { source, .. } = error else {
                panic!("{error}");
            };
            assert_eq!(source.kind(), io::ErrorKind::TimedOut, "{source}");
            drop(stop);
            server.join().unwrap();
        }
    }
}
