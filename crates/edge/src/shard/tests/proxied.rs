//! A whole shard behind load balancers that send PROXY headers, in virtual time.

use std::net::{IpAddr, SocketAddr};

use tickstorm_service::env::Value as _;
use tickstorm_testkit::proxy::{self, LOCAL, PROXY, TCP4, UNSPEC, announce, announce_with, field};

use super::tls::Certificates;
use super::*;
use crate::networks::Networks;
use crate::sys::network::is_transient;
use crate::sys::proxied::Proxied;

const BALANCERS: &str = "10.0.0.0/24,fd00::/64";
const BALANCER: &str = "10.0.0.5";
const OTHER: &str = "192.0.2.9";
const CLIENT: &str = "203.0.113.7:50001";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Returns the layer under test, which trusts the balancer's network.
fn proxied(script: Script) -> Proxied<Script> {
    Proxied::new(script, Networks::parse(BALANCERS, &()))
}

fn sim() -> Sim<Proxied<Script>> {
    Sim::over(settings(), proxied)
}

impl<N: Network> Sim<N> {
    /// Returns the address of the connection in the first slot, as the shard knows it.
    fn peer(&mut self) -> SocketAddr {
        let connection = self.shard.connections.at(0);
        connection.expect("a connection").peer
    }

    fn connect_balancer(&self) -> RawFd {
        self.script.connect_from(Some(ip(BALANCER)))
    }

    fn closed_for(&self, reason: &str) -> u64 {
        self.metrics.closed.with_label_values(&[reason]).get()
    }

    /// Checks that a connection was closed for its PROXY header, without an ERROR.
    fn assert_refused(&self, fd: RawFd) {
        let socket = self.script.on(fd);
        assert!(
            socket.is_closed && socket.sent.is_empty(),
            "{:?}",
            socket.sent
        );
        drop(socket);
        assert_eq!(self.closed_for("proxy_header"), 1);
    }
}

#[test]
fn a_client_behind_a_balancer_has_its_own_address_from_its_first_frame_on() {
    for client in [CLIENT, "[2001:db8::7]:50002"] {
        let mut sim = sim();
        let fd = sim.connect_balancer();
        sim.run_for(MS);
        assert_eq!(sim.peer().ip(), ip(BALANCER));
        let mut bytes = announce_with(addr(client), &field(0x04, &[0; 100]));
        bytes.extend(auth("pass"));
        bytes.extend(subscribe(Mode::Second, false, None));
        sim.script.client_sends(fd, &bytes);
        sim.run_for(MS);
        assert_eq!(sim.peer(), addr(client));
        let kinds: Vec<_> = sim.frames(fd).iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [ACK, ACK]);
        sim.run_for(2 * SECOND);
        assert!(!sim.ticks(fd).is_empty());
    }
}

#[test]
fn a_header_may_be_split_at_any_byte() {
    let header = announce(addr(CLIENT));
    let bytes = [header, auth("pass")].concat();
    for at in 1..bytes.len() {
        let mut sim = sim();
        let fd = sim.connect_balancer();
        for part in [&bytes[..at], &bytes[at..]] {
            sim.script.client_sends(fd, part);
            sim.run_for(MS);
        }
        assert_eq!(sim.peer(), addr(CLIENT), "split at {at}");
        assert_eq!(sim.frames(fd)[0].kind, ACK, "split at {at}");
    }
    let mut sim = sim();
    let fd = sim.connect_balancer();
    sim.script.on(fd).read_max = Some(1);
    sim.script.client_sends(fd, &bytes);
    sim.run_for(MS);
    assert_eq!(sim.peer(), addr(CLIENT));
    assert_eq!(sim.frames(fd)[0].kind, ACK, "byte by byte");
}

#[test]
fn a_header_of_the_greatest_length_is_read_with_what_follows_it() {
    let fields = vec![0; 4_096 - announce(addr(CLIENT)).len()];
    let mut bytes = announce_with(addr(CLIENT), &fields);
    assert_eq!(bytes.len(), 4_096);
    bytes.extend(auth("pass"));
    for read_max in [None, Some(1_000), Some(4_095)] {
        let mut sim = sim();
        let fd = sim.connect_balancer();
        sim.script.on(fd).read_max = read_max;
        sim.script.client_sends(fd, &bytes);
        sim.run_for(MS);
        assert_eq!(sim.frames(fd)[0].kind, ACK);
        assert_eq!(sim.peer(), addr(CLIENT));
    }
}

#[test]
fn without_a_clients_address_the_balancers_stays() {
    for header in [
        proxy::header(LOCAL, UNSPEC, &[]),
        proxy::header(PROXY, UNSPEC, &[]),
    ] {
        let mut sim = sim();
        let fd = sim.connect_balancer();
        sim.script
            .client_sends(fd, &[header, auth("pass")].concat());
        sim.run_for(MS);
        assert_eq!(sim.peer().ip(), ip(BALANCER));
        assert_eq!(sim.frames(fd)[0].kind, ACK);
    }
}

#[test]
fn any_other_client_is_served_under_its_own_address() {
    let mut sim = sim();
    let fd = sim.script.connect_from(Some(ip(OTHER)));
    sim.script.client_sends(fd, &auth("pass"));
    sim.run_for(MS);
    assert_eq!(sim.peer().ip(), ip(OTHER));
    assert_eq!(sim.frames(fd)[0].kind, ACK);
}

#[test]
fn bytes_that_only_look_like_the_start_of_a_header_are_passed_on() {
    for bytes in [&b"\r\n\r\n\0\r\nQUIX"[..], b"PROXO"] {
        let mut sim = sim();
        let fd = sim.script.connect();
        for byte in bytes {
            sim.script.client_sends(fd, &[*byte]);
            sim.run_for(MS);
        }
        assert_eq!(sim.error(fd), "BAD_MAGIC");
        assert_eq!(sim.closed_for("proxy_header"), 0);
    }
}

#[test]
fn a_header_that_is_missing_wrong_or_not_allowed_closes_the_connection_without_an_error() {
    let from_balancer = [
        auth("pass"),
        b"PROXY TCP4 203.0.113.7 192.0.2.80 50001 8080\r\n".to_vec(),
        proxy::header(PROXY, TCP4, &[0; 11]),
        proxy::header(PROXY, UNSPEC, &[0; 4_081]),
    ];
    let from_others = [
        announce(addr(CLIENT)),
        proxy::header(LOCAL, UNSPEC, &[]),
        b"PROXY UNKNOWN\r\n".to_vec(),
    ];
    let senders = [BALANCER, OTHER];
    for (sender, inputs) in senders.into_iter().zip([&from_balancer[..], &from_others]) {
        for input in inputs {
            let mut sim = sim();
            let fd = sim.script.connect_from(Some(ip(sender)));
            sim.script
                .client_sends(fd, &[&input[..], &auth("pass")].concat());
            sim.run_for(MS);
            sim.assert_refused(fd);
        }
    }
}

#[test]
fn a_connection_that_ends_within_its_header_is_not_a_health_check() {
    let header = announce(addr(CLIENT));
    for (len, is_reset) in [(1, false), (15, false), (27, false), (1, true), (27, true)] {
        let mut sim = sim();
        let fd = sim.connect_balancer();
        sim.script.client_sends(fd, &header[..len]);
        sim.run_for(MS);
        if is_reset {
            sim.script.breaks(fd, nix::errno::Errno::ECONNRESET);
        } else {
            sim.script.client_ends(fd);
        }
        sim.run_for(MS);
        sim.assert_refused(fd);
    }
}

#[test]
fn a_balancers_health_check_is_one_with_or_without_a_header() {
    for header in [Vec::new(), proxy::header(LOCAL, UNSPEC, &[])] {
        let mut sim = sim();
        let fd = sim.connect_balancer();
        sim.script.client_sends(fd, &header);
        sim.run_for(MS);
        sim.script.client_ends(fd);
        sim.run_for(MS);
        assert!(sim.script.on(fd).is_closed);
        assert_eq!(sim.closed_for("health_check"), 1);
    }
}

#[test]
fn auth_timeout_covers_the_header() {
    let header = announce(addr(CLIENT));
    for len in [0, 15, header.len()] {
        let mut sim = sim();
        let fd = sim.connect_balancer();
        // A byte each now and then does not gain time.
        for byte in &header[..len] {
            sim.script.client_sends(fd, &[*byte]);
            sim.run_for(100 * MS);
        }
        sim.run_for(5_510 * MS - 100 * MS * u32::try_from(len).unwrap());
        assert_eq!(sim.error(fd), "AUTH_TIMEOUT", "{len} bytes");
    }
}

#[test]
fn a_client_of_a_balancer_has_its_address_before_tls_starts() {
    let certificates = Certificates::new();
    for parts in [1, 2] {
        let mut sim = certificates.sim_over(settings(), AdmissionLimits::NONE, proxied);
        let fd = sim.connect_balancer();
        sim.script.client_sends(fd, &announce(addr(CLIENT)));
        if parts == 2 {
            sim.run_for(MS);
            assert_eq!(sim.peer(), addr(CLIENT));
        }
        let mut client = certificates.client_of(&sim, fd);
        client.run_for(&mut sim, 5 * MS);
        assert_eq!(sim.peer(), addr(CLIENT));
        client.send(&sim, &auth("pass"));
        client.run_for(&mut sim, 5 * MS);
        assert_eq!(client.frames()[0].kind, ACK);
    }
}

#[test]
fn with_tls_a_wrong_header_is_answered_by_no_alert() {
    let certificates = Certificates::new();
    for (sender, header) in [(BALANCER, Vec::new()), (OTHER, announce(addr(CLIENT)))] {
        let mut sim = certificates.sim_over(settings(), AdmissionLimits::NONE, proxied);
        let fd = sim.script.connect_from(Some(ip(sender)));
        sim.script.client_sends(fd, &header);
        let mut client = certificates.client_of(&sim, fd);
        client.run_for(&mut sim, 5 * MS);
        sim.assert_refused(fd);
    }
}

#[test]
fn with_tls_a_blocked_client_is_closed_before_its_handshake_starts() {
    let certificates = Certificates::new();
    let mut sim = certificates.sim_over(settings(), AdmissionLimits::NONE, proxied);
    sim.lists.send_modify(|lists| {
        lists.blocked = Networks::parse("203.0.113.7/32", &()).unwrap();
    });
    let fd = sim.connect_balancer();
    sim.script
        .client_sends(fd, &announce(addr("203.0.113.7:50001")));
    let mut client = certificates.client_of(&sim, fd);
    client.run_for(&mut sim, 5 * MS);
    let socket = sim.script.on(fd);
    assert!(socket.is_closed && socket.sent.is_empty());
}

/// Creates a shard that knows the time, with these limits.
fn limited(limits: AdmissionLimits) -> Sim<Proxied<Script>> {
    let mut sim = Sim::build(settings(), limits, proxied);
    sim.learn_time();
    sim
}

impl<N: Network> Sim<N> {
    /// Connects a client with this address through the balancer.
    fn connect_client(&mut self, client: &str) -> RawFd {
        let fd = self.connect_balancer();
        self.script.client_sends(fd, &announce(addr(client)));
        self.run_for(MS);
        fd
    }

    /// Connects a client in the same way, and authenticates it.
    fn authenticate_client(&mut self, client: &str) -> RawFd {
        let fd = self.connect_client(client);
        self.script.client_sends(fd, &auth("pass"));
        self.run_for(MS);
        fd
    }
}

#[test]
fn limits_per_address_are_those_of_the_client_and_not_of_the_balancer() {
    let mut sim = limited(AdmissionLimits {
        connections_per_address: 2,
        ..AdmissionLimits::NONE
    });
    let [first, second] = [CLIENT, "203.0.113.7:50002"].map(|one| sim.authenticate_client(one));
    let third = sim.authenticate_client("203.0.113.7:50003");
    assert_eq!(sim.error(third), "TOO_MANY_CONNECTIONS");
    for last in 10..20 {
        let other = sim.authenticate_client(&format!("203.0.113.{last}:50001"));
        assert_eq!(sim.frames(other)[0].kind, ACK);
        let own = sim.connect_balancer();
        sim.script
            .client_sends(own, &proxy::header(LOCAL, UNSPEC, &[]));
        sim.run_for(MS);
        assert!(!sim.script.on(own).is_shut, "the balancer is not limited");
    }
    for fd in [first, second] {
        assert_eq!(sim.frames(fd)[0].kind, ACK);
    }
    sim.script.client_ends(first);
    sim.run_for(MS);
    let fourth = sim.authenticate_client("203.0.113.7:50004");
    assert_eq!(sim.frames(fourth)[0].kind, ACK, "the first has left");
}

#[test]
fn lists_apply_to_the_client_and_not_to_the_balancer() {
    let mut sim = limited(AdmissionLimits::NONE);
    sim.lists.send_modify(|lists| {
        lists.allowed = Networks::parse("203.0.113.0/24", &());
        lists.blocked = Networks::parse("203.0.113.7/32", &()).unwrap();
    });
    for refused in [CLIENT, "192.0.2.9:7000"] {
        let fd = sim.connect_client(refused);
        let socket = sim.script.on(fd);
        assert!(socket.is_closed && socket.sent.is_empty(), "{refused}");
    }
    assert_eq!(sim.closed_for("blocked"), 2);
    let allowed = sim.authenticate_client("203.0.113.8:50001");
    assert_eq!(sim.frames(allowed)[0].kind, ACK);
}

#[test]
fn of_too_many_handshakes_behind_a_balancer_the_client_with_the_most_loses_one() {
    let mut sim = limited(AdmissionLimits {
        handshakes: 4,
        ..AdmissionLimits::NONE
    });
    let honest = sim.connect_client("203.0.113.8:50001");
    let silent: Vec<_> = (1..=3)
        .map(|port| sim.connect_client(&format!("203.0.113.7:{port}")))
        .collect();
    sim.run_for(2 * SECOND);
    let newcomer = sim.authenticate_client("203.0.113.9:50001");
    assert_eq!(sim.frames(newcomer)[0].kind, ACK);
    assert_eq!(sim.error(silent[0]), "AUTH_TIMEOUT");
    sim.script.client_sends(honest, &auth("pass"));
    sim.run_for(MS);
    assert_eq!(sim.frames(honest)[0].kind, ACK);
}

#[test]
fn a_reused_descriptor_inherits_nothing() {
    let script = Script::default();
    script.scene().is_listening = true;
    let mut network = proxied(script.clone());
    let fd = script.connect_from(Some(ip(BALANCER)));
    let (socket, _) = network.accept().unwrap();
    script.client_sends(fd, &announce(addr(CLIENT))[..20]);
    let mut buffer = vec![0; crate::sys::network::BUFFER_MIN];
    let incomplete = network.receive(&socket, &mut buffer).unwrap_err();
    assert!(is_transient(&incomplete));
    network.deregister(&socket);
    script.client_sends(fd, b"anything");
    let received = network.receive(&socket, &mut buffer).unwrap();
    assert_eq!(
        received,
        crate::sys::network::Received::new(8, buffer.len())
    );
    assert_eq!(buffer[..8], *b"anything");
}

#[test]
fn clients_of_a_balancer_that_piled_up_during_a_stall_do_not_count_as_if_they_came_at_once() {
    let limits = AdmissionLimits {
        connect_rate_per_address: 2,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::build(settings(), limits, proxied);
    sim.learn_time();
    let arrive = |sim: &mut Sim<Proxied<Script>>, number: usize| {
        let arriving = (0..number).map(|_| {
            let fd = sim.connect_balancer();
            sim.script.client_sends(fd, &announce(addr(CLIENT)));
            fd
        });
        let arriving: Vec<_> = arriving.collect();
        sim.run_for(100 * MS);
        let is_closed = |fd: &&RawFd| sim.script.on(**fd).is_closed || sim.script.on(**fd).is_shut;
        arriving.iter().filter(is_closed).count()
    };
    assert_eq!(arrive(&mut sim, 1), 0);
    sim.run_for(5 * SECOND);
    sim.stall(30 * SECOND);
    assert_eq!(arrive(&mut sim, 60), 0);
    assert!(arrive(&mut sim, 10) >= 7, "a stall is forgiven once");
}
