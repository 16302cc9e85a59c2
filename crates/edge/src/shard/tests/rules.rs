//! Tests of the rules of one connection: handshake, pausing, lingering, deadlines, stalls,
//! draining.

use nix::errno::Errno;
use tickstorm_protocol::message::Pong;
use tickstorm_testkit::frame::PONG;

use super::*;

#[test]
fn a_pipelined_handshake_is_answered_by_one_send() {
    let mut sim = Sim::new(settings());
    let client = sim.script.connect();
    let mut bytes = auth("pass");
    bytes.extend(subscribe(Mode::Second, false, None));
    bytes.extend(heartbeat(7));
    sim.script.client_sends(client, &bytes);
    sim.run_for(MS);
    assert_eq!(sim.script.on(client).sends, 1);
    let kinds: Vec<_> = sim.frames(client).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [ACK, ACK, PONG]);
}

#[test]
fn a_wrong_password_is_answered_and_the_connection_lingers_for_a_second() {
    let mut sim = Sim::new(settings());
    let client = sim.script.connect();
    sim.script.client_sends(client, &auth("guess"));
    sim.run_for(MS);
    assert_eq!(sim.error(client), "AUTH_FAILED");
    assert!(sim.script.on(client).is_shut && !sim.script.on(client).is_closed);
    // Later input is read and discarded, so that closing the socket sends no reset.
    sim.script.client_sends(client, &auth("pass"));
    sim.run_for(SECOND - 10 * MS);
    assert!(!sim.script.on(client).is_closed);
    sim.run_for(210 * MS);
    assert!(sim.script.on(client).is_closed);
    assert!(sim.frames(client).is_empty(), "nothing after the ERROR");
    assert_eq!(sim.metrics.active_connections.get(), 0);
}

#[test]
fn lingering_ends_when_the_client_closes() {
    let mut sim = Sim::new(settings());
    let client = sim.script.connect();
    sim.script.client_sends(client, &auth("guess"));
    sim.run_for(MS);
    sim.script.client_ends(client);
    sim.run_for(MS);
    assert!(sim.script.on(client).is_closed);
}

#[test]
fn a_silent_handshake_ends_after_auth_timeout_and_a_silent_client_after_heartbeat_timeout() {
    let mut sim = Sim::new(settings());
    let unauthenticated = sim.script.connect();
    let client = sim.subscriber(Mode::Minute, false);
    sim.frames(client);
    sim.run_for(4_990 * MS);
    assert!(!sim.script.on(unauthenticated).is_shut);
    sim.run_for(510 * MS);
    assert_eq!(sim.error(unauthenticated), "AUTH_TIMEOUT");
    sim.run_for(14_480 * MS);
    assert!(!sim.script.on(client).is_shut);
    sim.run_for(520 * MS);
    assert_eq!(sim.error(client), "HEARTBEAT_TIMEOUT");
}

#[test]
fn a_heartbeat_moves_the_deadline() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Minute, false);
    for beat in 0..5 {
        sim.run_for(19 * SECOND);
        sim.script.client_sends(client, &heartbeat(beat));
    }
    sim.run_for(19 * SECOND);
    assert!(!sim.script.on(client).is_shut);
}

#[test]
fn a_stall_of_the_edge_closes_no_connection_as_silent() {
    let mut sim = Sim::new(settings());
    let unauthenticated = sim.script.connect();
    let client = sim.subscriber(Mode::Minute, false);
    sim.run_for(4 * SECOND);
    sim.stall(60 * SECOND);
    sim.run_for(900 * MS);
    assert!(!sim.script.on(unauthenticated).is_shut && !sim.script.on(client).is_shut);
    sim.run_for(600 * MS);
    assert_eq!(sim.error(unauthenticated), "AUTH_TIMEOUT");
    sim.run_for(14 * SECOND);
    assert!(!sim.script.on(client).is_shut);
}

/// A client that sends as many frames as it may, while the edge is stalled for longer than what it
/// may save up, is not closed: whether it sends heartbeats or SUBSCRIBEs, in whatever portions its
/// input is read, and again at once.
#[test]
fn what_piles_up_during_a_stall_is_not_judged_as_if_it_came_at_once() {
    let beats = heartbeat(1).repeat(300);
    let subscribes = subscribe(Mode::Minute, false, None).repeat(30);
    // After two stalls, the edge no longer knows the time, and SUBSCRIBEs wait.
    for (piled_up, read_max, stalls) in [
        (&beats, None, 3),
        (&beats, Some(40), 3),
        (&subscribes, None, 1),
    ] {
        let mut sim = Sim::new(settings());
        let client = sim.subscriber(Mode::Minute, false);
        sim.script.client_sends(client, &heartbeat(1).repeat(150));
        sim.run_for(SECOND);
        sim.script.on(client).read_max = read_max;
        for stall in 0..stalls {
            sim.stall(30 * SECOND);
            sim.script.client_sends(client, piled_up);
            sim.run_for(SECOND);
            sim.script.client_sends(client, &heartbeat(1).repeat(5));
            sim.run_for(SECOND);
            let is_shut = sim.script.on(client).is_shut;
            assert!(!is_shut, "{read_max:?}, stall {stall}");
            assert!(!sim.script.on(client).has_input());
        }
        sim.script.client_sends(client, &heartbeat(1).repeat(250));
        sim.run_for(SECOND);
        assert_eq!(
            sim.error(client),
            "RATE_LIMITED",
            "a stall is forgiven once"
        );
    }
}

#[test]
fn a_client_that_sent_before_a_stall_what_it_may_send_in_it_is_closed() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Minute, false);
    sim.stall(10 * SECOND);
    sim.script.client_sends(client, &heartbeat(1).repeat(305));
    sim.run_for(MS);
    assert_eq!(sim.error(client), "RATE_LIMITED");
}

#[test]
fn unread_input_of_a_silent_client_is_read_before_it_is_closed() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Minute, false);
    sim.run_for(19_900 * MS);
    // The heartbeat is in the socket, but no event has reported it yet.
    sim.script.on(client).hide_input(&heartbeat(7));
    sim.run_for(5 * SECOND);
    assert!(!sim.script.on(client).is_shut);
    assert!(sim.frames(client).iter().any(|frame| frame.kind == PONG));
}

#[test]
fn while_answers_wait_nothing_is_read_and_the_heartbeat_deadline_is_suspended() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Minute, false);
    sim.frames(client);
    sim.run_for(10 * SECOND);
    sim.script.on(client).room = Some(5);
    sim.script.client_sends(client, &heartbeat(1));
    sim.run_for(SECOND);
    sim.script.client_sends(client, &heartbeat(2));
    sim.run_for(SECOND);
    assert_eq!(sim.script.on(client).sent.len(), 5, "half a PONG");
    assert!(sim.script.on(client).has_input(), "input is not read");
    for _ in 0..10 {
        // The client makes slow progress.
        sim.run_for(3 * SECOND);
        sim.script.client_reads(client, 1);
    }
    assert!(!sim.script.on(client).is_shut, "30 s without being read");
    sim.script.client_reads(client, 10_000);
    sim.run_for(MS);
    let echoes: Vec<_> = sim
        .frames(client)
        .iter()
        .filter(|frame| frame.kind == PONG)
        .map(|frame| frame.decode::<Pong>().client_time_us)
        .collect();
    assert_eq!(echoes, [1, 2]);
    sim.run_for(19 * SECOND);
    assert!(!sim.script.on(client).is_shut);
    sim.run_for(1_600 * MS);
    assert_eq!(sim.error(client), "HEARTBEAT_TIMEOUT");
}

#[test]
fn a_client_that_reads_nothing_until_the_write_deadline_is_a_slow_consumer() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    sim.script.on(client).room = Some(3);
    sim.run_for(5 * SECOND);
    assert!(!sim.script.on(client).is_closed);
    sim.run_for(1_500 * MS);
    assert!(
        sim.script.on(client).is_closed,
        "closed without lingering: no ERROR can be sent"
    );
    let slow = sim.metrics.closed.with_label_values(&["slow_consumer"]);
    assert_eq!(slow.get(), 1);
}

#[test]
fn a_connection_that_sends_no_byte_is_a_health_check() {
    let mut sim = Sim::new(settings());
    let client = sim.script.connect();
    sim.run_for(MS);
    sim.script.client_ends(client);
    sim.run_for(MS);
    assert!(sim.script.on(client).is_closed);
    let checks = sim.metrics.closed.with_label_values(&["health_check"]);
    assert_eq!(checks.get(), 1);
}

#[test]
fn a_broken_connection_leaves_its_feed_and_its_descriptor_is_never_sent_to_again() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    let other = sim.subscriber(Mode::Second, false);
    sim.run_for(SECOND);
    sim.script.breaks(client, Errno::ECONNRESET);
    sim.run_for(MS);
    assert!(sim.script.on(client).is_closed);
    // The script panics if anything is sent to a closed socket.
    sim.run_for(3 * SECOND);
    assert!(sim.ticks(other).len() >= 4);
}

#[test]
fn input_after_urgent_data_is_read() {
    let mut sim = Sim::new(settings());
    let client = sim.script.connect();
    // A read ends at the urgent mark, although more input follows.
    sim.script.on(client).read_max = Some(10);
    let mut bytes = auth("pass");
    bytes.extend(subscribe(Mode::Second, false, None));
    sim.script.client_sends(client, &bytes);
    sim.run_for(2 * SECOND);
    assert!(!sim.ticks(client).is_empty());
}

#[test]
fn a_drain_refuses_new_connections_and_closes_the_others() {
    let mut sim = Sim::new(settings());
    let clients: Vec<_> = (0..100)
        .map(|_| sim.subscriber(Mode::Second, false))
        .collect();
    sim.drain(20 * SECOND);
    let refused = sim.script.connect();
    sim.run_for(MS);
    assert_eq!(sim.error(refused), "SERVER_DRAINING");
    sim.run_for(20 * SECOND);
    for client in clients {
        assert!(sim.script.on(client).is_closed);
        assert_eq!(sim.error(client), "SERVER_DRAINING");
    }
    assert!(!sim.script.scene().is_listening);
}

#[test]
fn connections_refused_with_server_full_linger_and_do_not_count() {
    let mut settings = settings();
    settings.limits.auth_timeout = 60 * SECOND;
    let mut sim = Sim::new(settings);
    sim.shard.acceptor.set_connections_max(2);
    let kept = [sim.script.connect(), sim.script.connect()];
    let refused = sim.script.connect();
    sim.run_for(MS);
    assert_eq!(sim.error(refused), "SERVER_FULL");
    assert_eq!(sim.metrics.active_connections.get(), 2);
    sim.script.client_ends(kept[0]);
    sim.run_for(MS);
    let admitted = sim.script.connect();
    sim.script.client_sends(admitted, &auth("pass"));
    sim.run_for(MS);
    assert_eq!(sim.frames(admitted)[0].kind, ACK);
    sim.run_for(2 * SECOND);
    assert!(sim.script.on(refused).is_closed);
}
