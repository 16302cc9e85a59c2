use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tickstorm_bus::Bus;
use tickstorm_clock::Discipline;
use tickstorm_service::logging::{Level, LogFormat, dispatch};
use tickstorm_timebase::{Announcement, Epoch, Mode};
use tracing::dispatcher::{DefaultGuard, set_default};

use crate::{Cluster, RunningClock};

const HOUR: Duration = Duration::from_secs(3_600);

/// The lines that this thread has logged since [`Lines::capture`].
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn capture() -> (Self, DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let (dispatch, _) = dispatch(Level::Info, LogFormat::Text, move || writer.clone());
        (lines, set_default(&dispatch))
    }

    fn count(&self, text: &str) -> usize {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).matches(text).count()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the reasons of the alarms in /status, after checking that each has a sentence and that
/// the metrics say the same.
fn raised(clock: &RunningClock) -> Vec<String> {
    let alarms = clock.status("alarms");
    let alarms = alarms.as_array().expect("a list");
    for alarm in alarms {
        let message = alarm["message"].as_str().expect("a sentence");
        assert!(message.ends_with('.'), "{message}");
    }
    let reason = |alarm: &Value| alarm["reason"].as_str().expect("a reason").to_owned();
    let raised: Vec<_> = alarms.iter().map(reason).collect();
    for reason in ["undisciplined", "shared_id"] {
        let series = format!("tickstorm_clock_alarm{{reason=\"{reason}\"}}");
        let is_raised = raised.iter().any(|one| one == reason);
        assert_eq!(clock.metric(&series), f64::from(u8::from(is_raised)));
    }
    raised
}

#[tokio::test(start_paused = true)]
async fn an_undisciplined_host_is_a_warning_at_the_start_and_hourly_and_an_alarm() {
    let mut cluster = Cluster::new(0).await;
    let (lines, _guard) = Lines::capture();
    // The test machine's host is not disciplined, and its error is 16 s.
    let clock = cluster.start("clock-0");
    cluster.hear(Duration::from_millis(10)).await;
    assert_eq!(raised(&clock), ["undisciplined"]);
    let discipline = |clock: &RunningClock| {
        let names = [
            "tickstorm_clock_synchronized",
            "tickstorm_clock_error_seconds",
        ];
        names.map(|name| clock.metric(name))
    };
    assert_eq!(discipline(&clock), [0.0, 16.0]);
    let warnings = || lines.count("nothing disciplines the host's clock");
    assert_eq!(warnings(), 1);
    cluster.hear(HOUR - Duration::from_secs(10)).await;
    assert_eq!(warnings(), 1);
    cluster.hear(HOUR).await;
    assert_eq!(warnings(), 2);
    cluster.machine.set_discipline(Discipline {
        synchronized: true,
        clock_error_us: 250,
    });
    cluster.hear(2 * HOUR).await;
    assert_eq!(raised(&clock), [""; 0]);
    assert_eq!(discipline(&clock), [1.0, 0.000_25]);
    assert_eq!(warnings(), 2);
    cluster.machine.set_discipline(Discipline {
        synchronized: false,
        clock_error_us: 16_000_000,
    });
    cluster.hear(Duration::from_secs(2)).await;
    assert_eq!(raised(&clock), ["undisciplined"]);
    assert_eq!(warnings(), 3);
}

/// Starts a cluster whose machine's clock is disciplined, so that there is no other alarm.
async fn disciplined() -> Cluster {
    let cluster = Cluster::new(0).await;
    cluster.machine.set_discipline(Discipline {
        synchronized: true,
        clock_error_us: 250,
    });
    cluster
}

#[tokio::test(start_paused = true)]
async fn two_clocks_with_one_id_are_told_within_a_second_of_the_seconds_start() {
    let mut cluster = disciplined().await;
    let (lines, _guard) = Lines::capture();
    let first = cluster.start("clock-0");
    cluster.hear(Duration::from_secs(60)).await;
    assert_eq!(raised(&first), [""; 0], "its own announcements");
    let second = cluster.start_on("other", "clock-0");
    let other_id = cluster.start("clock-1");
    cluster.hear(Duration::from_millis(1_100)).await;
    assert_eq!(raised(&first), ["shared_id"]);
    assert_eq!(raised(&second), ["shared_id"]);
    assert_eq!(raised(&other_id), [""; 0]);
    assert_eq!(lines.count("Give each clock a CLOCK_ID of its own"), 2);
    let dropped = "tickstorm_clock_bus_dropped_total{reason=\"shared_id\"}";
    assert!(second.metric(dropped) >= 1.0);
    second.replica.stop().await;
    cluster.hear(Duration::from_secs(20)).await;
    assert_eq!(raised(&first), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_does_not_take_its_own_announcements_for_another_clocks() {
    let mut cluster = disciplined().await;
    let clock = cluster.start("clock-0");
    // Steps start new timelines, and after a reconnect announcements are repeated.
    for by_us in [300, -2_000_000, 150, 7_000_000] {
        cluster.hear(Duration::from_millis(3_300)).await;
        cluster.machine.step_us(by_us);
        cluster.bus.cut("clock-0");
        cluster.hear(Duration::from_millis(700)).await;
        cluster.bus.restore("clock-0");
        assert_eq!(raised(&clock), [""; 0]);
    }
    let forged = Announcement {
        mode: Mode::Second,
        epoch: Epoch::from_ms(60_000),
        clock_id: "clock-0".parse().expect("a valid id"),
        rank: 0,
        sent_unix_us: 0,
        timeline: 1,
    };
    cluster
        .bus
        .link("thief")
        .announce(&forged)
        .expect("a connection");
    cluster.hear(Duration::from_millis(1_100)).await;
    assert_eq!(raised(&clock), ["shared_id"]);
}
