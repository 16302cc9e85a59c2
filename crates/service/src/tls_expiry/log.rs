//! [`ExpiryLog`]: decides when findings about files of TLS are logged: immediately, and once a day
//! while they last.

use std::time::Duration;

use tickstorm_timebase::{Clock as _, HostClock as _, Mono, SystemClock, SystemHost};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{FileFinding, FileSummary, findings};

/// The time after which a finding that lasts is logged again.
const REPEAT: Duration = Duration::from_secs(86_400);
/// The interval at which the files' validity is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What has been logged, and when.
#[derive(Debug, Default)]
pub struct ExpiryLog {
    logged: Vec<(FileFinding, Mono)>,
}

impl ExpiryLog {
    /// Checks the files of `state` every second, and logs what is due. Returns at once if there are
    /// none: which files there are does not change.
    pub async fn run(mut self, state: watch::Receiver<impl AsRef<[FileSummary]>>) {
        if state.borrow().as_ref().is_empty() {
            return;
        }
        let mut interval = tokio::time::interval(CHECK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now = SystemHost::new(0).read().unix;
            let findings = findings(state.borrow().as_ref(), now);
            for found in self.take_due(findings, SystemClock.now()) {
                let message = found.text;
                match found.alarm {
                    Some(alarm) => tracing::error!(reason = alarm.label(), "{message}"),
                    None => tracing::warn!("{message}"),
                }
            }
        }
    }

    /// Returns those of the present findings that must be logged now. Findings that have ended are
    /// forgotten.
    fn take_due(&mut self, findings: Vec<FileFinding>, now: Mono) -> Vec<FileFinding> {
        let mut due = Vec::new();
        let before = std::mem::take(&mut self.logged);
        for found in findings {
            // The text changes every day, with the days that are left.
            let is_same = |(old, _): &&(FileFinding, Mono)| {
                (old.alarm, &old.about) == (found.alarm, &found.about)
            };
            let last = before.iter().find(is_same).map(|(_, last)| *last);
            let last = match last {
                Some(last) if now.since(last) < REPEAT => last,
                _ => {
                    due.push(found.clone());
                    now
                }
            };
            self.logged.push((found, last));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::super::FileAlarm;
    use super::*;

    fn finding(alarm: Option<FileAlarm>, about: &str, text: &str) -> FileFinding {
        FileFinding {
            alarm,
            about: about.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_finding_is_logged_once_a_day_and_again_if_the_file_or_its_state_changes() {
        let mut log = ExpiryLog::default();
        let mut due = |hours: u64, found: &[&FileFinding]| {
            let now = Mono::ZERO + Duration::from_secs(hours * 3_600);
            let found = found.iter().copied().cloned().collect();
            log.take_due(found, now).len()
        };
        let warning = finding(None, "edge.crt", "13 days");
        assert_eq!(due(0, &[]), 0);
        assert_eq!(due(1, &[&warning]), 1);
        assert_eq!(due(24, &[&finding(None, "edge.crt", "12 days")]), 0);
        assert_eq!(due(25, &[&warning]), 1);
        assert_eq!(
            due(26, &[&finding(None, "renewed edge.crt", "another file")]),
            1
        );
        let alarm = finding(
            Some(FileAlarm::CertificateExpired),
            "renewed edge.crt",
            "expired",
        );
        assert_eq!(due(27, &[&alarm, &warning]), 2);
        assert_eq!(due(28, &[&alarm]), 0);
        assert_eq!(due(29, &[]), 0);
        assert_eq!(due(30, &[&alarm]), 1);
    }
}
