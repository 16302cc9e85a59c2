//! TLS over real sockets: serving, client certificates, and files that change while the edge runs.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, os};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tickstorm_edge::{ClientAuthFiles, TlsFiles};
use tickstorm_service::error_chain::ErrorChain;
use tickstorm_testkit::{
    Certificate, CertificateAuthority, RawFrame, TempDir, frame, peer, poll_until_async,
};
use tickstorm_timebase::{HostClock as _, Mode, SystemHost};

use crate::connections::AdminPort;
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

pub(crate) const NAME: &str = "edge.test";

/// The files of an edge, in a directory that is removed at the end.
pub(crate) struct Files {
    dir: TempDir,
    pub(crate) files: TlsFiles,
}

impl Files {
    pub(crate) fn new(certificate: &Certificate, clients: Option<&CertificateAuthority>) -> Self {
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

/// The first message of a client, as it is sent.
pub(crate) fn client_hello(authority: &CertificateAuthority) -> Vec<u8> {
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = ClientConnection::new(client(authority, None), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A client that trusts `authority`, with a certificate, and a chain of others after it, if there
/// is one.
pub(crate) fn client(
    authority: &CertificateAuthority,
    own: Option<&Certificate>,
) -> Arc<ClientConfig> {
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
            let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes());
            let chain: Result<Vec<_>, _> = chain.collect();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain.unwrap(), key).unwrap()
        }
    })
}

/// A TLS connection to an edge. Its calls block.
pub(crate) struct TlsPeer {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl TlsPeer {
    /// Connects, and authenticates, which shows that the edge has accepted the client too.
    fn connect(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        Self::start(TcpStream::connect(addr)?, config)
    }

    /// Does the same over a connection that exists already.
    pub(crate) fn start(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Self> {
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
    pub(crate) fn subscribe(&mut self) -> io::Result<()> {
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

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
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
    for result in ["certificate_missing", "unknown_authority"] {
        let refused = edge.metric("tickstorm_tls_handshakes_total", result);
        assert!(refused.total_cmp(&1.0).is_eq(), "{result}: {refused}");
    }
    let other = CertificateAuthority::new();
    files.dir.write("ca.pem", other.certificate());
    let new = client(&servers, Some(&other.issue("till-8")));
    poll_until_connected(&edge, &new).await;
    assert!(connect(&edge, &known).await.is_err());
    blocking(move || running.subscribe().unwrap()).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_subject_of_a_client_certificate_is_listed_in_part() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let files = Files::new(&servers.issue(NAME), Some(&clients));
    let edge = files.edge().await;
    let certificate = clients.issue_for(&"x".repeat(5_000), &["till-7"], &[]);
    let _running = connect(&edge, &client(&servers, Some(&certificate)))
        .await
        .unwrap();
    let listed = AdminPort::of(&edge).await.list("").await;
    let subject = listed[0]["certificate"]["subject"].as_str().unwrap();
    assert!(
        subject.starts_with("CN=xxxx") && subject.ends_with('…'),
        "{subject}"
    );
    assert!(subject.len() < 300, "{subject}");
    edge.stop().await;
}

/// The error of a handshake that a client does not get through.
async fn alert(edge: &TestEdge, client: &Arc<ClientConfig>) -> AlertDescription {
    let refused = connect(edge, client).await.map(|_| ()).unwrap_err();
    let error = refused.get_ref().and_then(|error| error.downcast_ref());
    match error {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?} instead of an alert: {refused}"),
    }
}

/// Each authority could have signed each other one, so there are more paths through them than the
/// verifier would ever try; it would give up after a third of a second, with another alert.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_twelve_authorities_that_could_have_signed_each_other_is_refused_unverified() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let files = Files::new(&servers.issue(NAME), Some(&clients));
    let edge = files.edge().await;
    let same = || CertificateAuthority::named("X", 0..now_s() + DAY_S);
    let mut hostile = same().issue("till-7");
    for _ in 0..12 {
        hostile.certificate.push_str(same().certificate());
    }
    let hostile = client(&servers, Some(&hostile));
    assert_eq!(alert(&edge, &hostile).await, AlertDescription::AccessDenied);
    let refused = edge.metric("tickstorm_tls_handshakes_total", "certificate_invalid");
    assert!(refused.total_cmp(&1.0).is_eq(), "{refused}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_three_intermediate_authorities_is_accepted() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let files = Files::new(&servers.issue(NAME), Some(&clients));
    let edge = files.edge().await;
    let below =
        |authority: &CertificateAuthority, name| authority.intermediate(name, 0..now_s() + DAY_S);
    let first = below(&clients, "first");
    let second = below(&first, "second");
    let third = below(&second, "third");
    let mut own = third.issue("till-7");
    for authority in [&third, &second, &first] {
        own.certificate.push_str(authority.certificate());
    }
    connect(&edge, &client(&servers, Some(&own))).await.unwrap();
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

const DAY_S: u64 = 86_400;

/// Returns the host's time in seconds of Unix time.
fn now_s() -> u64 {
    let now = SystemHost::new(0).read().unix;
    u64::try_from(now.as_millis()).unwrap() / 1_000
}

fn tls_status(edge: &TestEdge) -> serde_json::Value {
    edge.edge.health().status()["tls"].take()
}

fn alarm(edge: &TestEdge, reason: &str) -> f64 {
    edge.metric("tickstorm_tls_alarm", reason)
}

/// Waits until the alarms in /status, and those of the metric, are exactly these.
async fn poll_until_alarms(edge: &TestEdge, reasons: &[&str]) {
    let what = format!("the alarms {reasons:?} are raised");
    poll_until_async(&what, SOON, || {
        let status = tls_status(edge);
        let raised = status["alarms"].as_array().unwrap().iter();
        let raised: Vec<_> = raised.map(|alarm| &alarm["reason"]).collect();
        let count = f64::from(u32::try_from(reasons.len()).unwrap());
        raised == reasons
            && alarm(edge, "").total_cmp(&count).is_eq()
            && reasons.iter().all(|reason| alarm(edge, reason) > 0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_shown_until_they_are_replaced_and_the_old_ones_serve() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let (own, other) = (servers.issue(NAME), servers.issue(NAME));
    let mut files = Files::new(&own, Some(&clients));
    let list = files.dir.write("crl.pem", clients.revoke(&[]));
    files.files.clients.as_mut().unwrap().revoked = Some(list);
    let edge = files.edge().await;
    let known = client(&servers, Some(&clients.issue("till-7")));
    let (cut_certificate, cut_key) = (
        &own.certificate[..own.certificate.len() / 2],
        &own.key[..own.key.len() / 2],
    );
    let (one_line, escaped) = (own.key.replace('\n', " "), own.key.replace('\n', "\\n"));
    let authority = clients.certificate();
    let list = clients.revoke(&[]);
    let cases = [
        (
            "key.pem",
            &*own.key,
            Some(&*other.key),
            "can't be used together",
        ),
        ("key.pem", &own.key, Some(cut_key), "TLS_KEY_FILE="),
        ("key.pem", &own.key, Some(&*one_line), "TLS_KEY_FILE="),
        ("key.pem", &own.key, Some(&*escaped), "TLS_KEY_FILE="),
        ("key.pem", &own.key, Some(""), "TLS_KEY_FILE="),
        ("key.pem", &own.key, None, "TLS_KEY_FILE="),
        (
            "cert.pem",
            &own.certificate,
            Some(cut_certificate),
            "TLS_CERT_FILE=",
        ),
        ("cert.pem", &own.certificate, Some(""), "TLS_CERT_FILE="),
        ("cert.pem", &own.certificate, None, "TLS_CERT_FILE="),
        ("ca.pem", authority, Some(&authority[..200]), "TLS_CA_FILE="),
        ("ca.pem", authority, Some(&*own.key), "TLS_CA_FILE="),
        ("ca.pem", authority, None, "TLS_CA_FILE="),
        ("crl.pem", &list, Some(&list[..200]), "TLS_CRL_FILE="),
        ("crl.pem", &list, None, "TLS_CRL_FILE="),
    ];
    for (index, (name, good, bad, expected)) in (1..).zip(cases) {
        let before = edge.metric("tickstorm_tls_reloads_total", "failed");
        match bad {
            Some(bad) => drop(files.dir.write(name, bad)),
            None => fs::remove_file(files.dir.path().join(name)).unwrap(),
        }
        poll_until_alarms(&edge, &["reload_failed"]).await;
        let error = tls_status(&edge)["reload_error"].take();
        let error = error.as_str().unwrap();
        assert!(error.contains(expected), "case {index}: {error}");
        assert!(!shows_key(error, &own.key), "case {index}: {error}");
        let failed = edge.metric("tickstorm_tls_reloads_total", "failed");
        // Writing a file is not atomic, so a third content may have been seen in between.
        assert!(failed > before, "case {index}: {failed}");
        connect(&edge, &known).await.unwrap();
        files.dir.write(name, good);
        poll_until_alarms(&edge, &[]).await;
        assert!(tls_status(&edge)["reload_error"].is_null(), "case {index}");
    }
    edge.stop().await;
}

/// Returns whether a text shows anything of a key, as text or as a list of bytes.
fn shows_key(text: &str, key: &str) -> bool {
    let secret = key.lines().filter(|line| !line.starts_with('-'));
    let secret: Vec<_> = secret.flat_map(str::bytes).collect();
    secret.windows(8).any(|part| {
        let bytes = format!("{part:?}");
        text.contains(&*String::from_utf8_lossy(part))
            || text.contains(bytes.trim_matches(['[', ']']))
    })
}

/// Kubernetes mounts a Secret as symlinks to `..data/NAME`, and replaces the symlink `..data`.
#[tokio::test(flavor = "multi_thread")]
async fn all_files_change_at_once_if_a_symlink_to_their_directory_is_replaced() {
    let (first, second) = (CertificateAuthority::new(), CertificateAuthority::new());
    let dir = TempDir::new("tls");
    let path = |name: &str| dir.path().join(name);
    for (generation, authority) in [("..1", &first), ("..2", &second)] {
        fs::create_dir(path(generation)).unwrap();
        let issued = authority.issue(NAME);
        dir.write(&format!("{generation}/tls.crt"), &issued.certificate);
        dir.write(&format!("{generation}/tls.key"), &issued.key);
    }
    os::unix::fs::symlink("..1", path("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        os::unix::fs::symlink(path("..data").join(name), path(name)).unwrap();
    }
    let mut config = config();
    config.tls = Some(TlsFiles {
        certificate: path("tls.crt"),
        key: path("tls.key"),
        clients: None,
    });
    let edge = TestEdge::start(config).await;
    connect(&edge, &client(&first, None)).await.unwrap();
    os::unix::fs::symlink("..2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    poll_until_connected(&edge, &client(&second, None)).await;
    assert!(connect(&edge, &client(&first, None)).await.is_err());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_an_alarm_until_it_is_replaced() {
    let authority = CertificateAuthority::new();
    let expired = authority.issue_valid(NAME, 0..now_s() - DAY_S / 2);
    let files = Files::new(&expired, None);
    let edge = files.edge().await;
    poll_until_alarms(&edge, &["certificate_expired"]).await;
    let left_s = edge.metric("tickstorm_tls_expiry_seconds", "TLS_CERT_FILE");
    assert!(left_s < 0.0, "{left_s}");
    let renewed = authority.issue_valid(NAME, 0..now_s() + 13 * DAY_S + DAY_S / 2);
    files.dir.write("cert.pem", &renewed.certificate);
    files.dir.write("key.pem", &renewed.key);
    poll_until_alarms(&edge, &[]).await;
    let status = tls_status(&edge);
    let warnings = status["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{status}");
    let warning = warnings[0].as_str().unwrap();
    assert!(warning.contains("expires in 13 days"), "{warning}");
    let serial = status["certificate"]["serial"].as_str().unwrap();
    let serial = u64::from_str_radix(&serial.replace(':', ""), 16);
    assert_eq!(serial, Ok(renewed.serial), "{status}");
    assert_eq!(status["enabled"], true);
    assert_eq!(status["client_auth"], "none");
    let shown = &status["certificate"];
    assert_eq!(shown["subject"], format!("CN={NAME}"));
    assert_eq!(shown["names"], serde_json::json!([NAME]));
    assert_eq!(shown["days_left"], 13);
    assert_eq!(shown["path"], files.files.certificate.display().to_string());
    assert!(status.get("key").is_none(), "{status}");
    // The metric moves with the time.
    let before_s = edge.metric("tickstorm_tls_expiry_seconds", "TLS_CERT_FILE");
    poll_until_async("less time is left", SOON, || {
        edge.metric("tickstorm_tls_expiry_seconds", "TLS_CERT_FILE") < before_s
    })
    .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_revocation_list_refuses_every_client_and_is_an_alarm() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let mut files = Files::new(&servers.issue(NAME), Some(&clients));
    let expired = clients.revoke_until(&[], now_s() - 60);
    let list = files.dir.write("crl.pem", expired);
    files.files.clients.as_mut().unwrap().revoked = Some(list);
    let edge = files.edge().await;
    let known = client(&servers, Some(&clients.issue("till-7")));
    poll_until_alarms(&edge, &["crl_expired"]).await;
    let message = tls_status(&edge)["alarms"][0]["message"].take();
    let message = message.as_str().unwrap();
    assert!(message.contains("refuses every client"), "{message}");
    assert!(connect(&edge, &known).await.is_err());
    let refused = edge.metric("tickstorm_tls_handshakes_total", "crl_expired");
    assert!(refused.total_cmp(&1.0).is_eq(), "{refused}");
    files.dir.write("crl.pem", clients.revoke(&[]));
    poll_until_connected(&edge, &known).await;
    poll_until_alarms(&edge, &[]).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_authority_is_an_alarm_and_its_clients_are_still_served() {
    let servers = CertificateAuthority::new();
    let clients = CertificateAuthority::named("old authority", 0..now_s() - 60);
    let files = Files::new(&servers.issue(NAME), Some(&clients));
    let edge = files.edge().await;
    poll_until_alarms(&edge, &["ca_expired"]).await;
    let known = client(&servers, Some(&clients.issue("till-7")));
    connect(&edge, &known).await.unwrap();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_authority_has_no_revocation_list_is_refused() {
    let (servers, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let other = CertificateAuthority::named("other authority", 0..now_s() + DAY_S);
    let mut files = Files::new(&servers.issue(NAME), Some(&clients));
    let both = [clients.certificate(), other.certificate()].concat();
    files.dir.write("ca.pem", both);
    let list = files.dir.write("crl.pem", clients.revoke(&[]));
    files.files.clients.as_mut().unwrap().revoked = Some(list);
    let edge = files.edge().await;
    let listed = client(&servers, Some(&clients.issue("till-7")));
    connect(&edge, &listed).await.unwrap();
    let unlisted = client(&servers, Some(&other.issue("till-8")));
    assert!(connect(&edge, &unlisted).await.is_err());
    let refused = edge.metric("tickstorm_tls_handshakes_total", "crl_missing");
    assert!(refused.total_cmp(&1.0).is_eq(), "{refused}");
    edge.stop().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_start_errors_that_name_them() {
    let authority = CertificateAuthority::new();
    let good = authority.issue(NAME);
    let other = authority.issue(NAME);
    let one_line = good.key.replace('\n', "");
    let cases = [
        ("", &*good.key, "TLS_CERT_FILE="),
        (&*good.certificate, "no key", "TLS_KEY_FILE="),
        (&*good.certificate, &*one_line, "TLS_KEY_FILE="),
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
        let chain = ErrorChain(&error).to_string();
        assert!(!chain.contains("no key"), "{chain}");
        assert!(!shows_key(&chain, &good.key), "{chain}");
    }
}
