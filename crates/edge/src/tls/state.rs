//! [`TlsState`]: the TLS files in use, and what is wrong with them. /status, the metrics and the
//! log are all made from it, with the host's wall clock, by which rustls checks certificates.

use serde_json::{Value, json};
use tickstorm_timebase::UnixTime;

use super::ClientAuth;
use super::summary::{ExpiringFile, FileSummary, Validity, ValidityPeriod, date, date_of};

/// The maximum number of findings that are shown for a file. A bundle may contain any number of
/// authorities, all of which expire some day.
const FINDINGS_MAX: usize = 32;

/// A reason for which the TLS files need attention now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsAlarm {
    CertificateExpired,
    CertificateNotYetValid,
    AuthoritiesExpired,
    AuthoritiesNotYetValid,
    RevokedExpired,
    /// The files have changed and can't be used.
    ReloadFailed,
}

impl TlsAlarm {
    /// All alarms.
    pub(crate) const ALL: [Self; 6] = [
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::AuthoritiesExpired,
        Self::AuthoritiesNotYetValid,
        Self::RevokedExpired,
        Self::ReloadFailed,
    ];

    /// Returns the value of the label `reason` of `tickstorm_tls_alarm`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::AuthoritiesExpired => "ca_expired",
            Self::AuthoritiesNotYetValid => "ca_not_yet_valid",
            Self::RevokedExpired => "crl_expired",
            Self::ReloadFailed => "reload_failed",
        }
    }
}

/// Something that an operator should know of a file, or of a certificate or revocation list in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileFinding {
    /// The alarm; `None` if it is only a warning.
    pub(crate) alarm: Option<TlsAlarm>,
    /// What the finding is about: two with the same alarm and subject are the same finding, on
    /// different days.
    pub(crate) about: String,
    /// What is wrong, what follows from it, and what to do.
    pub(crate) text: String,
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

    /// Returns the files in use.
    pub(crate) fn files(&self) -> &[FileSummary] {
        &self.files
    }

    /// Returns what is wrong with the files in use, or soon will be.
    pub(crate) fn findings(&self, now: UnixTime) -> Vec<FileFinding> {
        self.files
            .iter()
            .flat_map(|file| findings(file, now))
            .collect()
    }

    /// Returns whether an alarm is raised.
    pub(crate) fn is_raised(&self, alarm: TlsAlarm, now: UnixTime) -> bool {
        if alarm == TlsAlarm::ReloadFailed {
            return self.reload_error.is_some();
        }
        let mut periods = self.files.iter().flat_map(|file| {
            let periods = file.periods.iter();
            periods.map(|period| alarm_of(file.file, period.validity(now)))
        });
        periods.any(|raised| raised == Some(alarm))
    }

    /// Returns the section `tls` of /status.
    pub(crate) fn status(&self, now: UnixTime) -> Value {
        let (mut alarms, mut warnings) = (Vec::new(), Vec::new());
        for found in self.findings(now) {
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
            status[file.file.label()] = file.status(now);
        }
        status
    }
}

/// Returns what is wrong with a file, the most urgent first.
fn findings(file: &FileSummary, now: UnixTime) -> Vec<FileFinding> {
    let periods = file.periods.iter();
    let mut findings: Vec<_> = periods
        .filter_map(|period| finding(file, period, now))
        .collect();
    findings.extend(file.unknown.iter().map(|number| unknown(file, *number)));
    findings.sort_by_key(|found| found.alarm.is_none());
    let not_shown = findings.len().saturating_sub(FINDINGS_MAX);
    if not_shown > 0 {
        findings.truncate(FINDINGS_MAX);
        findings.push(unshown(file, not_shown));
    }
    findings
}

fn finding(file: &FileSummary, period: &ValidityPeriod, now: UnixTime) -> Option<FileFinding> {
    let validity = period.validity(now);
    let alarm = alarm_of(file.file, validity);
    let (what, at) = match validity {
        Validity::Valid => return None,
        Validity::ExpiresSoon => {
            let days = match period.days_left(now) {
                0 => "less than a day".to_owned(),
                1 => "1 day".to_owned(),
                days => format!("{days} days"),
            };
            (format!("expires in {days}, at"), period.ends)
        }
        Validity::Expired => ("expired at".to_owned(), period.ends),
        Validity::NotYetValid => ("is not valid before".to_owned(), period.starts?),
    };
    let (kind, of, date) = (kind(file.file), &period.of, date(at));
    let (file_name, advice) = (file_name(file), advice(file.file, alarm));
    Some(FileFinding {
        alarm,
        about: format!("{file_name}: {kind} {of}, {date}"),
        text: format!("{file_name}: {kind} {of} {what} {date}; {advice}"),
    })
}

/// Returns the finding about an entry of a file that rustls uses, but whose validity is unknown.
fn unknown(file: &FileSummary, number: usize) -> FileFinding {
    let (file_name, noun) = (file_name(file), noun(file.file));
    let text = format!(
        "{file_name}: {noun} number {number} in the file can't be summarised; it is used, but its \
         expiry is not watched"
    );
    FileFinding {
        alarm: None,
        about: text.clone(),
        text,
    }
}

fn unshown(file: &FileSummary, count: usize) -> FileFinding {
    let about = format!("{}: further findings that are not shown", file_name(file));
    FileFinding {
        alarm: None,
        text: format!("{about}: {count}"),
        about,
    }
}

fn file_name(file: &FileSummary) -> String {
    format!("{}={}", file.file.setting(), file.path.display())
}

const fn alarm_of(file: ExpiringFile, validity: Validity) -> Option<TlsAlarm> {
    match validity {
        Validity::Valid | Validity::ExpiresSoon => None,
        Validity::Expired => Some(expired(file)),
        Validity::NotYetValid => not_yet_valid(file),
    }
}

const fn expired(file: ExpiringFile) -> TlsAlarm {
    match file {
        ExpiringFile::Certificate => TlsAlarm::CertificateExpired,
        ExpiringFile::Authorities => TlsAlarm::AuthoritiesExpired,
        ExpiringFile::Revoked => TlsAlarm::RevokedExpired,
    }
}

const fn not_yet_valid(file: ExpiringFile) -> Option<TlsAlarm> {
    match file {
        ExpiringFile::Certificate => Some(TlsAlarm::CertificateNotYetValid),
        ExpiringFile::Authorities => Some(TlsAlarm::AuthoritiesNotYetValid),
        ExpiringFile::Revoked => None,
    }
}

const fn noun(file: ExpiringFile) -> &'static str {
    match file {
        ExpiringFile::Certificate | ExpiringFile::Authorities => "certificate",
        ExpiringFile::Revoked => "revocation list",
    }
}

/// Returns what precedes the name of the certificate's subject or the list's issuer.
const fn kind(file: ExpiringFile) -> &'static str {
    match file {
        ExpiringFile::Certificate => "the certificate of",
        ExpiringFile::Authorities => "the authority",
        ExpiringFile::Revoked => "the revocation list of",
    }
}

/// Returns what follows from an alarm or, for a warning, from the expiry, and what to do.
const fn advice(file: ExpiringFile, alarm: Option<TlsAlarm>) -> &'static str {
    match alarm {
        None => match file {
            ExpiringFile::Certificate => "replace it before clients refuse to connect",
            // webpki takes an authority as given and checks only the certificates below it.
            ExpiringFile::Authorities => {
                "replace it, and the clients' certificates that it has signed"
            }
            ExpiringFile::Revoked => {
                "replace it before the edge refuses the clients with certificates of its authority"
            }
        },
        Some(TlsAlarm::CertificateExpired) => "clients refuse to connect until it is replaced",
        Some(TlsAlarm::RevokedExpired) => {
            "the edge refuses every client with a certificate of its authority until the list is \
             replaced"
        }
        Some(TlsAlarm::AuthoritiesExpired) => {
            "the edge still accepts certificates that it has signed; replace it, or remove it from \
             the file"
        }
        Some(
            TlsAlarm::CertificateNotYetValid
            | TlsAlarm::AuthoritiesNotYetValid
            | TlsAlarm::ReloadFailed,
        ) => "check this host's clock, and whether it is the right file",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
    use tickstorm_testkit::CertificateAuthority;

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

    /// Returns the state of a file, and what is found in it.
    fn found(summary: FileSummary) -> (TlsState, Vec<FileFinding>) {
        let state = TlsState::new(ClientAuth::RequireVerify, vec![summary], now());
        let found = state.findings(now());
        (state, found)
    }

    /// Returns what is found in a chain whose intermediate authority is valid from and until these
    /// seconds from now.
    fn chain_valid(from_s: i64, until_s: i64) -> (TlsState, Vec<FileFinding>) {
        let at = |offset_s| NOW_S.checked_add_signed(offset_s).unwrap();
        let root = CertificateAuthority::new();
        let middle = root.intermediate("middle", at(from_s)..at(until_s));
        let leaf = middle.issue_valid("edge.test", 0..NOW_S + 1_000 * DAY_S);
        let chain = [der(&leaf.certificate), der(middle.certificate())];
        found(FileSummary::of_chain(Path::new("edge.crt"), &chain).unwrap())
    }

    const DAY: i64 = DAY_S.cast_signed();

    #[test]
    fn a_chain_is_valid_as_long_as_all_of_its_certificates() {
        for (from_s, until_s, alarm, text) in [
            (-DAY, 14 * DAY, None, ""),
            (
                -DAY,
                14 * DAY - 1,
                None,
                "expires in 13 days, at 2033-06-01T03:33:19Z",
            ),
            (-DAY, DAY, None, "expires in 1 day,"),
            (0, 0, None, "expires in less than a day,"),
            (
                -DAY,
                -1,
                Some(TlsAlarm::CertificateExpired),
                "expired at 2033-05-18T03:33:19Z; clients refuse",
            ),
            (
                1,
                DAY,
                Some(TlsAlarm::CertificateNotYetValid),
                "is not valid before 2033-05-18T03:33:21Z; check",
            ),
        ] {
            let (state, found) = chain_valid(from_s, until_s);
            assert_eq!(state.files()[0].seconds_left(now()), Some(until_s));
            let status = state.status(now());
            assert_eq!(status["certificate"]["days_left"], until_s.div_euclid(DAY));
            assert_eq!(status["certificate"]["expires_first"], "CN=middle");
            assert_eq!(status["certificate"]["subject"], "CN=edge.test");
            for any in TlsAlarm::ALL {
                assert_eq!(state.is_raised(any, now()), Some(any) == alarm, "{any:?}");
            }
            assert!(found.len() <= 1, "{found:?}");
            let Some(found) = found.first() else {
                assert_eq!(text, "", "nothing is found");
                assert_eq!(status["alarms"], json!([]));
                assert_eq!(status["warnings"], json!([]));
                continue;
            };
            assert_eq!(found.alarm, alarm);
            let start = "TLS_CERT_FILE=edge.crt: the certificate of CN=middle ";
            let rest = found.text.strip_prefix(start).unwrap();
            assert!(!text.is_empty() && rest.starts_with(text), "{rest}");
            match alarm {
                Some(alarm) => {
                    assert_eq!(status["alarms"][0]["reason"], alarm.label());
                    let sentence = format!("{}.", found.text);
                    assert_eq!(status["alarms"][0]["message"], sentence);
                }
                None => assert_eq!(status["warnings"][0], *found.text),
            }
        }
    }

    fn list(
        authority: &CertificateAuthority,
        until_s: u64,
    ) -> CertificateRevocationListDer<'static> {
        let list = authority.revoke_until(&[], until_s);
        CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap()
    }

    /// Returns the texts of the alarms and of the warnings in /status.
    fn shown(state: &TlsState) -> (Vec<String>, Vec<String>) {
        let status = state.status(now());
        let texts = |list: &str, pointer: &str| -> Vec<String> {
            let entries = status[list].as_array().unwrap().iter();
            let texts = entries.map(|entry| entry.pointer(pointer).unwrap().as_str());
            texts.map(|text| text.unwrap().to_owned()).collect()
        };
        let alarms = texts("alarms", "/message");
        assert!(
            alarms.iter().all(|alarm| alarm.ends_with('.')),
            "{alarms:?}"
        );
        (alarms, texts("warnings", ""))
    }

    #[test]
    fn files_that_cannot_be_used_are_an_alarm_with_the_reason() {
        let (mut state, _) = chain_valid(-DAY, 100 * DAY);
        state.set_reload_error(Some("no key".to_owned()));
        let expected = "The files can't be used, so earlier ones stay in use: no key.";
        assert_eq!(shown(&state).0, [expected]);
    }

    #[test]
    fn each_authority_and_each_list_that_expires_is_found_and_the_first_one_counts() {
        let valid_days = |days: i64| 0..NOW_S.checked_add_signed(days * DAY).unwrap();
        let authorities = [
            CertificateAuthority::new(),
            CertificateAuthority::named("soon", valid_days(3)),
            CertificateAuthority::named("old", valid_days(-1)),
            CertificateAuthority::named("older", valid_days(-2)),
        ];
        let bundle: Vec<_> = authorities
            .iter()
            .map(|authority| der(authority.certificate()))
            .collect();
        let path = Path::new("ca.pem");
        let (state, listed) = found(FileSummary::of_authorities(path, &bundle));
        assert_eq!(listed.len(), 3, "{listed:?}");
        let (alarms, warnings) = shown(&state);
        assert_eq!((alarms.len(), warnings.len()), (2, 1));
        assert!(
            alarms[0].contains("the authority CN=older expired"),
            "{alarms:?}"
        );
        assert!(
            alarms[1].contains("the authority CN=old expired"),
            "{alarms:?}"
        );
        assert!(
            warnings[0].contains("CN=soon expires in 3 days"),
            "{warnings:?}"
        );
        assert!(state.is_raised(TlsAlarm::AuthoritiesExpired, now()));
        assert_eq!(state.status(now())["ca"]["days_left"], -2);
        let [new, .., old, _] = &authorities;
        let lists = [list(new, NOW_S + 100 * DAY_S), list(old, NOW_S - DAY_S)];
        let path = Path::new("crl.pem");
        let (state, listed) = found(FileSummary::of_lists(path, &lists));
        assert_eq!(listed[0].alarm, Some(TlsAlarm::RevokedExpired));
        let text = &listed[0].text;
        assert!(text.contains("the edge refuses every client"), "{text}");
        assert_eq!(state.status(now())["crl"]["days_left"], -1);
        let (_, valid) = found(FileSummary::of_lists(path, &lists[..1]));
        assert!(valid.is_empty(), "{valid:?}");
    }

    #[test]
    fn a_large_bundle_of_expired_authorities_is_cut_and_the_rest_is_counted() {
        let old = CertificateAuthority::named("old", 0..NOW_S - DAY_S);
        let bundle = vec![der(old.certificate()); FINDINGS_MAX + 7];
        let (state, _) = found(FileSummary::of_authorities(Path::new("ca.pem"), &bundle));
        let (alarms, warnings) = shown(&state);
        assert_eq!(alarms.len(), FINDINGS_MAX);
        let expected = "TLS_CA_FILE=ca.pem: further findings that are not shown: 7";
        assert_eq!(warnings, [expected]);
    }

    #[test]
    fn what_only_rustls_can_parse_is_a_warning() {
        let authority = CertificateAuthority::new();
        let bundle = [vec![1, 2, 3].into(), der(authority.certificate())];
        let (state, _) = found(FileSummary::of_authorities(Path::new("ca.pem"), &bundle));
        let (alarms, warnings) = shown(&state);
        assert_eq!(alarms.len(), 0, "{alarms:?}");
        assert_eq!(warnings.len(), 1);
        let expected = "TLS_CA_FILE=ca.pem: certificate number 1 in the file can't be summarised";
        assert!(warnings[0].starts_with(expected), "{warnings:?}");
        assert!(state.files()[0].seconds_left(now()).is_some());
        let lists = [vec![1, 2, 3].into()];
        let (state, _) = found(FileSummary::of_lists(Path::new("crl.pem"), &lists));
        let expected = "TLS_CRL_FILE=crl.pem: revocation list number 1 in the file can't be";
        let (_, warnings) = shown(&state);
        assert!(warnings[0].starts_with(expected), "{warnings:?}");
        assert_eq!(state.files()[0].seconds_left(now()), None);
        assert_eq!(state.status(now())["crl"], json!({ "path": "crl.pem" }));
    }

    #[test]
    fn what_is_not_a_certificate_is_named_by_its_number() {
        let authority = CertificateAuthority::new();
        let chain = [der(authority.certificate()), vec![1, 2, 3].into()];
        let error = FileSummary::of_chain(Path::new("edge.crt"), &chain).unwrap_err();
        let expected = "TLS_CERT_FILE=edge.crt: certificate number 2 in the file can't be parsed";
        assert_eq!(error.to_string(), expected);
    }
}
