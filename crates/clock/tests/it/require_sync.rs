use std::time::Duration;

use tickstorm_clock::{Config, Discipline};

use crate::{Cluster, RunningClock, config};

const DISCIPLINED: Discipline = Discipline {
    synchronized: true,
    clock_error_us: 250,
};
const UNDISCIPLINED: Discipline = Discipline {
    synchronized: false,
    clock_error_us: 16_000_000,
};

/// Starts a clock that stays silent unless the kernel reports its host as disciplined.
fn strict(cluster: &Cluster) -> RunningClock {
    cluster.start_with(Config {
        require_sync: true,
        ..config("clock-0")
    })
}

#[tokio::test(start_paused = true)]
async fn an_undisciplined_host_makes_a_strict_clock_silent_and_not_ready_but_live() {
    let mut cluster = Cluster::new(0).await;
    cluster.machine.set_discipline(UNDISCIPLINED);
    let clock = strict(&cluster);
    assert_eq!(cluster.announcements(Duration::from_secs(30)).await, []);
    assert_eq!(cluster.ask(1).await, []);
    let health = clock.replica.health();
    let reasons = health.ready();
    assert!(
        reasons.len() == 1 && reasons[0].contains("REQUIRE_SYNC"),
        "{reasons:?}"
    );
    assert_eq!(health.live(), [""; 0]);
    assert_eq!(clock.status("synchronized"), false);
    assert_eq!(clock.metric("tickstorm_clock_answers_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_strict_clock_announces_from_the_turn_that_finds_the_host_disciplined() {
    let mut cluster = Cluster::new(0).await;
    cluster.machine.set_discipline(UNDISCIPLINED);
    let clock = strict(&cluster);
    cluster.hear(Duration::from_millis(5_100)).await;
    cluster.machine.set_discipline(DISCIPLINED);
    let heard = cluster.announcements(Duration::from_secs(1)).await;
    let epochs: Vec<_> = heard.iter().map(|(_, a)| a.epoch.as_ms()).collect();
    // Its next turn is at 5,500 ms, for the tick 1,500 ms later; the tick before that is also still
    // to come.
    assert_eq!(epochs, [6_000, 7_000]);
    assert_eq!(cluster.ask(1).await.len(), 1);
    assert_eq!(clock.replica.health().ready(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn answers_stop_as_soon_as_the_host_loses_discipline() {
    let mut cluster = Cluster::new(0).await;
    cluster.machine.set_discipline(DISCIPLINED);
    let clock = strict(&cluster);
    cluster.hear(Duration::from_millis(100)).await;
    assert_eq!(cluster.ask(1).await.len(), 1);
    cluster.machine.set_discipline(UNDISCIPLINED);
    assert_eq!(cluster.ask(2).await, []);
    assert_eq!(clock.replica.health().ready().len(), 1);
    assert_eq!(cluster.announcements(Duration::from_secs(5)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_not_strict_announces_whatever_the_kernel_reports() {
    let mut cluster = Cluster::new(0).await;
    cluster.machine.set_discipline(UNDISCIPLINED);
    let clock = cluster.start("clock-0");
    assert!(
        !cluster
            .announcements(Duration::from_secs(3))
            .await
            .is_empty()
    );
    assert_eq!(clock.replica.health().ready(), [""; 0]);
}
