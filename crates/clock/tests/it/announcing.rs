use std::time::Duration;

use tickstorm_bus::{Fate, Passage, RandomFaults};
use tickstorm_timebase::{Announcement, Mode};

use crate::{Cluster, LEAD_MS};

/// An announcement: its time and the tick's epoch, both in milliseconds.
type Announced = (i64, i64);

fn announced_by(id: &str, mode: Mode, heard: &[(i64, Announcement)]) -> Vec<Announced> {
    let of_it = heard
        .iter()
        .filter(|(_, heard)| heard.clock_id.as_str() == id && heard.mode == mode);
    of_it
        .map(|(at_ms, heard)| (*at_ms, heard.epoch.as_ms()))
        .collect()
}

/// Returns the announcements that a clock must make if it runs from `from_ms` to `until_ms`.
fn expected(mode: Mode, from_ms: i64, until_ms: i64) -> Vec<Announced> {
    let first = from_ms.div_euclid(mode.period_ms()) + 1;
    let ticks = (first..).map(|number| number * mode.period_ms());
    let announced = ticks.map(|epoch_ms| ((epoch_ms - LEAD_MS).max(from_ms), epoch_ms));
    announced
        .take_while(|&(at_ms, _)| at_ms < until_ms)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_clock_announces_every_tick_once_at_its_lead_independently_of_others() {
    const FROM_MS: i64 = 58_200;
    let mut cluster = Cluster::new(FROM_MS).await;
    let clocks = [cluster.start("clock-0"), cluster.start("clock-1")];
    let heard = cluster.announcements(Duration::from_secs(130)).await;
    for (id, clock) in ["clock-0", "clock-1"].into_iter().zip(&clocks) {
        for mode in Mode::ALL {
            let expected = expected(mode, FROM_MS, FROM_MS + 130_000);
            assert_eq!(announced_by(id, mode, &heard), expected, "{id} {mode:?}");
            let series = format!(
                "tickstorm_clock_announcements_total{{mode=\"{}\"}}",
                mode.name()
            );
            assert_eq!(
                clock.metric(&series),
                f64::from(u32::try_from(expected.len()).unwrap())
            );
        }
    }
    for (at_ms, announcement) in &heard {
        assert_eq!(announcement.rank, 7);
        assert_eq!(announcement.sent_unix_us, at_ms * 1_000);
        let status = &clocks[usize::from(announcement.clock_id.as_str() == "clock-1")];
        assert_eq!(status.status("timeline"), announcement.timeline);
    }
    assert_ne!(clocks[0].status("timeline"), clocks[1].status("timeline"));
}

#[tokio::test(start_paused = true)]
async fn a_clock_announces_every_tick_even_if_it_receives_mostly_garbage() {
    let mut cluster = Cluster::new(0).await;
    let weather = RandomFaults {
        lose: 0.3,
        delay: 0.2,
        double: 0.2,
        swap: 0.2,
        delay_max: Duration::from_secs(2),
    };
    let mut noise = weather.script(7);
    cluster
        .bus
        .set_script(move |passage: &Passage<'_>| match passage.to {
            "clock-0" => noise(passage),
            _ => Fate::Deliver,
        });
    let clock = cluster.start("clock-0");
    let mut heard = Vec::new();
    for nonce in 0..100 {
        let reply = cluster.edge.reply_subject();
        cluster
            .bus
            .inject("tickstorm.v1.time", Some(&reply), b"\xFF".to_vec());
        tickstorm_bus::Bus::ask(&cluster.edge, nonce).unwrap();
        heard.extend(cluster.announcements(Duration::from_millis(333)).await);
    }
    assert_eq!(
        announced_by("clock-0", Mode::Second, &heard),
        expected(Mode::Second, 0, 33_300)
    );
    assert_eq!(
        clock.metric("tickstorm_clock_bus_dropped_total{reason=\"malformed\"}"),
        100.0
    );
    assert_eq!(clock.metric("tickstorm_clock_known_reply_subjects"), 1.0);
    let answered = clock.metric("tickstorm_clock_answers_total");
    assert!((50.0..=150.0).contains(&answered), "{answered} answers");
}

#[tokio::test(start_paused = true)]
async fn a_reconnected_clock_repeats_announcements_within_its_lead() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    cluster.hear(Duration::from_millis(50_100)).await;
    cluster.bus.cut("clock-0");
    assert_eq!(
        cluster.announcements(Duration::from_millis(8_800)).await,
        []
    );
    assert_eq!(clock.status("nats"), false);
    cluster.bus.restore("clock-0");
    let heard = cluster.announcements(Duration::from_millis(1_000)).await;
    let seconds = [(58_900, 59_000), (58_900, 60_000), (59_500, 61_000)];
    assert_eq!(announced_by("clock-0", Mode::Second, &heard), seconds);
    assert_eq!(
        announced_by("clock-0", Mode::Minute, &heard),
        [(58_900, 60_000)]
    );
    assert_eq!(clock.status("nats"), true);
    assert_eq!(clock.status("last_announced_epoch_ms"), 61_000);
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_host_starts_a_new_timeline_and_slewing_does_not() {
    let mut cluster = Cluster::new(10_000).await;
    let clock = cluster.start("clock-0");
    cluster.hear(Duration::from_millis(200)).await;
    let before = clock.status("timeline");

    cluster.machine.step_us(90);
    cluster.hear(Duration::from_millis(2_000)).await;
    assert_eq!(clock.status("timeline"), before);

    cluster.machine.step_us(-6_000_000);
    let heard = cluster.announcements(Duration::from_millis(2_000)).await;
    let after = clock.status("timeline");
    assert_ne!(after, before);
    assert!(
        heard.iter().all(|(_, heard)| after == heard.timeline),
        "{heard:?}"
    );
    let epochs: Vec<_> = heard.iter().map(|(_, heard)| heard.epoch.as_ms()).collect();
    assert_eq!(
        epochs,
        [7_000, 8_000, 9_000],
        "the stepped clock reads 6.2 s to 8.2 s"
    );
    assert_eq!(clock.metric("tickstorm_clock_host_steps_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_clock_is_silent() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    assert_ne!(cluster.announcements(Duration::from_secs(3)).await, []);
    clock.replica.stop().await;
    assert_eq!(cluster.hear(Duration::from_secs(60)).await, []);
    assert_eq!(cluster.ask(1).await, []);
}

/// CLOCK_MONOTONIC stops meanwhile, and the kernel sets CLOCK_REALTIME when it resumes.
#[tokio::test(start_paused = true)]
async fn a_clock_whose_machine_was_suspended_announces_no_tick_of_the_time_that_it_slept() {
    let mut cluster = Cluster::new(0).await;
    let clock = cluster.start("clock-0");
    cluster.announcements(Duration::from_millis(3_200)).await;
    let timeline = clock.status("timeline");
    cluster.machine.step_us(30_000_000);
    let resumed_ms = cluster.machine.unix_ms();
    let replies = cluster.ask(7).await;
    assert_eq!(replies.len(), 1);
    let answered_ms = replies[0].1.sent_unix_us / 1_000;
    assert!(
        (resumed_ms..resumed_ms + 50).contains(&answered_ms),
        "{replies:?}"
    );
    let announced = cluster.announcements(Duration::from_secs(3)).await;
    assert!(announced.len() >= 3, "{announced:?}");
    for (at_ms, announcement) in &announced {
        assert!(announcement.epoch.as_ms() > resumed_ms, "{announced:?}");
        assert!(announcement.epoch.as_ms() > *at_ms, "{announced:?}");
    }
    assert_ne!(clock.status("timeline"), timeline);
}
