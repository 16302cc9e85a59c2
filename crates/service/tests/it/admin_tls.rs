//! The admin port with TLS, over real sockets.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tickstorm_service::{
    admin::Admin,
    env::{Settings, SettingsErrors},
    error_chain::ErrorChain,
    exit, metrics,
    settings::{ADMIN_ADDR, COMMON},
};
use tickstorm_testkit::{Certificate, CertificateAuthority, TempDir};
use tickstorm_timebase::{HostClock as _, SystemHost};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    admin::{Component, PATIENCE, Port, Response},
    admin_slow::{CROWDS, SlowClients, assert_answered},
};

const CERT: &str = "ADMIN_TLS_CERT_FILE";
const KEY: &str = "ADMIN_TLS_KEY_FILE";

/// The pause between two polls of the port.
const PAUSE: Duration = Duration::from_millis(20);

/// The files of an admin port.
struct Files {
    dir: TempDir,
}

impl Files {
    fn with(certificate: &Certificate) -> Self {
        let dir = TempDir::new("admin_tls");
        let this = Self { dir };
        this.write(certificate);
        this
    }

    fn write(&self, certificate: &Certificate) {
        self.dir.write("admin.crt", &certificate.certificate);
        self.dir.write("admin.key", &certificate.key);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> Settings {
        let [certificate, key] = ["admin.crt", "admin.key"].map(|name| self.path(name));
        let addr = ADMIN_ADDR.name();
        let vars = [
            (CERT, certificate),
            (KEY, key),
            (addr, "127.0.0.1:0".into()),
        ];
        Settings::from_vars(vars, &[COMMON], &[]).unwrap()
    }

    async fn open(&self) -> Port {
        self.open_with(0).await
    }

    async fn open_with(&self, spare_files: usize) -> Port {
        let registry = metrics::registry().unwrap();
        let admin = Admin::from_settings(&self.settings(), &registry).await;
        let admin = admin.unwrap();
        let url = format!("https://{}/status", admin.local_addr());
        assert_eq!(admin.status_url(), url);
        let admin = admin.with_spare_files(spare_files);
        Port::serve(admin, Arc::new(Component::default()), registry)
    }
}

/// A client that trusts one authority.
struct Client(ClientConfig);

impl Client {
    fn new(authority: &CertificateAuthority) -> Self {
        Self::with(authority, aws_lc_rs::default_provider())
    }

    fn with(authority: &CertificateAuthority, provider: CryptoProvider) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(authority.certificate().as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Self(config.with_no_client_auth())
    }

    async fn connect(&self, port: &Port) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(port.addr).await?;
        let name = ServerName::try_from("admin.test").unwrap();
        TlsConnector::from(Arc::new(self.0.clone()))
            .connect(name, stream)
            .await
    }

    /// Returns the first message of a handshake.
    fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("admin.test").unwrap();
        let mut connection = ClientConnection::new(Arc::new(self.0.clone()), name).unwrap();
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).unwrap();
        hello
    }

    async fn get(&self, port: &Port, path: &str) -> io::Result<Response> {
        let mut stream = self.connect(port).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        Ok(Response::read(stream).await)
    }

    async fn metric(&self, port: &Port, result: &str) -> u64 {
        let body = self.get(port, "/metrics").await.unwrap().body;
        let name = format!("tickstorm_admin_tls_reloads_total{{result=\"{result}\"}} ");
        let value = body.lines().find_map(|line| line.strip_prefix(&name));
        value
            .unwrap_or_else(|| panic!("no {name}: {body}"))
            .parse()
            .unwrap()
    }
}

/// Polls until `holds` returns true, up to [`PATIENCE`].
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polls = async {
        while !holds().await {
            sleep(PAUSE).await;
        }
    };
    let outcome = timeout(PATIENCE, polls).await;
    assert!(outcome.is_ok(), "not within {PATIENCE:?}: {what}");
}

#[tokio::test]
async fn every_path_is_served_over_tls_with_the_listed_suites() {
    let authority = CertificateAuthority::new();
    let files = Files::with(&authority.issue("admin.test"));
    let port = files.open().await;
    let client = Client::new(&authority);
    for path in [
        "/status",
        "/metrics",
        "/health",
        "/health/live",
        "/health/ready",
    ] {
        let response = client.get(&port, path).await.unwrap();
        assert_eq!(response.code, 200, "{path}: {response:?}");
    }
    let stream = client.connect(&port).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), None);
    drop(stream);
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let unlisted_suite = Client::with(&authority, provider);
    for client in [unlisted_suite, Client::new(&CertificateAuthority::new())] {
        let outcome = client.connect(&port).await;
        assert!(outcome.is_err(), "{outcome:?}");
    }
    port.stop().await;
}

#[tokio::test]
async fn a_client_without_tls_is_told_so() {
    let files = Files::with(&CertificateAuthority::new().issue("admin.test"));
    let port = files.open().await;
    let response = port.get("/health").await;
    assert_eq!(response.code, 400, "{response:?}");
    assert_eq!(response.body, "this port serves HTTPS only\n");
    port.stop().await;
}

#[tokio::test]
async fn changed_files_are_used_and_files_that_do_not_fit_together_are_not() {
    let [old, new] = [CertificateAuthority::new(), CertificateAuthority::new()];
    let files = Files::with(&old.issue("admin.test"));
    let port = files.open().await;
    let (trusts_old, trusts_new) = (Client::new(&old), Client::new(&new));
    assert!(trusts_new.get(&port, "/health").await.is_err());
    let running = trusts_old.connect(&port).await.unwrap();

    let renewed = new.issue("admin.test");
    files.dir.write("admin.crt", &renewed.certificate);
    eventually("the refused pair is counted", async || {
        trusts_old.metric(&port, "failed").await == 1
    })
    .await;
    files.dir.write("admin.key", &renewed.key);
    eventually("the new certificate is used", async || {
        trusts_new.get(&port, "/health").await.is_ok()
    })
    .await;
    assert!(trusts_old.get(&port, "/health").await.is_err());
    assert_eq!(trusts_new.metric(&port, "loaded").await, 1);
    assert_eq!(trusts_new.metric(&port, "failed").await, 1);
    drop(running);
    port.stop().await;
}

/// Handshakes that are started and never finished compute as much as others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_answered_beside_slow_handshakes() {
    let authority = CertificateAuthority::new();
    let files = Files::with(&authority.issue("admin.test"));
    let client = Client::new(&authority);
    for (clients, spare_files) in CROWDS {
        for first in [&[22, 3, 1, 2, 0, 1][..], &client.hello()] {
            let port = files.open_with(spare_files).await;
            let slow = SlowClients::start(clients, port.addr, first);
            let sent = first.len();
            let what = format!("{clients} handshakes of {sent} bytes");
            assert_answered(&what, async || {
                let Ok(mut stream) = client.connect(&port).await else {
                    return false;
                };
                let request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
                let mut answer = Vec::new();
                let is_sent = stream.write_all(request).await.is_ok();
                let is_read = stream.read_to_end(&mut answer).await.is_ok();
                is_sent && is_read && answer.starts_with(b"HTTP/1.1 200 ")
            })
            .await;
            drop(slow);
            port.stop().await;
        }
    }
}

/// Without a limit, a few silent clients would hold their connections indefinitely.
#[tokio::test]
async fn a_silent_handshake_ends_after_its_time_limit() {
    let files = Files::with(&CertificateAuthority::new().issue("admin.test"));
    let port = files.open().await;
    for first in [&[][..], &[22, 3, 1, 2, 0, 1], b"G"] {
        let mut stream = TcpStream::connect(port.addr).await.unwrap();
        stream.write_all(first).await.unwrap();
        let mut received = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut received)).await;
        assert!(ended.is_ok(), "{first:?}");
    }
    port.stop().await;
}

fn load(vars: &[(&str, &str)]) -> Result<Settings, SettingsErrors> {
    let vars = vars.iter().copied().chain([("ADMIN_ADDR", "127.0.0.1:0")]);
    Settings::from_vars(vars, &[COMMON], &[])
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    const A_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for name in [CERT, KEY] {
        let error = load(&[(name, A_FILE)]).unwrap_err().to_string();
        let expected = format!("{CERT} and {KEY} go together: set both or neither");
        assert_eq!(error, expected);
        let other = if name == CERT { KEY } else { CERT };
        let errors = load(&[(name, "/nowhere/x"), (other, A_FILE)]).unwrap_err();
        let error = errors.to_string();
        assert!(
            error.starts_with(&format!("{name}=/nowhere/x: ")),
            "{error}"
        );
    }
    let authority = CertificateAuthority::new();
    let [mine, other] = [authority.issue("admin.test"), authority.issue("admin.test")];
    let one_line = mine.key.replace('\n', "");
    for (certificate, key, named) in [
        ("", &*mine.key, format!("{CERT}=")),
        (&*mine.certificate, &*one_line, format!("{KEY}=")),
        (
            &*mine.key,
            &*mine.key,
            "contains no certificate in PEM format".into(),
        ),
        (&*mine.certificate, "", format!("{KEY}=")),
        (
            &*mine.certificate,
            &*other.key,
            format!("{CERT} and {KEY} can't be used together"),
        ),
    ] {
        let files = Files::with(&mine);
        files.dir.write("admin.crt", certificate);
        files.dir.write("admin.key", key);
        let registry = metrics::registry().unwrap();
        let error = Admin::from_settings(&files.settings(), &registry).await;
        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), exit::CONFIG, "{error}");
        let error = ErrorChain(&error).to_string();
        assert!(error.contains(&named), "{error}");
        // There is no room for a key, as text or as a list of bytes.
        assert!(error.len() < 300, "{error}");
    }
}

#[tokio::test]
async fn without_tls_the_metrics_of_its_files_are_absent() {
    let registry = metrics::registry().unwrap();
    let settings = load(&[]).unwrap();
    let admin = Admin::from_settings(&settings, &registry).await.unwrap();
    let text = metrics::encode(&registry).unwrap();
    assert!(!text.contains("admin_tls"), "{text}");
    drop(admin);
    let registry = metrics::registry().unwrap();
    let files = Files::with(&CertificateAuthority::new().issue("admin.test"));
    let admin = Admin::from_settings(&files.settings(), &registry).await;
    let text = metrics::encode(&registry).unwrap();
    assert!(text.contains("tickstorm_admin_tls_reloads_total"), "{text}");
    drop(admin.unwrap());
}

#[tokio::test]
async fn the_expiry_of_the_certificate_is_that_of_the_file_in_use() {
    let authority = CertificateAuthority::new();
    let now_s = SystemHost::new(0).read().unix.as_millis().cast_unsigned() / 1_000;
    let valid_hours = |hours: u64| authority.issue_valid("admin.test", 0..now_s + hours * 3_600);
    let files = Files::with(&valid_hours(100));
    let port = files.open().await;
    let client = Client::new(&authority);
    let hours_left = async || {
        let body = client.get(&port, "/metrics").await.unwrap().body;
        let series = "tickstorm_tls_expiry_seconds{file=\"ADMIN_TLS_CERT_FILE\"} ";
        let left_s = body.lines().find_map(|line| line.strip_prefix(series));
        let left_s: u64 = left_s.unwrap().parse().unwrap();
        left_s.div_ceil(3_600)
    };
    assert_eq!(hours_left().await, 100);
    files.write(&valid_hours(200));
    let renewed = async {
        while hours_left().await != 200 {
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, renewed)
        .await
        .expect("the new file is used");
}

#[test]
fn an_address_beyond_loopback_without_tls_causes_one_warning() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let tls = [(CERT, file), (KEY, file)];
    for addr in ["0.0.0.0:8081", "[::]:8081", "192.0.2.1:1"] {
        let vars = [("ADMIN_ADDR", addr)];
        let settings = Settings::from_vars(vars, &[COMMON], &[]).unwrap();
        let [warning] = settings.warnings() else {
            panic!("{:?}", settings.warnings());
        };
        assert!(
            warning.starts_with(&format!("ADMIN_ADDR={addr} ")),
            "{warning}"
        );
        assert!(warning.contains(CERT), "{warning}");
        let vars = vars.into_iter().chain(tls);
        let settings = Settings::from_vars(vars, &[COMMON], &[]).unwrap();
        assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    }
    for addr in ["127.0.0.1:8081", "127.1.2.3:8081", "[::1]:8081"] {
        let settings = Settings::from_vars([("ADMIN_ADDR", addr)], &[COMMON], &[]).unwrap();
        assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    }
}
