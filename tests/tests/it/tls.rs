//! `tail --tls` and an edge with TLS, as processes.

mod other_clients;

use tickstorm_testkit::{Certificate, CertificateAuthority, CertificateUsage, Nats, TempDir};

use crate::support::cluster::Cluster;
use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::tickstorm::{Ended, run, tickstorm};

/// The files of an edge and of its clients.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new(authority: &CertificateAuthority, clients: &CertificateAuthority) -> Self {
        let dir = TempDir::new("tls");
        dir.write("ca.pem", authority.certificate());
        dir.write("clients.pem", clients.certificate());
        let this = Self { dir };
        this.write("edge", &authority.issue("edge.test"));
        this.write("client", &clients.issue("till-7"));
        this.write("stranger", &authority.issue("till-8"));
        this
    }

    fn write(&self, name: &str, certificate: &Certificate) {
        self.dir
            .write(&format!("{name}.crt"), &certificate.certificate);
        self.dir.write(&format!("{name}.key"), &certificate.key);
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs `tail` with these options in addition to the edge's address and the login.
    async fn tail(&self, addr: &str, options: &[&str]) -> Ended {
        let args = [
            "tail", "--addr", addr, "--user", USER, "--count", "2", "--within", "20s",
        ];
        let mut command = tickstorm(&[&args, options].concat());
        command
            .env("STREAM_PASS", PASSWORD)
            .current_dir(self.dir.path());
        run(command).await
    }
}

#[tokio::test]
async fn tail_checks_the_edge_and_an_edge_checks_the_client() {
    let authority = CertificateAuthority::new();
    let files = Files::new(&authority, &CertificateAuthority::new());
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 1, &[]);
    let edge = &mut cluster.edges[0];
    for (name, value) in [
        ("TLS_ENABLED", "true".to_owned()),
        ("TLS_CERT_FILE", files.path("edge.crt")),
        ("TLS_KEY_FILE", files.path("edge.key")),
        ("TLS_CLIENT_AUTH", "require_verify".to_owned()),
        ("TLS_CA_FILE", files.path("clients.pem")),
    ] {
        edge.set(name, &value);
    }
    cluster.start().await;
    let addr = cluster.edges[0].clients().to_string();
    let trusting = ["--tls", "--tls-ca", "ca.pem", "--tls-name", "edge.test"];
    let with = |name: &str| [format!("{name}.crt"), format!("{name}.key")];
    let [certificate, key] = with("client");
    let known = [
        &trusting[..],
        &["--tls-cert", &certificate, "--tls-key", &key],
    ]
    .concat();
    let ended = files.tail(&addr, &known).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let [certificate, key] = with("stranger");
    let foreign = [
        &trusting[..],
        &["--tls-cert", &certificate, "--tls-key", &key],
    ]
    .concat();
    for (options, named) in [
        (&trusting[..], "CertificateRequired"),
        (&foreign[..], "received fatal alert"),
        (&["--tls", "--tls-ca", "ca.pem"], "not valid for name"),
        (
            &["--tls", "--tls-ca", "clients.pem"],
            "invalid peer certificate",
        ),
    ] {
        let ended = files.tail(&addr, options).await;
        assert_eq!(ended.code, Some(69), "{options:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "no {named}: {ended:?}");
    }
    let ended = files.tail(&addr, &[]).await;
    assert_eq!(ended.code, Some(76), "plain text: {ended:?}");
    let ended = files.tail(&addr, &["--tls", "--tls-ca", "none.pem"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("none.pem"), "{ended:?}");
}

/// Anyone can present a certificate, and the edge logs why it refuses one.
#[tokio::test]
async fn a_huge_client_certificate_makes_no_long_line_in_the_log() {
    let (authority, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let files = Files::new(&authority, &clients);
    // As many as a chain of 8 KiB has room for.
    let purposes: Vec<_> = (0..500).map(CertificateUsage::Unknown).collect();
    files.write("huge", &clients.issue_for("till-9", &["till-9"], &purposes));
    let mut edge = Daemon::new("tickstorm-edge")
        .with("LOG_LEVEL", "debug")
        .with("TLS_ENABLED", "true")
        .with("TLS_CERT_FILE", &files.path("edge.crt"))
        .with("TLS_KEY_FILE", &files.path("edge.key"))
        .with("TLS_CLIENT_AUTH", "require_verify")
        .with("TLS_CA_FILE", &files.path("clients.pem"));
    edge.start().await;
    let presenting = [
        "--tls",
        "--tls-ca",
        "ca.pem",
        "--tls-name",
        "edge.test",
        "--tls-cert",
        "huge.crt",
        "--tls-key",
        "huge.key",
    ];
    let ended = files.tail(&edge.clients().to_string(), &presenting).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    edge.logs("client certificate refused").await;
    edge.logs("TLS failed").await;
    let log = edge.log();
    assert!(log.contains("certificate_wrong_purpose"), "{log}");
    let longest = log.lines().max_by_key(|line| line.len()).unwrap();
    assert!(longest.len() < 1_000, "{} bytes: {longest}", longest.len());
}

/// A tool or a shell can join the lines of a key.
#[tokio::test]
async fn a_key_on_one_line_does_not_get_into_the_log_or_the_status() {
    let authority = CertificateAuthority::new();
    let files = Files::new(&authority, &authority);
    let own = authority.issue("edge.test");
    files.write("edge", &own);
    let one_line = own.key.replace('\n', " ");
    files.dir.write("one-line.key", &one_line);
    let secret = own.key.lines().nth(1).unwrap();
    let bytes = format!("{:?}", &secret.as_bytes()[..8]);
    let check = |text: &str| {
        assert!(!text.contains(&secret[..8]), "{text}");
        assert!(!text.contains(bytes.trim_matches(['[', ']'])), "{text}");
    };
    let with_tls = |edge_key: &str, admin_key: Option<&str>| {
        let mut edge = Daemon::new("tickstorm-edge")
            .with("TLS_ENABLED", "true")
            .with("TLS_CERT_FILE", &files.path("edge.crt"))
            .with("TLS_KEY_FILE", &files.path(edge_key));
        if let Some(key) = admin_key {
            edge.set("ADMIN_TLS_CERT_FILE", &files.path("edge.crt"));
            edge.set("ADMIN_TLS_KEY_FILE", &files.path(key));
        }
        edge
    };
    for (edge_key, admin_key) in [("one-line.key", None), ("edge.key", Some("one-line.key"))] {
        let ended = run(with_tls(edge_key, admin_key).command(&[])).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains("one-line.key"), "{ended:?}");
        check(&ended.stderr);
    }
    let mut plain_admin = with_tls("edge.key", None);
    plain_admin.start().await;
    let mut with_admin_tls = with_tls("edge.key", Some("edge.key"));
    with_admin_tls.start().await;
    files.dir.write("edge.key", &one_line);
    plain_admin.logs("TLS files can't be reread").await;
    with_admin_tls
        .logs("the admin port's TLS files can't be reread")
        .await;
    check(&plain_admin.log());
    check(&with_admin_tls.log());
    let status = plain_admin.status().await;
    assert!(status["tls"]["reload_error"].is_string(), "{status}");
    check(&status.to_string());
}
