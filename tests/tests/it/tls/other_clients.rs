//! An edge with TLS, judged by clients that share no code with it: `openssl s_client` and Python's
//! `ssl` module. They must be installed; without them, these tests fail.

use std::net::Ipv4Addr;
use std::process::Stdio;

use tickstorm_testkit::{
    Certificate, CertificateAuthority, CertificateUsage, Nats, RawFrame, TempDir, frame, peer,
    poll_until_async,
};
use tickstorm_timebase::{HostClock as _, Mode, SystemHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::cluster::Cluster;
use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::tickstorm::{Ended, PATIENCE, run};

const NAME: &str = "edge.test";
const DAY_S: u64 = 86_400;

/// Connects from its second argument to its first, sends the bytes in hex of its third, and copies
/// what it receives to standard output. The other arguments are the files of the server's authority
/// and of its own certificate and key, if any.
const PYTHON_CLIENT: &str = r#"
import socket, ssl, sys
server, source, sent, ca, *own = sys.argv[1:]
host, port = server.split(":")
context = ssl.create_default_context(cafile=ca)
if own:
    context.load_cert_chain(*own)
plain = socket.create_connection((host, int(port)), 30, (source, 0))
try:
    with context.wrap_socket(plain, server_hostname="edge.test") as tls:
        print(tls.version(), tls.cipher()[0], file=sys.stderr, flush=True)
        tls.sendall(bytes.fromhex(sent))
        while data := tls.recv(65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
except ssl.SSLError as error:
    sys.exit(f"alert {error.reason}")
"#;

/// The authorities, and the files of an edge and of the clients.
struct Files {
    dir: TempDir,
    servers: CertificateAuthority,
    clients: CertificateAuthority,
}

impl Files {
    fn new() -> Self {
        let this = Self {
            dir: TempDir::new("other-clients"),
            servers: CertificateAuthority::new(),
            clients: CertificateAuthority::new(),
        };
        this.dir.write("ca.pem", this.servers.certificate());
        this.dir.write("clients.pem", this.clients.certificate());
        this.dir.write("crl.pem", this.clients.revoke(&[]));
        this.write("edge", &this.servers.issue(NAME));
        this.write("till-7", &this.clients.issue("till-7"));
        this
    }

    fn write(&self, name: &str, certificate: &Certificate) {
        let Certificate {
            certificate, key, ..
        } = certificate;
        self.dir.write(&format!("{name}.crt"), certificate);
        self.dir.write(&format!("{name}.key"), key);
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Turns on TLS, and makes the edge ask for client certificates.
    fn secure(&self, edge: &mut Daemon) {
        edge.set("TLS_ENABLED", "true");
        edge.set("TLS_CERT_FILE", &self.path("edge.crt"));
        edge.set("TLS_KEY_FILE", &self.path("edge.key"));
        edge.set("TLS_CLIENT_AUTH", "require_verify");
        edge.set("TLS_CA_FILE", &self.path("clients.pem"));
        edge.set("TLS_CRL_FILE", &self.path("crl.pem"));
    }

    /// Returns an edge that is running, but without NATS: it accepts clients and sends no ticks.
    async fn edge(&self) -> Daemon {
        let mut edge = Daemon::new("tickstorm-edge");
        self.secure(&mut edge);
        edge.start().await;
        edge
    }

    /// Returns `openssl s_client` for the edge, with the files of `own`, if any. It trusts only the
    /// authority of the servers.
    fn openssl(&self, edge: &Daemon, own: Option<&str>) -> Command {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-brief", "-connect"])
            .arg(edge.clients().to_string())
            .args(["-servername", NAME, "-verify_hostname", NAME])
            .args(["-verify_return_error", "-CAfile", &self.path("ca.pem")]);
        if let Some(own) = own {
            let [certificate, key] = [format!("{own}.crt"), format!("{own}.key")];
            command.args(["-cert", &self.path(&certificate), "-key", &self.path(&key)]);
        }
        piped(command)
    }

    /// Returns Python's client for the edge, which sends `sent`.
    fn python(&self, edge: &Daemon, from: Ipv4Addr, own: Option<&str>, sent: &[u8]) -> Command {
        let sent: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
        let (to, from, ca) = (
            edge.clients().to_string(),
            from.to_string(),
            self.path("ca.pem"),
        );
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON_CLIENT, &to, &from, &sent, &ca]);
        if let Some(own) = own {
            command.args([
                self.path(&format!("{own}.crt")),
                self.path(&format!("{own}.key")),
            ]);
        }
        piped(command)
    }
}

fn piped(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Returns the first frames of a client.
fn login() -> Vec<u8> {
    let subscribe = peer::subscribe(Mode::Second, None, false);
    [peer::auth(USER, PASSWORD), subscribe].concat()
}

/// A client that runs. Its standard input and output are those of the TLS connection.
struct OtherClient {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    received: Vec<u8>,
}

impl OtherClient {
    fn start(mut command: Command) -> Self {
        let program = command.as_std().get_program().display().to_string();
        let child = command.stdin(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
        Self {
            input: child.stdin.take(),
            output: child.stdout.take().unwrap(),
            child,
            received: Vec::new(),
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes).await.unwrap();
        input.flush().await.unwrap();
    }

    async fn frame(&mut self) -> RawFrame {
        loop {
            if let Some(frame) = RawFrame::take(&mut self.received) {
                return frame;
            }
            let reading = timeout(PATIENCE, self.output.read_buf(&mut self.received)).await;
            let read = reading.expect("a frame arrives in time").unwrap();
            if read == 0 {
                panic!("the client has ended: {}", self.complaint().await);
            }
        }
    }

    /// Waits for the next frame of a type. Ticks and their acknowledgements are skipped.
    async fn frame_of(&mut self, kind: u8) -> RawFrame {
        loop {
            let frame = self.frame().await;
            assert_ne!((frame.kind, kind), (frame::ERROR, frame::PONG), "{frame:?}");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    async fn complaint(&mut self) -> String {
        let mut complaint = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut complaint).await.unwrap();
        complaint
    }
}

/// Runs a client that the edge refuses, and returns what it says.
async fn refused(command: Command) -> String {
    let Ended {
        code,
        stdout,
        stderr,
    } = run(command).await;
    assert_ne!(code, Some(0), "it was not refused: {stdout} {stderr}");
    assert_eq!(stdout, "", "it received something: {stderr}");
    stderr
}

/// A client certificate that an edge refuses.
struct Refusal {
    /// The names of the files, if there are any.
    own: Option<&'static str>,
    /// The number of the alert that the client is sent (RFC 8446, section 6.2).
    alert: u8,
    /// The alert's name in Python.
    python: &'static str,
    /// The result in the metric and in the log.
    result: &'static str,
}

const REFUSALS: [Refusal; 6] = [
    Refusal {
        own: None,
        alert: 116,
        python: "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        result: "certificate_missing",
    },
    Refusal {
        own: Some("foreign"),
        alert: 48,
        python: "TLSV1_ALERT_UNKNOWN_CA",
        result: "unknown_authority",
    },
    Refusal {
        own: Some("expired"),
        alert: 45,
        python: "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        result: "certificate_expired",
    },
    Refusal {
        own: Some("early"),
        // Also the alert for a certificate that is not valid yet.
        alert: 45,
        python: "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        result: "certificate_not_yet_valid",
    },
    Refusal {
        own: Some("revoked"),
        alert: 44,
        python: "SSLV3_ALERT_CERTIFICATE_REVOKED",
        result: "certificate_revoked",
    },
    Refusal {
        own: Some("server"),
        alert: 43,
        python: "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        result: "certificate_wrong_purpose",
    },
];

#[tokio::test]
async fn a_refused_certificate_gets_its_alert_and_is_counted_and_logged_with_the_address() {
    let files = Files::new();
    let now_s = u64::try_from(SystemHost::new(0).read().unix.as_millis()).unwrap() / 1_000;
    let revoked = files.clients.issue("revoked");
    let others = CertificateAuthority::named("another authority", 0..now_s + DAY_S);
    for (name, certificate) in [
        ("foreign", &others.issue("foreign")),
        (
            "expired",
            &files.clients.issue_valid("expired", 0..now_s - 60),
        ),
        (
            "early",
            &files
                .clients
                .issue_valid("early", now_s + DAY_S..now_s + 2 * DAY_S),
        ),
        ("revoked", &revoked),
        (
            "server",
            &files
                .clients
                .issue_for("server", &["server"], &[CertificateUsage::Server]),
        ),
    ] {
        files.write(name, certificate);
    }
    files
        .dir
        .write("crl.pem", files.clients.revoke(&[&revoked]));
    let edge = files.edge().await;
    for (index, refusal) in (0..).zip(&REFUSALS) {
        let [from_openssl, from_python] = [1, 2].map(|host| Ipv4Addr::new(127, 0, index, host));
        let mut openssl = files.openssl(&edge, refusal.own);
        // OpenSSL's client would end at the end of its input, before the alert arrives.
        openssl.args(["-ign_eof", "-bind", &format!("{from_openssl}:0")]);
        let said = refused(openssl).await;
        let alert = format!("SSL alert number {}\n", refusal.alert);
        assert!(said.contains(&alert), "{}: {said}", refusal.result);
        let said = refused(files.python(&edge, from_python, refusal.own, &login())).await;
        let alert = format!("alert {}\n", refusal.python);
        assert!(said.contains(&alert), "{}: {said}", refusal.result);
        for address in [from_openssl, from_python] {
            assert_logged(&edge, address, refusal.result).await;
        }
        assert_eq!(handshakes(&edge, refusal.result).await, 2.0);
    }
    assert_eq!(handshakes(&edge, "completed").await, 0.0);
}

/// Waits until the edge has logged that it refused a client at this address, and why.
async fn assert_logged(edge: &Daemon, address: Ipv4Addr, result: &str) {
    let peer = format!("{address}:");
    let what = format!("{result} from {address} in the log");
    poll_until_async(&what, PATIENCE, || {
        let log = edge.log();
        log.lines().any(|line| {
            let is_refusal = line.contains("client certificate refused");
            is_refusal && line.contains(&peer) && line.contains(result)
        })
    })
    .await;
}

async fn handshakes(edge: &Daemon, result: &str) -> f64 {
    let name = format!("tickstorm_tls_handshakes_total{{result=\"{result}\"}}");
    edge.metric(&name).await
}

#[tokio::test]
async fn a_client_without_tls_1_3_or_a_suite_or_group_in_common_gets_the_alert_for_it() {
    const PROTOCOL_VERSION: &str = "SSL alert number 70\n";
    const HANDSHAKE_FAILURE: &str = "SSL alert number 40\n";
    let files = Files::new();
    let edge = files.edge().await;
    let cases = [
        (&["-tls1_2"][..], PROTOCOL_VERSION),
        (
            &["-ciphersuites", "TLS_AES_128_GCM_SHA256"],
            HANDSHAKE_FAILURE,
        ),
        (&["-groups", "ffdhe2048"], HANDSHAKE_FAILURE),
    ];
    for (options, alert) in cases {
        let mut openssl = files.openssl(&edge, Some("till-7"));
        openssl.arg("-ign_eof").args(options);
        let said = refused(openssl).await;
        assert!(said.contains(alert), "{options:?}: {said}");
    }
    assert_eq!(handshakes(&edge, "incompatible").await, 3.0);
    for suite in ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let mut openssl = files.openssl(&edge, Some("till-7"));
        openssl.args(["-ciphersuites", suite]);
        let Ended { code, stderr, .. } = run(openssl).await;
        assert_eq!(code, Some(0), "{suite}: {stderr}");
        assert!(stderr.contains("TLSv1.3"), "{stderr}");
        assert!(stderr.contains(suite), "{stderr}");
    }
}

#[tokio::test]
async fn ticks_flow_to_other_clients_through_key_updates_of_both_kinds() {
    let files = Files::new();
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[]);
    files.secure(&mut cluster.edges[0]);
    cluster.start().await;
    let edge = &cluster.edges[0];

    let mut python = files.python(edge, Ipv4Addr::LOCALHOST, Some("till-7"), &login());
    python.stdin(Stdio::null());
    let mut python = OtherClient::start(python);
    for _ in 0..2 {
        python.frame_of(frame::DATA_BATCH).await;
    }

    let messages = files.path("messages");
    let mut openssl = files.openssl(edge, Some("till-7"));
    openssl.args(["-msg", "-msgfile", &messages]);
    let mut openssl = OtherClient::start(openssl);
    openssl.send(&login()).await;
    openssl.frame_of(frame::DATA_BATCH).await;
    for _ in 0..3 {
        // `K` also requests a KeyUpdate of the edge, which is sent with the next tick.
        for command in [b"K\n", b"k\n"] {
            openssl.send(command).await;
            openssl.frame_of(frame::DATA_BATCH).await;
            // The edge reads under the new key.
            openssl.send(&peer::heartbeat(1)).await;
            openssl.frame_of(frame::PONG).await;
        }
    }
    let messages = std::fs::read_to_string(messages).unwrap();
    let count = |direction: &str| {
        let lines = messages.lines().filter(|line| line.contains("KeyUpdate"));
        lines.filter(|line| line.starts_with(direction)).count()
    };
    assert_eq!(count(">>>"), 6, "sent: {messages}");
    assert_eq!(count("<<<"), 3, "received: {messages}");
    python.frame_of(frame::DATA_BATCH).await;
}

#[tokio::test]
async fn a_certificate_does_not_replace_auth_and_is_shown_to_operators() {
    let files = Files::new();
    let mut edge = Daemon::new("tickstorm-edge").with("LOG_LEVEL", "debug");
    files.secure(&mut edge);
    edge.start().await;
    let subscribe = peer::subscribe(Mode::Second, None, false);
    let mut openssl = OtherClient::start(files.openssl(&edge, Some("till-7")));
    openssl.send(&subscribe).await;
    let error = openssl.frame_of(frame::ERROR).await;
    let text = String::from_utf8_lossy(&error.payload).into_owned();
    assert!(text.contains("the first frame must be AUTH"), "{text}");

    let mut openssl = OtherClient::start(files.openssl(&edge, Some("till-7")));
    openssl.send(&peer::auth(USER, PASSWORD)).await;
    openssl.frame_of(frame::ACK).await;
    let (code, listed) = edge.get("/connections").await.unwrap();
    assert_eq!(code, 200, "{listed}");
    assert!(listed.contains("CN=till-7"), "{listed}");
    drop(openssl);
    let what = "the end of the connection is logged with the certificate";
    poll_until_async(what, PATIENCE, || {
        let log = edge.log();
        log.lines().any(|line| {
            line.contains("connection closed")
                && line.contains("CN=till-7")
                && line.contains("certificate_serial")
                && line.contains("client_closed")
        })
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_presented_to_the_next_client() {
    let files = Files::new();
    let edge = files.edge().await;
    let old = std::fs::read_to_string(files.path("edge.crt")).unwrap();
    assert_eq!(presented(&files, &edge).await, body(&old));
    let renewed = files.servers.issue(NAME);
    files.write("edge", &renewed);
    edge.logs("new connections use them").await;
    assert_eq!(presented(&files, &edge).await, body(&renewed.certificate));
}

/// Returns the certificate that the edge presents, without the lines around it.
async fn presented(files: &Files, edge: &Daemon) -> String {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["s_client", "-showcerts", "-servername", NAME, "-connect"])
        .arg(edge.clients().to_string())
        .args(["-CAfile", &files.path("ca.pem"), "-verify_return_error"])
        .args([
            "-cert",
            &files.path("till-7.crt"),
            "-key",
            &files.path("till-7.key"),
        ]);
    let Ended {
        code,
        stdout,
        stderr,
    } = run(piped(openssl)).await;
    assert_eq!(code, Some(0), "{stderr}");
    body(&stdout)
}

/// Returns the first certificate in a text, without the lines around it and its line breaks.
fn body(text: &str) -> String {
    let start = text.split_once("-----BEGIN CERTIFICATE-----");
    let body = start.and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE-----"));
    let (body, _) = body.unwrap_or_else(|| panic!("no certificate in {text}"));
    body.split_whitespace().collect()
}
