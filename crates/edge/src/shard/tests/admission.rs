//! Tests of which connections a shard accepts, refuses, and closes to make room for others.

use std::net::IpAddr;
use std::sync::mpsc;

use nix::errno::Errno;
use tickstorm_service::env::Value as _;

use super::*;
use crate::admission::Evicted;
use crate::networks::Networks;
use crate::shard::ShardCommand;
use crate::shard::connections::Walk;
use crate::shard::key::Key;
use crate::shard::thread::{AfterCommands, run_commands};

/// The address of an attacker. Other clients connect from 192.0.2.x.
const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

impl Sim {
    fn connect_many(&self, from: IpAddr, number: usize) -> Vec<RawFd> {
        let each = (0..number).map(|_| self.script.connect_from(Some(from)));
        each.collect()
    }

    /// Connects a client from an address and authenticates it.
    fn enter_from(&mut self, from: &str) -> RawFd {
        let client = self.script.connect_from(Some(from.parse().unwrap()));
        self.script.client_sends(client, &auth("pass"));
        self.run_for(MS);
        client
    }

    fn is_in(&self, client: RawFd) -> bool {
        self.frames(client).iter().any(|frame| frame.kind == ACK)
    }
}

fn with_handshakes(handshakes: usize) -> Sim {
    let limits = AdmissionLimits {
        handshakes,
        ..AdmissionLimits::NONE
    };
    Sim::with_limits(settings(), limits)
}

#[test]
fn accepting_waits_for_no_handshake_and_newcomers_get_in() {
    let mut sim = with_handshakes(100);
    let waiting = sim.script.connect();
    sim.run_for(MS);
    let flood = sim.connect_many(ATTACKER, 1_000);
    sim.run_for(10 * MS);
    assert_eq!(sim.script.waiting(), 0);
    assert_eq!(sim.metrics.admission.handshakes.get(), 100);
    assert_eq!(sim.metrics.admission.evicted.get(), 901);
    let newcomer = sim.enter_from("192.0.2.2");
    assert!(sim.is_in(newcomer));
    sim.script.client_sends(waiting, &auth("pass"));
    sim.run_for(MS);
    assert!(sim.is_in(waiting));
    let evicted = flood
        .iter()
        .filter(|fd| sim.script.on(**fd).is_shut)
        .count();
    // The new client took the room of one.
    assert_eq!(evicted, 902);
    assert_eq!(sim.closed("auth_timeout"), 902);
}

/// Each command takes some microseconds. A flood brings more than a turn's length of them.
#[test]
fn evictions_for_other_shards_get_a_share_of_time_however_many_they_are_and_no_tick_waits() {
    const EVICTED: usize = 500;
    let mut sim = Sim::new(settings());
    let subscriber = sim.subscriber(Mode::Second, false);
    let clients = sim.connect_many(ATTACKER, EVICTED);
    sim.run_for(MS);
    let (sender, commands) = mpsc::channel();
    let mut walk = Walk::default();
    while let Some(connection) = sim.shard.connections.step(&mut walk) {
        let Key { slot, id } = connection.key;
        let evicted = Evicted { shard: 0, slot, id };
        sender.send(ShardCommand::Evict(evicted)).unwrap();
    }
    let evicted = |sim: &Sim| {
        let is_shut = |fd: &&RawFd| sim.script.on(**fd).is_shut;
        clients.iter().filter(is_shut).count()
    };
    let run = |sim: &mut Sim| {
        sim.shard.waiting.commands = true;
        let before = sim.now();
        let after = run_commands(&mut sim.shard, &commands);
        assert_eq!(after, AfterCommands::Continue);
        sim.now().since(before)
    };
    sim.script.scene().cost = Duration::from_micros(1);
    let took = run(&mut sim);
    let first = evicted(&sim);
    assert!((20..EVICTED).contains(&first), "{first} within {took:?}");
    assert!(took < Duration::from_micros(350), "{took:?}");
    let due = sim.shard.due.next_tick();
    sim.script.scene().now = due;
    run(&mut sim);
    assert_eq!(evicted(&sim), first, "a tick is due");
    sim.run_for(MS);
    sim.script.scene().cost = Duration::ZERO;
    run(&mut sim);
    assert_eq!(evicted(&sim), EVICTED);
    assert_eq!(sim.ticks(subscriber).len(), 1);
}

#[test]
fn only_a_lack_of_descriptors_or_memory_pauses_accepting() {
    for (errno, pauses) in [
        (Errno::ECONNABORTED, false),
        (Errno::EINTR, false),
        (Errno::EPERM, false),
        (Errno::EPROTO, false),
        (Errno::EHOSTUNREACH, false),
        (Errno::ENETUNREACH, false),
        (Errno::ENETDOWN, false),
        (Errno::EMFILE, true),
        (Errno::ENFILE, true),
        (Errno::ENOBUFS, true),
        (Errno::ENOMEM, true),
        (Errno::ENOSPC, true),
    ] {
        let mut sim = Sim::new(settings());
        sim.script.scene().accept_error = Some(errno);
        let client = sim.enter_from("192.0.2.1");
        assert_eq!(sim.is_in(client), !pauses, "{errno}");
        assert_eq!(sim.shard.acceptor.is_starved(), pauses, "{errno}");
        sim.run_for(100 * MS);
        assert_eq!(sim.is_in(client), pauses, "{errno}");
        assert!(!sim.shard.acceptor.is_starved(), "{errno}");
    }
}

#[test]
fn one_whose_auth_is_still_unread_is_served_instead_of_closed() {
    let mut sim = with_handshakes(1);
    let first = sim.script.connect();
    sim.run_for(MS);
    sim.script.on(first).hide_input(&auth("pass"));
    sim.script.connect_from(Some(ATTACKER));
    sim.run_for(MS);
    assert!(sim.is_in(first));
    assert_eq!(sim.metrics.admission.evicted.get(), 0);
}

#[test]
fn one_that_has_received_a_byte_is_closed_after_those_that_have_not() {
    let mut sim = with_handshakes(3);
    let clients = sim.connect_many(ATTACKER, 3);
    sim.script.client_sends(clients[0], &auth("pass")[..1]);
    sim.run_for(1_100 * MS);
    sim.enter_from("192.0.2.2");
    assert!(sim.script.on(clients[1]).is_shut);
    assert!(!sim.script.on(clients[0]).is_shut);
}

#[test]
fn a_connection_that_lingers_gives_back_its_permits_at_once() {
    let limits = AdmissionLimits {
        connections: 1,
        connections_per_address: 1,
        handshakes: 1,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::with_limits(settings(), limits);
    let failed = sim.script.connect();
    sim.script.client_sends(failed, &auth("guess"));
    sim.run_for(MS);
    assert_eq!(sim.error(failed), "AUTH_FAILED");
    assert!(!sim.script.on(failed).is_closed, "it lingers");
    let gauges = |sim: &Sim| {
        let Metrics {
            active_connections,
            admission,
            ..
        } = &sim.metrics;
        (active_connections.get(), admission.handshakes.get())
    };
    assert_eq!(gauges(&sim), (0, 0));
    let next = sim.enter_from("192.0.2.1");
    assert!(sim.is_in(next));
    assert_eq!(gauges(&sim), (1, 0));
}

#[test]
fn no_more_than_the_bound_linger_and_the_others_are_closed_after_their_error() {
    let mut sim = Sim::new(ShardSettings {
        lingering_max: 2,
        ..settings()
    });
    let clients: Vec<_> = (0..4).map(|_| sim.script.connect()).collect();
    for client in &clients {
        sim.script.client_sends(*client, &auth("guess"));
    }
    sim.run_for(MS);
    let closed = clients.iter().map(|client| {
        assert_eq!(sim.error(*client), "AUTH_FAILED");
        sim.script.on(*client).is_closed
    });
    assert_eq!(closed.collect::<Vec<_>>(), [false, false, true, true]);
    sim.run_for(1_300 * MS);
    let later = sim.script.connect();
    sim.script.client_sends(later, &auth("guess"));
    sim.run_for(MS);
    assert!(!sim.script.on(later).is_closed, "the others have left");
}

#[test]
fn refused_connections_that_linger_take_no_room_in_a_full_shard() {
    let mut sim = Sim::new(ShardSettings {
        lingering_max: 1,
        ..settings()
    });
    sim.shard.acceptor.set_connections_max(1);
    let admitted = sim.script.connect();
    sim.run_for(MS);
    let refused = [sim.script.connect(), sim.script.connect()];
    sim.run_for(MS);
    for (client, is_closed) in refused.into_iter().zip([false, true]) {
        assert_eq!(sim.error(client), "SERVER_FULL");
        assert_eq!(sim.script.on(client).is_closed, is_closed);
    }
    sim.script.client_ends(admitted);
    sim.run_for(MS);
    let next = sim.enter_from("192.0.2.1");
    assert!(sim.is_in(next), "although one still lingers");
}

#[test]
fn a_crowd_of_handshakes_makes_room_in_a_full_shard() {
    let mut sim = with_handshakes(4_096);
    sim.shard.acceptor.set_connections_max(20);
    sim.connect_many(ATTACKER, 20);
    sim.run_for(MS);
    let own = sim.enter_from(&ATTACKER.to_string());
    assert_eq!(sim.error(own), "SERVER_FULL");
    let client = sim.enter_from("192.0.2.1");
    assert!(sim.is_in(client));
    assert_eq!(sim.metrics.admission.handshakes.get(), 19);
}

#[test]
fn silent_sockets_of_many_addresses_do_not_keep_a_full_edge_full() {
    let limits = AdmissionLimits {
        connections: 20,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::with_limits(settings(), limits);
    sim.script.scene().has_addresses = true;
    let silent: Vec<_> = (0..20).map(|_| sim.script.connect()).collect();
    sim.run_for(500 * MS);
    let early = sim.enter_from("192.0.2.1");
    assert_eq!(sim.error(early), "SERVER_FULL", "none is due");
    sim.run_for(600 * MS);
    for (number, silent) in silent.into_iter().enumerate() {
        let client = sim.enter_from("192.0.2.1");
        assert!(sim.is_in(client), "number {number}");
        assert!(sim.script.on(silent).is_shut, "number {number}");
    }
    let late = sim.enter_from("192.0.2.1");
    assert_eq!(sim.error(late), "SERVER_FULL", "all have authenticated");
}

#[test]
fn a_blocked_address_gets_a_plain_close_and_a_running_connection_is_not_cut() {
    let mut sim = Sim::new(settings());
    let running = sim.enter_from("192.0.2.1");
    assert!(sim.is_in(running));
    sim.lists.send_modify(|lists| {
        lists.blocked = Networks::parse("192.0.2.0/24, 2001:db8::/32", &()).unwrap();
    });
    for blocked in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
        let client = sim.enter_from(blocked);
        let socket = sim.script.on(client);
        assert!(socket.is_closed && socket.sent.is_empty(), "{blocked}");
        assert!(socket.has_input(), "closed before a byte is read");
    }
    assert_eq!(sim.closed("blocked"), 3);
    let other = sim.enter_from("2001:db9::1");
    assert!(sim.is_in(other));
    assert!(!sim.script.on(running).is_shut);
}

#[test]
fn an_address_over_a_limit_gets_too_many_connections_and_another_is_served() {
    let limits = AdmissionLimits {
        connections_per_address: 2,
        connect_rate_per_address: 3,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::with_limits(settings(), limits);
    let first = sim.enter_from("2001:db8::1");
    let second = sim.enter_from("2001:db8::2");
    assert!(sim.is_in(first) && sim.is_in(second));
    let third = sim.enter_from("2001:db8::3");
    assert_eq!(sim.error(third), "TOO_MANY_CONNECTIONS");
    let other = sim.enter_from("2001:db8:0:1::1");
    assert!(sim.is_in(other));
    sim.script.client_ends(first);
    sim.run_for(MS);
    let fourth = sim.enter_from("2001:db8::4");
    assert!(sim.is_in(fourth), "the third connection within a second");
    sim.script.client_ends(fourth);
    sim.run_for(MS);
    let fifth = sim.enter_from("2001:db8::5");
    assert_eq!(sim.error(fifth), "TOO_MANY_CONNECTIONS");
    sim.run_for(SECOND);
    let later = sim.enter_from("2001:db8::6");
    assert!(sim.is_in(later));
}

/// Connections that arrive while the edge is stalled wait in the kernel's queue. With the PROXY
/// protocol, their addresses are known only when they have been accepted.
#[test]
fn connections_that_piled_up_during_a_stall_do_not_count_as_if_they_came_at_once() {
    let limits = AdmissionLimits {
        connect_rate_per_address: 2,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::with_limits(settings(), limits);
    sim.connect_many(ATTACKER, 1);
    sim.run_for(5 * SECOND);
    sim.stall(30 * SECOND);
    let honest = sim.connect_many(ATTACKER, 60);
    sim.run_for(100 * MS);
    let shut = |sim: &Sim, clients: &[RawFd]| {
        let is_shut = |fd: &&RawFd| sim.script.on(**fd).is_closed || sim.script.on(**fd).is_shut;
        clients.iter().filter(is_shut).count()
    };
    assert_eq!(shut(&sim, &honest), 0);
    let more = sim.connect_many(ATTACKER, 10);
    sim.run_for(100 * MS);
    assert!(shut(&sim, &more) >= 7, "a stall is forgiven once");
}
