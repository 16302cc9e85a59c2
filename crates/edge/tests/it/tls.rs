//! TLS over real sockets: serving, client certificates, and files that change while the edge runs.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tickstorm_edge::{ClientAuthFiles, TlsFiles};
use tickstorm_testkit::{
    Certificate, CertificateAuthority, RawFrame, TempDir, frame, peer, poll_until_async,
};
use tickstorm_timebase::Mode;

use crate::connections::AdminPort;
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

const NAME: &str = "edge.test";

/// The files of an edge, in a directory that is removed at the end.
struct Files {
    dir: TempDir,
    files: TlsFiles,
}

impl Files {
    fn new(certificate: &Certificate, clients: Option<&CertificateAuthority>) -> Self {
        let dir = TempDir::new("tls");
        let clients = clients.map(|authority| ClientAuthFiles {
            authorities: dir.write("ca.pem", authority.certificate()),
            revoked: None,
        });
        let files = TlsFiles {
            certificate: dir.write("cert.pem", &certificate.certificate),
            key: dir.write("key.pem", &certificate.key),
            clients,
        };
        Self { dir, files }
    }

    async fn edge(&self) -> TestEdge {
        let mut config = config();
        config.tls = Some(self.files.clone());
        TestEdge::start(config).await
    }
}

/// A client that trusts `authority`, with a certificate if there is one.
fn client(authority: &CertificateAuthority, own: Option<&Certificate>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_slice(authority.certificate().as_bytes());
    roots.add(trusted.unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(tickstorm_tls::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    })
}

/// A TLS connection to an edge. Its calls block.
struct TlsPeer {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl TlsPeer {
    /// Connects, and authenticates, which shows that the edge has accepted the client too.
    fn connect(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_read_timeout(Some(SOON))?;
        let name = ServerName::try_from(NAME).unwrap();
        let connection = ClientConnection::new(config, name).unwrap();
        let mut this = Self {
            stream: StreamOwned::new(connection, socket),
            received: Vec::new(),
        };
        this.stream.write_all(&peer::auth(USER, PASSWORD))?;
        assert_eq!(this.frame()?.kind, frame::ACK);
        Ok(this)
    }

    fn frame(&mut self) -> io::Result<RawFrame> {
        loop {
            if let Some(frame) = RawFrame::take(&mut self.received) {
                return Ok(frame);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.received.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// Subscribes to seconds, and returns after the first tick.
    fn subscribe(&mut self) -> io::Result<()> {
        let subscribe = peer::subscribe(Mode::Second, None, false);
        self.stream.write_all(&subscribe)?;
        self.tick()
    }

    fn tick(&mut self) -> io::Result<()> {
        while self.frame()?.kind != frame::DATA_BATCH {}
        Ok(())
    }
}

/// Connects on a thread where blocking is allowed.
async fn connect(edge: &TestEdge, config: &Arc<ClientConfig>) -> io::Result<TlsPeer> {
    let (addr, config) = (edge.addr(), Arc::clone(config));
    blocking(move || TlsPeer::connect(addr, config)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_come_over_tls_and_plain_text_is_refused() {
    let authority = CertificateAuthority::new();
    let files = Files::new(&authority.issue(NAME), None);
    let edge = files.edge().await;
    let mut served = connect(&edge, &client(&authority, None)).await.unwrap();
    let addr = edge.addr();
    blocking(move || {
        served.subscribe().unwrap();
        served.tick().unwrap();
        let mut plain = TcpStream::connect(addr).unwrap();
        plain.set_read_timeout(Some(SOON)).unwrap();
        plain.write_all(&peer::auth(USER, PASSWORD)).unwrap();
        let mut answer = Vec::new();
        plain.read_to_end(&mut answer).unwrap();
        assert_eq!(answer[..3], [21, 3, 3], "an alert: {answer:?}");
    })
    .await;
    let stranger = client(&CertificateAuthority::new(), None);
    assert!(connect(&edge, &stranger).await.is_err());
    let is = |name: &str, label: &str, expected: f64| {
        edge.metric(name, label).total_cmp(&expected).is_eq()
    };
    poll_until_async("both failures are counted", SOON, || {
        is("tickstorm_connections_closed_total", "tls_failed", 2.0)
    })
    .await;
    for (result, count) in [("completed", 1.0), ("failed", 1.0), ("abandoned", 1.0)] {
        assert!(
            is("tickstorm_tls_handshakes_total", result, count),
            "{result}"
        );
    }
    assert!(is("tickstorm_tls_handshake_seconds", "", 1.0));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_used_by_new_connections_and_running_ones_stay() {
    let (first, second) = (CertificateAuthority::new(), CertificateAuthority::new());
    let files = Files::new(&first.issue(NAME), None);
    let edge = files.edge().await;
    let mut running = connect(&edge, &client(&first, None)).await.unwrap();
    let renewed = second.issue(NAME);
    // Half of the change: the pair does not fit together, so the old one stays in use.
    files.dir.write("cert.pem", &renewed.certificate);
    poll_until_async("the edge has seen the change", SOON, || {
        let failed = edge.metric("tickstorm_tls_reloads_total", "failed");
        failed.total_cmp(&1.0).is_eq()
    })
    .await;
    assert!(connect(&edge, &client(&first, None)).await.is_ok());
    files.dir.write("key.pem", &renewed.key);
    let trusting = client(&second, None);
    poll_until_connected(&edge, &trusting).await;
    assert!(connect(&edge, &client(&first, None)).await.is_err());
    blocking(move || running.subscribe().unwrap()).await;
    for result in ["loaded", "failed"] {
        let reloads = edge.metric("tickstorm_tls_reloads_total", result);
        assert!(reloads.total_cmp(&1.0).is_eq(), "{result}: {reloads}");
    }
    edge.stop().await;
}

async fn poll_until_connected(edge: &TestEdge, config: &Arc<ClientConfig>) {
    for _ in 0..100 {
        if connect(edge, config).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the new certificate is not used within 10 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_must_come_from_an_authority_that_is_trusted_now() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let files = Files::new(&servers.issue(NAME), Some(&clients));
    let edge = files.edge().await;
    let certificate = clients.issue("till-7");
    let known = client(&servers, Some(&certificate));
    let mut running = connect(&edge, &known).await.unwrap();
    let listed = AdminPort::of(&edge).await.list("").await;
    assert_eq!(listed[0]["certificate"]["subject"], "CN=till-7");
    let serial = listed[0]["certificate"]["serial"].as_str().unwrap();
    let serial = u64::from_str_radix(&serial.replace(':', ""), 16);
    assert_eq!(serial, Ok(certificate.serial));
    assert!(connect(&edge, &client(&servers, None)).await.is_err());
    let foreign = CertificateAuthority::new().issue("till-7");
    let foreign = client(&servers, Some(&foreign));
    assert!(connect(&edge, &foreign).await.is_err());
    let refused = edge.metric("tickstorm_tls_handshakes_total", "certificate_refused");
    assert!(refused.total_cmp(&2.0).is_eq(), "{refused}");
    let other = CertificateAuthority::new();
    files.dir.write("ca.pem", other.certificate());
    let new = client(&servers, Some(&other.issue("till-8")));
    poll_until_connected(&edge, &new).await;
    assert!(connect(&edge, &known).await.is_err());
    blocking(move || running.subscribe().unwrap()).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_client_certificate_is_refused() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let (kept, revoked) = (clients.issue("till-7"), clients.issue("till-8"));
    let mut files = Files::new(&servers.issue(NAME), Some(&clients));
    let list = files.dir.write("crl.pem", clients.revoke(&[]));
    files.files.clients.as_mut().unwrap().revoked = Some(list);
    let edge = files.edge().await;
    let (kept, revoked_client) = (
        client(&servers, Some(&kept)),
        client(&servers, Some(&revoked)),
    );
    let mut running = connect(&edge, &revoked_client).await.unwrap();
    files.dir.write("crl.pem", clients.revoke(&[&revoked]));
    poll_until_async("the list is reread", SOON, || {
        let reloads = edge.metric("tickstorm_tls_reloads_total", "loaded");
        reloads.total_cmp(&1.0).is_eq()
    })
    .await;
    assert!(connect(&edge, &revoked_client).await.is_err());
    assert!(connect(&edge, &kept).await.is_ok());
    blocking(move || running.subscribe().unwrap()).await;
    edge.stop().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_start_errors_that_name_them() {
    let authority = CertificateAuthority::new();
    let good = authority.issue(NAME);
    let other = authority.issue(NAME);
    let cases = [
        ("", &*good.key, "TLS_CERT_FILE="),
        (&*good.certificate, "no key", "TLS_KEY_FILE="),
        (
            &*good.certificate,
            &*other.key,
            "TLS_CERT_FILE and TLS_KEY_FILE",
        ),
    ];
    for (certificate, key, named) in cases {
        let files = Files::new(
            &Certificate {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                serial: 0,
            },
            None,
        );
        let mut config = config();
        config.tls = Some(files.files.clone());
        let error = TestEdge::start_error(config).await;
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains(named), "{error}");
        assert!(!error.to_string().contains("no key"), "{error}");
    }
}
