use std::sync::Arc;

use tickstorm_bus::{Bus, EdgeEvent, NatsBus, NatsOptions};
use tickstorm_testkit::{Certificate, CertificateAuthority, Nats, TempDir};

use crate::{announce_until_heard, options, soon};

/// Starts a server that presents a certificate for 127.0.0.1 and requires one from each client.
/// Returns it with a directory of the files that clients need.
fn server(authority: &CertificateAuthority) -> (Nats, TempDir) {
    let mut nats = Nats::create(&[
        "--tlsverify",
        "--tlscert=/certificate.pem",
        "--tlskey=/key.pem",
        "--tlscacert=/authority.pem",
    ]);
    let files = TempDir::new("tls");
    let Certificate {
        certificate, key, ..
    } = authority.issue("127.0.0.1");
    for (name, content) in [
        ("authority.pem", authority.certificate()),
        ("certificate.pem", &certificate),
        ("key.pem", &key),
    ] {
        files.write(name, content);
        nats = nats.with_file(&format!("/{name}"), content.as_bytes());
    }
    nats.start();
    (nats, files)
}

fn with_files(nats: &Nats, files: &TempDir) -> NatsOptions {
    NatsOptions {
        ca_file: Some(files.path().join("authority.pem")),
        certificate_file: Some(files.path().join("certificate.pem")),
        key_file: Some(files.path().join("key.pem")),
        ..options(nats)
    }
}

#[tokio::test]
async fn a_client_with_the_authority_and_a_certificate_connects_by_tls() {
    let (nats, files) = server(&CertificateAuthority::new());
    let bus = NatsBus::start(with_files(&nats, &files)).unwrap();
    let mut events = bus.edge_events(&[]);
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    assert_eq!(announce_until_heard(&bus, &mut events, 1_000).await, []);
}

#[tokio::test]
async fn only_a_server_with_a_certificate_of_the_ca_file_is_trusted() {
    let (untrusted, files) = server(&CertificateAuthority::new());
    let plain = Nats::run(&[]);
    let authority = CertificateAuthority::new();
    files.write("other.pem", authority.certificate());
    let options = Arc::new(NatsOptions {
        urls: format!("{},{}", untrusted.url(), plain.url()),
        ca_file: Some(files.path().join("other.pem")),
        ..with_files(&untrusted, &files)
    });
    let bus = NatsBus::start(Arc::clone(&options)).unwrap();
    let mut events = bus.edge_events(&[]);
    let outcome = tokio::time::timeout(std::time::Duration::from_secs(1), events.next()).await;
    assert!(outcome.is_err(), "{outcome:?}");
    files.write(
        "other.pem",
        std::fs::read(files.path().join("authority.pem")).unwrap(),
    );
    bus.use_secrets(options.secrets().unwrap());
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
}
