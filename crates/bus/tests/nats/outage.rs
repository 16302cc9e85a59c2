use std::time::Duration;

use tickstorm_bus::{Bus, ClockEvent, EdgeEvent, NatsBus, NatsOptions, Unavailable};
use tickstorm_testkit::Nats;
use tokio::time::{Instant, timeout};

use crate::{announce_until_heard, announcement, bus, clock, edge, next_notice, options, soon};

/// The time within which a dead connection must be detected: 3 s, with a margin for a machine under
/// load.
const NOTICE_BOUND: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_bus_waits_for_a_server_that_starts_later() {
    let nats = Nats::create(&[]);
    let bus = bus(&nats);
    let mut events = bus.edge_events(&[]);
    assert_eq!(bus.announce(&announcement(1_000)), Err(Unavailable));
    let early = timeout(Duration::from_millis(300), events.next()).await;
    assert!(early.is_err(), "{early:?}");
    nats.start();
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    assert!(bus.is_connected());
    assert_eq!(announce_until_heard(&bus, &mut events, 2_000).await, []);
}

#[tokio::test]
async fn a_subscriber_to_a_connected_bus_is_notified_and_receives_messages() {
    let nats = Nats::run(&[]);
    let (clock, _requests) = clock(&nats).await;
    let mut late = clock.edge_events(&[]);
    assert_eq!(soon(late.next()).await, EdgeEvent::Connected);
    assert_eq!(announce_until_heard(&clock, &mut late, 1_000).await, []);
}

#[tokio::test]
async fn subscriptions_are_restored_after_a_restart_without_earlier_messages() {
    let nats = Nats::run(&[]);
    let (clock, mut requests) = clock(&nats).await;
    let (_edge, mut ticks) = edge(&nats).await;
    announce_until_heard(&clock, &mut ticks, 1_000).await;
    let connections = || {
        let report = clock.link_report();
        (report.is_connected, report.connects, report.disconnects)
    };
    assert_eq!(connections(), (true, 1, 0));
    nats.kill();
    assert_eq!(soon(requests.next()).await, ClockEvent::Disconnected);
    assert_eq!(clock.announce(&announcement(2_000)), Err(Unavailable));
    assert_eq!(next_notice(&mut ticks).await, EdgeEvent::Disconnected);
    // Attempts that lead to no connection do not count.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(connections(), (false, 1, 1));
    nats.start();
    assert_eq!(soon(requests.next()).await, ClockEvent::Connected);
    let others = announce_until_heard(&clock, &mut ticks, 3_000).await;
    assert_eq!(others, [EdgeEvent::Connected]);
    assert_eq!(connections(), (true, 2, 1));
}

#[tokio::test]
async fn a_dead_connection_is_detected_and_nothing_is_sent_afterwards() {
    let nats = Nats::run(&[]);
    let (clock, mut requests) = clock(&nats).await;
    let (_edge, mut ticks) = edge(&nats).await;
    announce_until_heard(&clock, &mut ticks, 1_000).await;
    nats.pause();
    let paused = Instant::now();
    assert_eq!(soon(requests.next()).await, ClockEvent::Disconnected);
    assert!(paused.elapsed() < NOTICE_BOUND, "{:?}", paused.elapsed());
    assert_eq!(next_notice(&mut ticks).await, EdgeEvent::Disconnected);
    assert_eq!(clock.announce(&announcement(2_000)), Err(Unavailable));
    nats.unpause();
    assert_eq!(soon(requests.next()).await, ClockEvent::Connected);
    let others = announce_until_heard(&clock, &mut ticks, 3_000).await;
    assert_eq!(others, [EdgeEvent::Connected]);
}

#[tokio::test]
async fn another_server_of_the_list_takes_over() {
    let servers = [Nats::run(&[]), Nats::run(&[])];
    let urls = format!("{},{}", servers[0].url(), servers[1].url());
    let bus = NatsBus::start(NatsOptions {
        urls,
        ..options(&servers[0])
    })
    .unwrap();
    let mut events = bus.edge_events(&[]);
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    // A different tick each time: further copies of an announcement may arrive after the first one
    // was received.
    for (killed, started, epoch_ms) in [(0, 1, 1_000), (1, 0, 2_000)] {
        servers[started].start();
        servers[killed].kill();
        announce_until_heard(&bus, &mut events, epoch_ms).await;
        assert!(bus.is_connected());
    }
}

#[tokio::test]
async fn a_cluster_carries_messages_between_servers_and_survives_the_loss_of_one() {
    let servers = Nats::cluster::<3>();
    let (clock, mut requests) = clock(&servers[0]).await;
    let urls = format!("{},{}", servers[1].url(), servers[2].url());
    let edge = NatsBus::start(NatsOptions {
        urls,
        ..options(&servers[1])
    })
    .unwrap();
    let mut ticks = edge.edge_events(&[]);
    announce_until_heard(&clock, &mut ticks, 1_000).await;
    for (killed, started, epoch_ms) in [(1, 2, 2_000), (2, 1, 3_000)] {
        servers[started].start();
        servers[killed].kill();
        announce_until_heard(&clock, &mut ticks, epoch_ms).await;
    }
    let outcome = timeout(Duration::from_millis(10), requests.next()).await;
    assert!(
        outcome.is_err(),
        "the clock's server was never stopped: {outcome:?}"
    );
}

#[tokio::test]
async fn a_stopped_bus_sends_nothing_and_reports_that_it_is_disconnected() {
    let nats = Nats::run(&[]);
    let (edge, mut events) = edge(&nats).await;
    edge.stop().await;
    assert_eq!(edge.ask(1), Err(Unavailable));
    assert_eq!(soon(events.next()).await, EdgeEvent::Disconnected);
}
