//! The pages that say what to do about alarms, holdover and silent clocks, which are those of the
//! alerts.

/// Returns the path of a page in the repository.
macro_rules! path {
    ($page:literal) => {
        concat!("docs/runbooks/", $page, ".md")
    };
}

/// Defines the paths of pages, each with the alarms that it is about.
macro_rules! pages {
    ($($page:literal: $($reason:literal)|+;)+) => {
        &[$((path!($page), &[$($reason),+])),+]
    };
}

/// Pages, each with the reasons of the alarms that it is about.
type Pages = &'static [(&'static str, &'static [&'static str])];

/// The pages about alarms for single clocks, which edges raise.
const ABOUT_CLOCKS: Pages = pages! {
    "TickstormFalseticker": "falseticker";
    "TickstormClockAlarm": "shared_id" | "misbehaving" | "unheard";
};

/// The pages about all other alarms, among them those that a clock raises about itself.
const PAGES: Pages = pages! {
    "TickstormTimeLost": "no_time" | "none_believed";
    "TickstormNoMajority": "no_majority";
    "TickstormTimeAlarm": "rate" | "step_pending";
    "TickstormClockIdShared": "shared_id";
    "TickstormClockUndisciplined": "undisciplined";
    "TickstormBusAlarm": "nats_silent" | "nats_refused";
    "TickstormLoginsRefused": "logins_refused";
    "TickstormMemoryEvictions": "buffers_full" | "kernel_memory";
    "TickstormReloadFailed": "reload_failed";
    "TickstormCertificateExpiresNow": "certificate_expired" | "ca_expired" | "crl_expired";
    "TickstormTlsAlarm": "certificate_not_yet_valid" | "ca_not_yet_valid";
};

/// The page about holdover, which has no alarm.
pub(super) const HOLDOVER: &str = path!("TickstormHoldover");

/// The page about clocks that do not answer, which is no alarm.
pub(super) const SILENT: &str = path!("TickstormClockSilent");

/// Returns the page about alarms with this reason, as a path in the repository. If two pages are
/// about it, `is_about_clocks` decides: whether the alarm names clocks.
pub(super) fn about(reason: &str, is_about_clocks: bool) -> Option<&'static str> {
    let (first, second) = if is_about_clocks {
        (ABOUT_CLOCKS, PAGES)
    } else {
        (PAGES, ABOUT_CLOCKS)
    };
    let mut pages = first.iter().chain(second);
    let found = pages.find(|(_, reasons)| reasons.contains(&reason));
    found.map(|(page, _)| *page)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// The metrics with the alarms of the time and of clocks, and whether they name clocks.
    const ALARM_METRICS: [(&str, bool); 3] = [
        ("tickstorm_time_alarm", false),
        ("tickstorm_time_clock_alarm", true),
        ("tickstorm_clock_alarm", false),
    ];

    fn root() -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).to_owned()
    }

    /// Returns the text of all rules of Prometheus.
    fn rules() -> String {
        let files = fs::read_dir(root().join("deploy/prometheus/rules")).unwrap();
        let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        texts.collect()
    }

    /// Returns the matchers of reasons of alarms in the rules: the page of the alert, the reason,
    /// and whether the alarm names clocks.
    fn matchers() -> BTreeSet<(String, String, bool)> {
        let rules = rules();
        let mut matchers = BTreeSet::new();
        for alert in rules.split("- alert: ").skip(1) {
            let page = format!("docs/runbooks/{}.md", alert.lines().next().unwrap());
            for (metric, names_clocks) in ALARM_METRICS {
                let start = format!("{metric}{{");
                for matcher in alert.split(&start).skip(1) {
                    let (matcher, _) = matcher.split_once('}').unwrap();
                    let (label, reasons) = matcher.split_once('=').unwrap();
                    assert_eq!(label, "reason", "{page}: {matcher}");
                    let reasons = reasons.trim_start_matches('~').trim_matches('"');
                    let reasons = reasons.split('|');
                    matchers.extend(
                        reasons.map(|reason| (page.clone(), reason.to_owned(), names_clocks)),
                    );
                }
            }
        }
        matchers
    }

    #[test]
    fn each_page_exists_and_is_that_of_an_alert() {
        let rules = rules();
        let pages = ABOUT_CLOCKS.iter().chain(PAGES).map(|(page, _)| *page);
        for page in pages.chain([HOLDOVER, SILENT]) {
            assert!(root().join(page).is_file(), "{page}");
            let name = Path::new(page).file_name().unwrap().to_str().unwrap();
            let is_of_alert = rules.contains(&format!("/{name}\""));
            assert!(is_of_alert, "no alert has the page {page}");
        }
    }

    #[test]
    fn an_alarm_has_the_page_of_the_alert_that_matches_its_reason() {
        let matchers = matchers();
        assert!(matchers.len() >= 10, "too few matchers: {matchers:?}");
        for (page, reason, names_clocks) in &matchers {
            let found = about(reason, *names_clocks);
            assert_eq!(found, Some(page.as_str()), "{reason}, {names_clocks}");
        }
        // And the table has nothing about clocks that the rules do not have.
        for (page, reasons) in ABOUT_CLOCKS {
            for reason in *reasons {
                let matcher = ((*page).to_owned(), (*reason).to_owned(), true);
                assert!(matchers.contains(&matcher), "no rule has {matcher:?}");
            }
        }
    }

    #[test]
    fn a_page_about_tls_names_the_reasons_of_its_alarms() {
        // Their alert matches all reasons but one, so the page says which ones it is about.
        let page = about("ca_not_yet_valid", false).unwrap();
        let text = fs::read_to_string(root().join(page)).unwrap();
        let (_, reasons) = PAGES.iter().find(|(path, _)| *path == page).unwrap();
        for reason in *reasons {
            assert!(text.contains(&format!("`{reason}` |")), "{page}: {reason}");
        }
    }

    #[test]
    fn the_documentation_names_the_same_page_for_each_alarm() {
        let text = fs::read_to_string(root().join("docs/operations.md")).unwrap();
        let (_, section) = text.split_once("\n## Alarms\n").unwrap();
        let (_, table) = section.split_once("|---|---|---|---|\n").unwrap();
        let mut documented = BTreeSet::new();
        for row in table.lines().take_while(|line| line.starts_with('|')) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let [_, reason, raised_by, _, page, _] = cells[..] else {
                panic!("{row}");
            };
            let reason = reason.trim_matches('`');
            let (_, path) = page.split_once("](").unwrap();
            let path = format!("docs/{}", path.trim_end_matches(')'));
            let names_clocks = raised_by.ends_with("about a clock");
            let found = about(reason, names_clocks);
            assert_eq!(found, Some(path.as_str()), "{row}");
            documented.insert((path, reason.to_owned()));
        }
        let pages = ABOUT_CLOCKS.iter().chain(PAGES);
        let known = pages.flat_map(|(page, reasons)| {
            let of_page = |reason: &&str| ((*page).to_owned(), (*reason).to_owned());
            reasons.iter().map(of_page)
        });
        assert_eq!(documented, known.collect());
    }

    #[test]
    fn an_alarm_of_a_later_version_has_no_page() {
        for is_about_clocks in [false, true] {
            assert_eq!(about("an alarm of a later version", is_about_clocks), None);
        }
    }
}
