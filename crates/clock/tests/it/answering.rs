use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tickstorm_bus::{Bus, EdgeEvent, Fate, MemoryBus, Passage};
use tickstorm_clock::{Config, Discipline, Replica};
use tickstorm_timebase::{HostClock, SystemHost};

use crate::{Cluster, config};

#[tokio::test(start_paused = true)]
async fn every_clock_answers_with_its_own_id_and_timeline() {
    let mut cluster = Cluster::new(1_000).await;
    let clocks = [cluster.start("clock-0"), cluster.start("clock-1")];
    cluster.hear(Duration::from_millis(100)).await;
    let replies = cluster.ask(42).await;
    assert_eq!(replies.len(), 2);
    for ((_, reply), (id, clock)) in replies
        .into_iter()
        .zip(["clock-0", "clock-1"].into_iter().zip(&clocks))
    {
        assert_eq!(
            (reply.nonce, reply.clock_id.as_str(), reply.rank),
            (42, id, 7)
        );
        assert_eq!(clock.status("timeline"), reply.timeline);
        assert_eq!(clock.metric("tickstorm_clock_answers_total"), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_contains_the_times_of_reading_and_of_answering() {
    let mut cluster = Cluster::new(1_000).await;
    let _clock = cluster.start("clock-0");
    cluster.hear(Duration::from_millis(100)).await;
    cluster.bus.set_script(|passage: &Passage<'_>| {
        let is_request = passage.subject == "tickstorm.v1.time";
        Fate::Delay(Duration::from_millis(if is_request { 10 } else { 7 }))
    });
    cluster.machine.set_kernel_takes_us(250);
    let (at_ms, reply) = cluster.ask(1).await.pop().expect("an answer");
    assert_eq!(at_ms, 1_117);
    assert_eq!(
        (reply.received_unix_us, reply.sent_unix_us),
        (1_110_000, 1_110_250)
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_contains_the_kernels_current_report() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    cluster.hear(Duration::from_millis(100)).await;
    for (synchronized, clock_error_us) in [(true, 250), (false, 16_000_000)] {
        cluster.machine.set_discipline(Discipline {
            synchronized,
            clock_error_us,
        });
        let (_, reply) = cluster.ask(1).await.pop().expect("an answer");
        assert_eq!(
            (reply.synchronized, reply.clock_error_us),
            (synchronized, clock_error_us)
        );
        assert_eq!(clock.status("synchronized"), synchronized);
        assert_eq!(clock.status("clock_error_us"), clock_error_us);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_right_after_a_step_has_the_new_timeline() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    cluster.hear(Duration::from_millis(100)).await;
    let (_, before) = cluster.ask(1).await.pop().expect("an answer");
    cluster.machine.step_us(-1_001);
    let (_, after) = cluster.ask(2).await.pop().expect("an answer");
    assert_ne!(before.timeline, after.timeline);
    assert_eq!(clock.metric("tickstorm_clock_host_steps_total"), 1.0);
    let (_, later) = cluster.ask(3).await.pop().expect("an answer");
    assert_eq!(after.timeline, later.timeline);
}

/// Runs in real time, on this host's clock.
#[tokio::test]
async fn a_skew_is_added_to_the_hosts_clock() {
    const HOUR_MS: i64 = 3_600_000;
    let bus = MemoryBus::new();
    let edge = bus.link("edge");
    let mut events = edge.edge_events(&[]);
    let config = Config {
        skew_ms: -HOUR_MS,
        ..config("clock-0")
    };
    let link = Arc::new(bus.link("clock-0"));
    let _replica = Replica::start(config, link, &Registry::new()).unwrap();
    edge.ask(1).unwrap();
    let reply = loop {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        if let EdgeEvent::Reply(reply) = event.expect("an answer").expect("the bus has not ended") {
            break reply;
        }
    };
    let off_us = SystemHost::new(0).read().unix.as_micros() - reply.sent_unix_us;
    let excess_us = off_us - HOUR_MS * 1_000;
    assert!(
        (0..10_000_000).contains(&excess_us),
        "{excess_us} µs more than the skew"
    );
    assert!(reply.received_unix_us <= reply.sent_unix_us, "{reply:?}");
}
