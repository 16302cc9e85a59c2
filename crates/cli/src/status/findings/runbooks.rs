//! The pages that say what to do about alarms, which are those of the alerts.

/// Defines the paths of pages, each with the alarms that it is about.
macro_rules! pages {
    ($($page:literal: $($reason:literal)|+;)+) => {
        const PAGES: &[(&str, &[&str])] = &[
            $((concat!("docs/runbooks/", $page, ".md"), &[$($reason),+])),+
        ];
    };
}

pages! {
    "TickstormTimeLost": "no_time";
    "TickstormNoMajority": "no_majority";
    "TickstormTimeAlarm": "none_believed" | "step_pending" | "rate";
    "TickstormFalseticker": "falseticker";
    "TickstormClockAlarm": "misbehaving" | "unheard";
    "TickstormClockIdShared": "shared_id";
    "TickstormClockUndisciplined": "undisciplined";
    "TickstormBusAlarm": "nats_silent" | "nats_refused";
    "TickstormLoginsRefused": "logins_refused";
    "TickstormMemoryEvictions": "buffers_full" | "kernel_memory";
    "TickstormReloadFailed": "reload_failed";
    "TickstormCertificateExpiresNow":
        "certificate_expired" | "certificate_not_yet_valid" | "ca_expired" | "ca_not_yet_valid"
        | "crl_expired";
}

/// Returns the page about alarms with this reason, as a path in the repository.
pub(super) fn about(reason: &str) -> Option<&'static str> {
    let found = PAGES.iter().find(|(_, reasons)| reasons.contains(&reason));
    found.map(|(page, _)| *page)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_page_exists() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        for (page, reasons) in PAGES {
            assert!(root.join(page).is_file(), "{page} about {reasons:?}");
        }
    }

    #[test]
    fn an_alarm_has_the_page_about_it() {
        let page = "docs/runbooks/TickstormClockAlarm.md";
        assert_eq!(about("unheard"), Some(page));
        assert_eq!(about("an alarm of a later version"), None);
    }
}
