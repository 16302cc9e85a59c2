//! Alerts that a test expects to begin and to end, in Prometheus and in Alertmanager.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tickstorm_timebase::{Clock as _, Mono, SystemClock};

use super::pages::{Labels, Notified, notified_alerts, prometheus_alerts};

/// The time limit for an alert to be raised. The longest wait of a rule is 40 s.
const RAISED_MAX: Duration = Duration::from_secs(120);
/// The time limit for an alert to end. The longest window that must pass is two minutes.
const ENDED_MAX: Duration = Duration::from_secs(240);

const PAUSE: Duration = Duration::from_millis(500);

/// The names of the alerts that were raised and have ended.
static OBSERVED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// An alert, by its name and those of its labels that matter.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Expected {
    name: &'static str,
    labels: Labels,
}

/// Returns an alert with any labels.
pub(super) fn alert(name: &'static str) -> Expected {
    let labels = Labels::from([("alertname".to_owned(), name.to_owned())]);
    Expected { name, labels }
}

impl Expected {
    /// Requires a label.
    pub(super) fn with(mut self, label: &str, value: &str) -> Self {
        self.labels.insert(label.to_owned(), value.to_owned());
        self
    }

    fn matches(&self, labels: &Labels) -> bool {
        let mut required = self.labels.iter();
        required.all(|(label, value)| labels.get(label) == Some(value))
    }

    /// Returns the alert as Alertmanager knows it.
    fn notified<'a>(&self, alerts: &'a [Notified]) -> Option<&'a Notified> {
        alerts.iter().find(|alert| self.matches(&alert.labels))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self
            .labels
            .iter()
            .filter(|(label, _)| *label != "alertname");
        let labels: Vec<_> = labels
            .map(|(label, value)| format!("{label}={value}"))
            .collect();
        write!(f, "{}{{{}}}", self.name, labels.join(","))
    }
}

/// Waits until each of the alerts has been raised in Prometheus and has reached Alertmanager. They
/// need not be raised at the same time.
pub(super) fn await_raised(alerts: &[Expected]) {
    let start = SystemClock.now();
    let mut missing = alerts.to_vec();
    let mut last_seen = String::new();
    while !missing.is_empty() {
        let (evaluated, notified) = (prometheus_alerts(), notified_alerts());
        missing.retain(|alert| {
            let is_raised = evaluated
                .iter()
                .any(|one| one.state == "firing" && alert.matches(&one.labels));
            let is_here = is_raised && alert.notified(&notified).is_some();
            if is_here {
                println!("{:>6.1} s  raised {alert}", since(start));
            }
            !is_here
        });
        if since(start) > RAISED_MAX.as_secs_f64() {
            last_seen = format!("Prometheus: {evaluated:#?}\nAlertmanager: {notified:#?}");
            break;
        }
        thread::sleep(PAUSE);
    }
    assert!(
        missing.is_empty(),
        "not raised: {}\n{last_seen}",
        listed(&missing)
    );
}

/// Waits until the alerts have ended in Prometheus and in Alertmanager, and notes that they were
/// observed. They must have been raised before.
pub(super) fn await_ended(alerts: &[Expected]) {
    let start = SystemClock.now();
    let mut remaining = alerts.to_vec();
    while !remaining.is_empty() {
        let (evaluated, notified) = (prometheus_alerts(), notified_alerts());
        remaining.retain(|alert| {
            let is_here = evaluated.iter().any(|one| alert.matches(&one.labels))
                || alert.notified(&notified).is_some();
            if !is_here {
                println!("{:>6.1} s  ended  {alert}", since(start));
                OBSERVED.lock().unwrap().insert(alert.name.to_owned());
            }
            is_here
        });
        let names = listed(&remaining);
        assert!(
            since(start) < ENDED_MAX.as_secs_f64(),
            "not ended: {names}\n{evaluated:#?}"
        );
        thread::sleep(PAUSE);
    }
}

/// Waits until nobody is notified of `hidden`, because of `source`.
pub(super) fn await_inhibited(hidden: &Expected, source: &Expected) {
    let start = SystemClock.now();
    loop {
        let notified = notified_alerts();
        let (found, by) = (hidden.notified(&notified), source.notified(&notified));
        if let (Some(found), Some(by)) = (found, by)
            && found.status.inhibited_by.contains(&by.fingerprint)
        {
            println!("        {source} hides {hidden}");
            return;
        }
        let is_late = since(start) > RAISED_MAX.as_secs_f64();
        assert!(!is_late, "{source} does not hide {hidden}: {notified:#?}");
        thread::sleep(PAUSE);
    }
}

/// Returns the names of the alerts that were raised and have ended.
pub(super) fn observed() -> BTreeSet<String> {
    OBSERVED.lock().unwrap().clone()
}

fn listed(alerts: &[Expected]) -> String {
    let names: Vec<_> = alerts.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn since(start: Mono) -> f64 {
    SystemClock.now().since(start).as_secs_f64()
}
