//! A whole shard over TLS, in virtual time, with rustls' client at the other end.

use std::io::{Read as _, Write as _};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::memory::held;
use super::*;
use crate::feed::CHUNK;
use crate::sys::secured::Secured;
use crate::tls::{ClientAuth, TlsConfigs};

/// Makes shards over TLS, and clients that trust them.
pub(super) struct Certificates {
    server: Arc<rustls::ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Certificates {
    pub(super) fn new() -> Self {
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
        self.sim_with_limits(AdmissionLimits::NONE)
    }

    fn sim_with_limits(&self, limits: AdmissionLimits) -> Sim<Secured<Script>> {
        self.sim_over(settings(), limits, |script| script)
    }

    fn sim_with(&self, settings: ShardSettings) -> Sim<Secured<Script>> {
        self.sim_over(settings, AdmissionLimits::NONE, |script| script)
    }

    /// Creates a shard that knows the time and runs over TLS over the network that `over` makes of
    /// the script.
    pub(super) fn sim_over<N: Network>(
        &self,
        settings: ShardSettings,
        limits: AdmissionLimits,
        over: impl FnOnce(Script) -> N,
    ) -> Sim<Secured<N>> {
        let configs = TlsConfigs {
            current: watch::channel(Arc::clone(&self.server)).1,
            client_auth: ClientAuth::None,
        };
        let metrics = Metrics::register(&Registry::new()).unwrap().tls;
        let mut sim = Sim::build(settings, limits, |script| {
            Secured::new(over(script), configs, metrics)
        });
        sim.learn_time();
        sim
    }

    fn client<N: Network>(&self, sim: &Sim<N>) -> Client {
        self.client_of(sim, sim.script.connect())
    }

    pub(super) fn client_of<N: Network>(&self, sim: &Sim<N>, fd: RawFd) -> Client {
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
pub(super) struct Client {
    fd: RawFd,
    tls: ClientConnection,
    received: Vec<u8>,
    /// Whether close_notify has arrived.
    has_ended: bool,
}

impl Client {
    /// Passes records in both directions.
    fn exchange<N: Network>(&mut self, sim: &Sim<N>) {
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

    pub(super) fn send<N: Network>(&mut self, sim: &Sim<N>, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.exchange(sim);
    }

    /// Seals `bytes` in one record, and returns it instead of sending it.
    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).unwrap();
        let mut record = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut record).unwrap();
        }
        record
    }

    pub(super) fn run_for<N: Network>(&mut self, sim: &mut Sim<N>, time: Duration) {
        let until = sim.now() + time;
        while sim.now() < until {
            sim.run_for(MS);
            self.exchange(sim);
        }
    }

    pub(super) fn frames(&mut self) -> Vec<RawFrame> {
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
fn a_refused_connection_gets_a_plain_close_over_tls() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim_with_limits(AdmissionLimits {
        connections_per_address: 1,
        ..AdmissionLimits::NONE
    });
    let _first = certificates.client(&sim);
    sim.run_for(MS);
    let second = certificates.client(&sim);
    sim.run_for(MS);
    let socket = sim.script.on(second.fd);
    assert!(socket.is_closed && socket.sent.is_empty());
    let closed = &sim.metrics.closed;
    let refused = closed.with_label_values(&["too_many_connections"]).get();
    assert_eq!(refused, 1);
}

#[test]
fn a_draining_edge_closes_a_connection_over_tls_without_error() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let _subscriber = certificates.subscriber(&mut sim);
    sim.drain(20 * SECOND);
    let refused = certificates.client(&sim);
    sim.run_for(MS);
    let socket = sim.script.on(refused.fd);
    assert!(socket.is_closed && socket.sent.is_empty());
}

#[test]
fn auth_timeout_covers_the_tls_handshake() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let silent = sim.script.connect();
    // It does not answer the edge's part of the handshake.
    let greeted = certificates.client(&sim).fd;
    sim.run_for(4_990 * MS);
    for fd in [silent, greeted] {
        assert!(!sim.script.on(fd).is_closed);
    }
    sim.run_for(510 * MS);
    for fd in [silent, greeted] {
        assert!(sim.script.on(fd).is_closed);
    }
    assert_eq!(sim.closed("auth_timeout"), 2);
    assert!(sim.script.on(silent).sent.is_empty(), "no ERROR");
}

#[test]
fn a_client_within_its_tls_handshake_is_closed_after_those_that_sent_nothing() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim_with_limits(AdmissionLimits {
        handshakes: 3,
        ..AdmissionLimits::NONE
    });
    let greeted = certificates.client(&sim);
    let silent = sim.script.connect();
    sim.run_for(1_100 * MS);
    sim.script.connect();
    sim.script.connect();
    sim.run_for(10 * MS);
    assert!(sim.script.on(silent).is_closed);
    assert!(!sim.script.on(greeted.fd).is_closed);
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
fn handshakes_wait_while_a_tick_is_sent_to_everyone_but_not_for_long() {
    const SUBSCRIBERS: usize = 3 * CHUNK + 1;
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| certificates.subscriber(&mut sim).fd)
        .collect();
    // With the second duration, three chunks take more than half a second.
    for (send, waits) in [(Duration::ZERO, true), (Duration::from_micros(190), false)] {
        sim.script.scene().cost = Duration::ZERO;
        sim.run_to_just_before_a_second();
        for fd in &subscribers {
            sim.script.on(*fd).sent.clear();
        }
        // Its first message arrives too late for a step before the tick.
        let client = certificates.client(&sim);
        sim.run_for(MS / 2);
        sim.script.scene().cost = send;
        let mut served = 0;
        while sim.script.on(client.fd).sent.is_empty() {
            let horizon = sim.now() + MS;
            sim.script.scene().horizon = horizon;
            sim.shard.turn().unwrap();
            let has_tick = |fd: &&RawFd| !sim.script.on(**fd).sent.is_empty();
            served = subscribers.iter().filter(has_tick).count();
        }
        assert!(served > 0, "the tick comes first");
        assert_eq!(served == SUBSCRIBERS, waits, "{served} served");
        sim.script.scene().cost = Duration::ZERO;
        sim.run_for(10 * MS);
    }
}

#[test]
fn the_second_half_of_a_handshake_does_not_wait_for_all_that_have_just_begun() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.client(&sim);
    sim.run_for(5 * MS);
    let flood: Vec<_> = (0..100).map(|_| sim.script.connect()).collect();
    sim.run_for(5 * MS);
    // Each step takes a whole share of a turn, which is one step.
    sim.script.scene().cost = MS;
    let horizon = sim.now() + 100 * SECOND;
    sim.script.scene().horizon = horizon;
    for fd in &flood {
        certificates.client_of(&sim, *fd);
    }
    sim.shard.turn().unwrap();
    client.send(&sim, &auth("pass"));
    let answered = |sim: &Sim<Secured<Script>>| {
        let is_answered = |fd: &&RawFd| !sim.script.on(**fd).sent.is_empty();
        flood.iter().filter(is_answered).count()
    };
    while client.frames().is_empty() {
        assert!(answered(&sim) <= 10, "{} came first", answered(&sim));
        sim.shard.turn().unwrap();
        client.exchange(&sim);
    }
    while answered(&sim) < flood.len() {
        sim.shard.turn().unwrap();
    }
}

/// The input cannot be read before the output is sent, so it stays ready.
#[test]
fn a_handshake_with_blocked_output_and_unread_input_does_not_keep_the_shard_busy() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let fd = sim.script.connect();
    sim.script.on(fd).room = Some(0);
    let mut client = certificates.client_of(&sim, fd);
    sim.run_for(5 * MS);
    sim.script.client_sends(fd, &[20, 3, 3]);
    let until = sim.now() + 10 * MS;
    sim.script.scene().horizon = until;
    let mut turns = 0;
    while sim.now() < until {
        sim.shard.turn().unwrap();
        turns += 1;
    }
    assert!(turns < 50, "{turns} turns within 10 ms");
    sim.script.client_sends(fd, &[0, 1, 1]);
    for _ in 0..20 {
        sim.script.client_reads(fd, 100);
        client.run_for(&mut sim, 5 * MS);
    }
    client.send(&sim, &auth("pass"));
    client.run_for(&mut sim, 10 * MS);
    assert_eq!(client.frames()[0].kind, ACK);
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

#[test]
fn handshakes_and_partial_records_count_as_buffered_until_they_are_complete() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.client(&sim);
    sim.run_for(10 * MS);
    let handshake = sim.shard.driver.buffered.bytes();
    assert!(handshake >= 3_072, "{handshake}");
    assert_eq!(handshake, held(&mut sim));
    client.send(&sim, &auth("pass"));
    client.run_for(&mut sim, 10 * MS);
    assert_eq!(client.frames()[0].kind, ACK);
    assert_eq!(sim.shard.driver.buffered.bytes(), 0);

    let record = client.seal(&[7; 10_000]);
    for (start, end) in [(0, 5), (5, 4_000), (4_000, 10_000)] {
        sim.script.client_sends(client.fd, &record[start..end]);
        sim.run_for(MS);
        assert_eq!(sim.shard.driver.buffered.bytes(), end);
        assert_eq!(held(&mut sim), end);
    }
    sim.script.client_ends(client.fd);
    sim.run_for(MS);
    assert_eq!(sim.shard.driver.buffered.bytes(), 0);
}

#[test]
fn the_unsent_end_of_a_record_counts_as_buffered_until_it_is_sent() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim();
    let mut client = certificates.subscriber(&mut sim);
    sim.script.on(client.fd).room = Some(20);
    client.run_for(&mut sim, 2 * SECOND);
    let waiting = sim.shard.driver.buffered.bytes();
    assert!(waiting > 20, "{waiting}");
    assert_eq!(waiting, held(&mut sim));
    sim.script.client_reads(client.fd, 100_000);
    client.run_for(&mut sim, SECOND);
    assert_eq!(sim.shard.driver.buffered.bytes(), 0);
    assert_consecutive(&client.ticks(), 2);
}

#[test]
fn partial_records_beyond_the_bound_close_the_oldest_with_an_error() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim_with(ShardSettings {
        buffered_max: 50_000,
        ..settings()
    });
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = certificates.client(&sim);
        client.send(&sim, &auth("pass"));
        client.run_for(&mut sim, 10 * MS);
        assert_eq!(client.frames()[0].kind, ACK);
        let record = client.seal(&[7; 15_000]);
        sim.script.client_sends(client.fd, &record[..10_000]);
        sim.run_for(MS);
        clients.push(client);
    }
    // Each new handshake needed the room of an older connection.
    assert_eq!(sim.shard.driver.buffered.bytes(), 50_000);
    for (n, client) in clients.iter_mut().enumerate() {
        client.exchange(&sim);
        let codes: Vec<_> = client.frames().iter().map(|frame| frame.kind).collect();
        let expected: &[u8] = if n < 5 { &[ERROR] } else { &[] };
        assert_eq!(codes, expected, "number {n}");
    }
    assert_eq!(held(&mut sim), 50_000);
}
