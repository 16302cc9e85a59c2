//! [`TlsState`]: the TLS files in use, and what is wrong with them. /status, the metrics and the
//! log are all made from it, with the host's wall clock, by which rustls checks certificates.

use serde_json::{Value, json};
use tickstorm_service::tls_expiry::{FileAlarm, FileSummary, date_of, findings, is_raised};
use tickstorm_timebase::UnixTime;

use super::ClientAuth;

/// A reason for which the TLS files need attention now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsAlarm {
    /// A file is not valid now.
    File(FileAlarm),
    /// The files have changed and can't be used.
    ReloadFailed,
}

impl TlsAlarm {
    /// All alarms.
    pub(crate) const ALL: [Self; 6] = [
        Self::File(FileAlarm::CertificateExpired),
        Self::File(FileAlarm::CertificateNotYetValid),
        Self::File(FileAlarm::AuthoritiesExpired),
        Self::File(FileAlarm::AuthoritiesNotYetValid),
        Self::File(FileAlarm::RevokedExpired),
        Self::ReloadFailed,
    ];

    /// Returns the value of the label `reason` of `tickstorm_tls_alarm`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::File(alarm) => alarm.label(),
            Self::ReloadFailed => "reload_failed",
        }
    }
}

/// The TLS files in use.
#[derive(Clone, Debug)]
pub(crate) struct TlsState {
    client_auth: ClientAuth,
    files: Vec<FileSummary>,
    /// The time at which the files in use were read.
    loaded: UnixTime,
    /// The reason why the files can't be used that are there now.
    reload_error: Option<String>,
}

impl AsRef<[FileSummary]> for TlsState {
    fn as_ref(&self) -> &[FileSummary] {
        &self.files
    }
}

impl TlsState {
    pub(super) fn new(client_auth: ClientAuth, files: Vec<FileSummary>, loaded: UnixTime) -> Self {
        Self {
            client_auth,
            files,
            loaded,
            reload_error: None,
        }
    }

    /// Notes that files were read and are in use now.
    pub(super) fn reloaded(&mut self, files: Vec<FileSummary>, now: UnixTime) {
        *self = Self::new(self.client_auth, files, now);
    }

    /// Notes why the files can't be used that are there now; `None` if they are those in use.
    pub(super) fn set_reload_error(&mut self, error: Option<String>) {
        self.reload_error = error;
    }

    /// Returns whether an alarm is raised.
    pub(crate) fn is_raised(&self, alarm: TlsAlarm, now: UnixTime) -> bool {
        match alarm {
            TlsAlarm::File(alarm) => is_raised(&self.files, alarm, now),
            TlsAlarm::ReloadFailed => self.reload_error.is_some(),
        }
    }

    /// Returns the section `tls` of /status.
    pub(crate) fn status(&self, now: UnixTime) -> Value {
        let (mut alarms, mut warnings) = (Vec::new(), Vec::new());
        for found in findings(&self.files, now) {
            match found.alarm {
                Some(alarm) => alarms.push(json!({
                    "reason": alarm.label(), "message": format!("{}.", found.text),
                })),
                None => warnings.push(found.text),
            }
        }
        if let Some(error) = &self.reload_error {
            alarms.push(json!({
                "reason": TlsAlarm::ReloadFailed.label(),
                "message":
                    format!("The files can't be used, so earlier ones stay in use: {error}."),
            }));
        }
        let mut status = json!({
            "enabled": true,
            "client_auth": self.client_auth.name(),
            "alarms": alarms,
            "warnings": warnings,
            "loaded_at": date_of(self.loaded),
            "reload_error": self.reload_error,
        });
        for file in &self.files {
            status[file.file().content.label()] = file.status(now);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use tickstorm_testkit::CertificateAuthority;

    use super::super::{AUTHORITIES, CERTIFICATE};
    use super::*;

    const DAY_S: u64 = 86_400;
    /// A moment in 2033, in seconds of Unix time.
    const NOW_S: u64 = 2_000_000_000;

    fn now() -> UnixTime {
        UnixTime::from_nanos(i64::try_from(NOW_S).unwrap() * 1_000_000_000)
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    /// Returns the state of an edge whose certificate and client authority are valid until these
    /// seconds of Unix time.
    fn state(certificate_s: u64, authority_s: u64) -> TlsState {
        let issued = CertificateAuthority::new().issue_valid("edge.test", 0..certificate_s);
        let authority = CertificateAuthority::named("clients", 0..authority_s);
        let files = vec![
            FileSummary::of_certificates(
                CERTIFICATE,
                Path::new("edge.crt"),
                &[der(&issued.certificate)],
            ),
            FileSummary::of_certificates(
                AUTHORITIES,
                Path::new("ca.pem"),
                &[der(authority.certificate())],
            ),
        ];
        TlsState::new(ClientAuth::RequireVerify, files, now())
    }

    #[test]
    fn what_is_found_in_the_files_is_in_status_and_raises_alarms() {
        let state = state(NOW_S - 1, NOW_S + 3 * DAY_S);
        let status = state.status(now());
        assert_eq!(status["certificate"]["days_left"], -1);
        assert_eq!(status["certificate"]["subject"], "CN=edge.test");
        assert_eq!(status["ca"]["days_left"], 3);
        let (alarms, warnings) = (&status["alarms"], &status["warnings"]);
        assert_eq!(alarms[0]["reason"], "certificate_expired");
        let message = "TLS_CERT_FILE=edge.crt: the certificate of CN=edge.test expired at \
                       2033-05-18T03:33:19Z; clients refuse to connect until it is replaced.";
        assert_eq!(alarms[0]["message"], message);
        let warning = "TLS_CA_FILE=ca.pem: the authority CN=clients expires in 3 days, at \
                       2033-05-21T03:33:20Z; replace it, and the clients' certificates that it \
                       has signed";
        assert_eq!(warnings, &json!([warning]));
        for alarm in TlsAlarm::ALL {
            let is_raised = alarm == TlsAlarm::File(FileAlarm::CertificateExpired);
            assert_eq!(state.is_raised(alarm, now()), is_raised, "{alarm:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_an_alarm_with_the_reason() {
        let mut state = state(NOW_S + 100 * DAY_S, NOW_S + 100 * DAY_S);
        state.set_reload_error(Some("no key".to_owned()));
        let expected = "The files can't be used, so earlier ones stay in use: no key.";
        let status = state.status(now());
        assert_eq!(status["alarms"][0]["message"], expected);
        assert_eq!(status["alarms"][0]["reason"], "reload_failed");
        assert!(state.is_raised(TlsAlarm::ReloadFailed, now()));
    }
}
