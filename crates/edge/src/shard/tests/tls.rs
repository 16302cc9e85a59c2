//! A whole shard over TLS, in virtual time, with rustls' client at the other end.

use std::io::{Read as _, Write as _};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::sys::secured::Secured;

/// Makes shards over TLS, and clients that trust them.
struct Certificates {
    server: Arc<rustls::ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Certificates {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["edge".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(tickstorm_tls::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = tickstorm_tls::server_config(vec![certificate], key, None).unwrap();
        Self {
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }

    fn sim(&self) -> Sim<Secured<Script>> {
        let config = watch::channel(Arc::clone(&self.server)).1;
        let metrics = Metrics::register(&Registry::new()).unwrap().tls;
        Sim::over(settings(), |script| Secured::new(script, config, metrics))
    }

    fn client(&self, sim: &Sim<Secured<Script>>) -> Client {
        self.client_of(sim, sim.script.connect())
    }

    fn client_of(&self, sim: &Sim<Secured<Script>>, fd: RawFd) -> Client {
        let name = ServerName::try_from("edge").unwrap();
        let mut client = Client {
            fd,
            tls: ClientConnection::new(Arc::clone(&self.client), name).unwrap(),
            received: Vec::new(),
            has_ended: false,
        };
        client.exchange(sim);
        client
    }

    /// Connects a client, authenticates it, and subscribes it to seconds.
    fn subscriber(&self, sim: &mut Sim<Secured<Script>>) -> Client {
        let mut client = self.client(sim);
        client.send(sim, &auth("pass"));
        client.send(sim, &subscribe(Mode::Second, false, None));
        client.run_for(sim, 5 * MS);
        let kinds: Vec<_> = client.frames().iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [ACK, ACK]);
        client
    }
}

/// A TLS client of a scripted socket.
struct Client {
    fd: RawFd,
    tls: ClientConnection,
    received: Vec<u8>,
    /// Whether close_notify has arrived.
    has_ended: bool,
}

impl Client {
    /// Passes records in both directions.
    fn exchange(&mut self, sim: &Sim<Secured<Script>>) {
        let bytes = std::mem::take(&mut sim.script.on(self.fd).sent);
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            let state = self.tls.process_new_packets().unwrap();
            self.has_ended |= state.peer_has_closed();
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = self.tls.reader().read(&mut buffer) {
                self.received.extend_from_slice(&buffer[..read]);
            }
        }
        let mut output = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut output).unwrap();
        }
        if !output.is_empty() {
            sim.script.client_sends(self.fd, &output);
        }
    }

    fn send(&mut self, sim: &Sim<Secured<Script>>, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.exchange(sim);
    }

    fn run_for(&mut self, sim: &mut Sim<Secured<Script>>, time: Duration) {
        let until = sim.now() + time;
        while sim.now() < until {
            sim.run_for(MS);
            self.exchange(sim);
        }
    }

    fn frames(&mut self) -> Vec<RawFrame> {
        std::iter::from_fn(|| RawFrame::take(&mut self.received)).collect()
    }

    fn ticks(&mut self) -> Vec<i64> {
        let ticks = ticks_of(&self.frames());
        ticks.into_iter().map(|(epoch_ms, _)| epoch_ms).collect()
    }
}

fn assert_consecutive(ticks: &[i64], at_least: usize) {
    assert!(ticks.len() >= at_least, "{ticks:?}");
    for pair in ticks.windows(2) {
        assert_eq!(pair[1], pair[0] + 1_000, "{ticks:?}");
    }
}

#[test]
fn clients_get_their_ticks_over_tls() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.subscriber(&mut sim);
    client.run_for(&mut sim, 5 * SECOND);
    assert_consecutive(&client.ticks(), 4);
}

#[test]
fn a_record_that_the_socket_cuts_anywhere_is_completed_and_nothing_is_lost() {
    let certificates = Certificates::new();
    for room in 0..140 {
        let mut sim = certificates.sim();
        let mut client = certificates.subscriber(&mut sim);
        sim.script.on(client.fd).room = Some(room);
        client.run_for(&mut sim, 2 * SECOND);
        for _ in 0..3 {
            sim.script.client_reads(client.fd, 33);
            client.run_for(&mut sim, 300 * MS);
        }
        sim.script.client_reads(client.fd, 1_000_000);
        client.run_for(&mut sim, 2 * SECOND);
        assert_consecutive(&client.ticks(), 4);
    }
}

#[test]
fn input_may_be_cut_anywhere() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.client(&sim);
    sim.script.on(client.fd).read_max = Some(1);
    client.send(&sim, &auth("pass"));
    client.run_for(&mut sim, 50 * MS);
    client.send(&sim, &subscribe(Mode::Second, false, None));
    client.run_for(&mut sim, 2 * SECOND);
    assert_consecutive(&client.ticks(), 1);
}

#[test]
fn key_updates_are_answered_while_ticks_go_out() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.subscriber(&mut sim);
    for time in 0..5 {
        client.tls.refresh_traffic_keys().unwrap();
        client.send(&sim, &heartbeat(time));
        client.run_for(&mut sim, SECOND);
    }
    let frames = client.frames();
    assert_eq!(frames.iter().filter(|frame| frame.kind == PONG).count(), 5);
    let ticks: Vec<_> = ticks_of(&frames).into_iter().map(|tick| tick.0).collect();
    assert_consecutive(&ticks, 4);
}

#[test]
fn an_error_is_followed_by_close_notify() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.client(&sim);
    client.send(&sim, &auth("wrong"));
    client.run_for(&mut sim, 2 * SECOND);
    let frames = client.frames();
    assert_eq!(frames[0].decode::<ErrorMsg>().code, "AUTH_FAILED");
    assert!(client.has_ended, "close_notify");
    assert!(sim.script.on(client.fd).is_shut);
}

#[test]
fn a_client_that_sends_close_notify_is_closed() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.subscriber(&mut sim);
    client.tls.send_close_notify();
    client.run_for(&mut sim, 10 * MS);
    assert!(client.has_ended, "close_notify is answered");
    assert!(sim.script.on(client.fd).is_closed);
}

#[test]
fn plain_text_gets_an_alert_and_the_connection_ends() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let fd = sim.script.connect();
    sim.script.client_sends(fd, &auth("pass"));
    sim.run_for(2 * SECOND);
    let socket = sim.script.on(fd);
    assert_eq!(socket.sent[..3], [21, 3, 3], "an alert");
    assert!(socket.is_closed);
    let closed = &sim.metrics.closed;
    let failed = closed.with_label_values(&["tls_failed"]).get();
    assert_eq!(failed, 1);
}

#[test]
fn without_a_byte_it_was_a_health_check_and_within_a_handshake_a_failure() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let silent = sim.script.connect();
    sim.run_for(MS);
    sim.script.client_ends(silent);
    let client = certificates.client(&sim);
    sim.run_for(MS);
    sim.script.client_ends(client.fd);
    sim.run_for(2 * SECOND);
    for (fd, reason) in [(silent, "health_check"), (client.fd, "tls_failed")] {
        assert!(sim.script.on(fd).is_closed);
        let closed = sim.metrics.closed.with_label_values(&[reason]).get();
        assert_eq!(closed, 1, "{reason}");
    }
}

#[test]
fn no_handshake_step_starts_just_before_a_tick() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut subscriber = certificates.subscriber(&mut sim);
    sim.run_to_just_before_a_second();
    subscriber.exchange(&sim);
    subscriber.frames();
    let mut clients: Vec<_> = (0..20).map(|_| certificates.client(&sim)).collect();
    sim.run_for(Duration::from_micros(900));
    for client in &clients {
        assert!(sim.script.on(client.fd).sent.is_empty(), "before the tick");
    }
    sim.run_for(10 * MS);
    subscriber.exchange(&sim);
    let frames = subscriber.frames();
    let batch: DataBatch = frames[0].decode();
    let late_us = batch.sent_unix_us - batch.ticks[0].epoch_ms * 1_000;
    assert!((0..=1).contains(&late_us), "{late_us} µs");
    for client in &mut clients {
        assert!(!sim.script.on(client.fd).sent.is_empty(), "after the tick");
        client.send(&sim, &auth("pass"));
        client.run_for(&mut sim, 10 * MS);
        assert_eq!(client.frames()[0].kind, ACK);
    }
}

#[test]
fn a_handshake_goes_through_a_socket_that_accepts_little_at_a_time() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let fd = sim.script.connect();
    sim.script.on(fd).room = Some(0);
    let mut client = certificates.client_of(&sim, fd);
    for _ in 0..20 {
        client.run_for(&mut sim, 5 * MS);
        sim.script.client_reads(client.fd, 100);
    }
    client.send(&sim, &auth("pass"));
    client.run_for(&mut sim, 10 * MS);
    assert_eq!(client.frames()[0].kind, ACK);
}

#[test]
fn a_connection_that_is_reset_within_its_handshake_is_not_a_health_check() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let client = certificates.client(&sim);
    sim.run_for(5 * MS);
    sim.script.breaks(client.fd, nix::errno::Errno::ECONNRESET);
    sim.run_for(2 * SECOND);
    assert!(sim.script.on(client.fd).is_closed);
    let closed = &sim.metrics.closed;
    assert_eq!(closed.with_label_values(&["tls_failed"]).get(), 1);
}

#[test]
fn an_end_that_is_read_with_the_last_data_is_noticed_whatever_the_number_of_reads() {
    for pieces in 1..12 {
        let certificates = Certificates::new();
        let mut sim = certificates.sim();
        let mut client = certificates.subscriber(&mut sim);
        // Each piece is read by a read of its own, so that the end is in one of them.
        client.tls.writer().write_all(&heartbeat(1)).unwrap();
        client.tls.send_close_notify();
        let mut output = Vec::new();
        while client.tls.wants_write() {
            client.tls.write_tls(&mut output).unwrap();
        }
        sim.script.on(client.fd).read_max = Some(output.len().div_ceil(pieces));
        sim.script.client_sends(client.fd, &output);
        sim.run_for(50 * MS);
        assert!(sim.script.on(client.fd).is_closed, "in {pieces} pieces");
    }
}
