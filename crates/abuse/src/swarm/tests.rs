//! Swarms against a listener of a few lines.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::*;
use crate::script::Step;

/// The time within which anything here must happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn swarm(listener: &TcpListener, scripts: Vec<Script>, connections: u32) -> Swarm {
    Swarm::new(SwarmPlan {
        addr: listener.local_addr().unwrap(),
        tls: None,
        login: Login::default(),
        scripts,
        sources: Sources::Many {
            first: Ipv4Addr::new(127, 64, 0, 0),
            count: 1 << 16,
        },
        connections,
        opens_per_second: 10_000,
        reopen: Reopen::AtOnce,
    })
    .unwrap()
}

/// Turns the swarm until the condition holds.
fn turn_until(swarm: &mut Swarm, mut holds: impl FnMut(&mut Swarm) -> bool) {
    let until = SystemClock.now() + PATIENCE;
    while !holds(swarm) {
        assert!(SystemClock.now() < until, "{:?}", swarm.counts());
        swarm.turn(true).unwrap();
    }
}

/// Turns the swarm until the thread has ended, and returns its result.
fn turn_until_ended<T>(swarm: &mut Swarm, thread: JoinHandle<T>) -> T {
    turn_until(swarm, |_| thread.is_finished());
    thread.join().unwrap()
}

/// Accepts a connection and reads until it ends.
fn read_to_end(listener: &TcpListener) -> Result<Vec<u8>, ErrorKind> {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.kind()),
    }
}

#[test]
fn connections_are_bounded_and_come_from_addresses_of_their_own() {
    let listener = listen();
    let accepted = std::thread::spawn({
        let listener = listener.try_clone().unwrap();
        move || {
            (0..50)
                .map(|_| listener.accept().unwrap())
                .collect::<Vec<_>>()
        }
    });
    let mut swarm = swarm(&listener, vec![Script::new([Step::Hold])], 50);
    let mut accepted = turn_until_ended(&mut swarm, accepted);
    accepted.sort_by_key(|(_, peer)| peer.ip());
    accepted.dedup_by_key(|(_, peer)| peer.ip());
    assert_eq!(accepted.len(), 50);
    assert_eq!(swarm.counts().open, 50);
    listener.set_nonblocking(true).unwrap();
    for _ in 0..10 {
        swarm.turn(true).unwrap();
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_reset_a_close_and_a_half_close_arrive_as_such() {
    let send = || Step::Send(b"bytes".as_slice().into());
    let ends = [Step::Close, Step::HalfClose, Step::Reset];
    let outcomes = ends.map(|end| {
        let listener = listen();
        let mut swarm = swarm(&listener, vec![Script::new([send(), end])], 1);
        let reading = std::thread::spawn(move || read_to_end(&listener));
        turn_until_ended(&mut swarm, reading)
    });
    let whole = || Ok(b"bytes".to_vec());
    assert_eq!(
        outcomes,
        [whole(), whole(), Err(ErrorKind::ConnectionReset)]
    );
}

#[test]
fn a_connection_that_the_edge_closes_is_counted_and_opened_again() {
    let listener = listen();
    let mut swarm = swarm(&listener, vec![Script::new([Step::Hold])], 1);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
        }
    });
    turn_until(&mut swarm, |swarm| swarm.counts().closed_by_edge >= 3);
    let refused = swarm.take_attempts();
    assert!(refused.len() >= 3);
    for attempt in refused {
        assert!(matches!(attempt.outcome, AttemptOutcome::Refused(_)));
    }
}

#[test]
fn a_connection_that_is_not_answered_is_given_up() {
    let listener = listen();
    let script = Script {
        patience: Some(Duration::from_millis(50)),
        ..Script::new([Step::AwaitAck, Step::Served])
    };
    let mut swarm = swarm(&listener, vec![script], 1);
    let mut attempts = Vec::new();
    turn_until(&mut swarm, |swarm| {
        attempts.extend(swarm.take_attempts());
        attempts.len() >= 2
    });
    assert_eq!(attempts[0].outcome, AttemptOutcome::Unanswered);
}

#[test]
fn a_client_that_does_not_read_receives_nothing() {
    let listener = listen();
    let script = Script {
        receive_buffer: Some(1),
        ..Script::new([Step::StopReading, Step::Hold])
    };
    let mut swarm = swarm(&listener, vec![script], 1);
    let writing = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        // Fills both buffers.
        while stream.write(&[0; 65_536]).is_ok() {}
        stream
    });
    let _stream: TcpStream = turn_until_ended(&mut swarm, writing);
    for _ in 0..10 {
        swarm.turn(true).unwrap();
    }
    assert_eq!(swarm.counts().received_bytes, 0);
    assert_eq!(swarm.counts().open, 1);
}

#[test]
fn dropping_a_swarm_closes_its_connections() {
    let listener = listen();
    let mut swarm = swarm(&listener, vec![Script::new([Step::Hold])], 1);
    turn_until(&mut swarm, |swarm| swarm.counts().connected == 1);
    drop(swarm);
    assert_eq!(read_to_end(&listener), Err(ErrorKind::ConnectionReset));
}

#[test]
fn opening_is_paced_and_little_is_made_up_for() {
    let at = |ms: u64| Mono::from_nanos(ms * 1_000_000);
    let mut pacer = Pacer::new(100, at(0));
    let mut opened = 0;
    for ms in 0..1_000 {
        opened += u32::from(pacer.take(at(ms)));
    }
    assert_eq!(opened, 100);
    let mut at_once = 0;
    while pacer.take(at(60_000)) {
        at_once += 1;
    }
    assert!((10..=11).contains(&at_once), "{at_once}");
}
