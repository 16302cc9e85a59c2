//! `tail --tls` and an edge with TLS, as processes.

use tickstorm_testkit::{Certificate, CertificateAuthority, Nats, TempDir};

use crate::support::cluster::Cluster;
use crate::support::daemon::{PASSWORD, USER};
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
