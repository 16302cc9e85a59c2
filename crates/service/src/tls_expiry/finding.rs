//! What operators must know of files that expire. The log and /status are made from it.

use tickstorm_timebase::UnixTime;

use super::summary::{ExpiringFile, FileContent, FileSummary, Validity, ValidityPeriod, date};

/// The maximum number of findings that are shown for a file. A bundle may contain any number of
/// authorities, all of which expire some day.
const FINDINGS_MAX: usize = 32;

/// A reason for which a file needs attention now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAlarm {
    /// A certificate that the daemon presents has expired.
    CertificateExpired,
    /// A certificate that the daemon presents is valid only later.
    CertificateNotYetValid,
    /// An authority has expired.
    AuthoritiesExpired,
    /// An authority is valid only later.
    AuthoritiesNotYetValid,
    /// A revocation list has expired.
    RevokedExpired,
}

impl FileAlarm {
    /// Returns the name of the reason, as the log and `tickstorm_tls_alarm` show it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::AuthoritiesExpired => "ca_expired",
            Self::AuthoritiesNotYetValid => "ca_not_yet_valid",
            Self::RevokedExpired => "crl_expired",
        }
    }
}

/// Something that an operator should know of a file, or of a certificate or revocation list in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFinding {
    /// The alarm; `None` if it is only a warning.
    pub alarm: Option<FileAlarm>,
    /// What the finding is about: two with the same alarm and subject are the same finding, on
    /// different days.
    pub about: String,
    /// What is wrong, what follows from it, and what to do: a sentence without its full stop.
    pub text: String,
}

/// Returns what is wrong with the files, or soon will be.
#[must_use]
pub fn findings(files: &[FileSummary], now: UnixTime) -> Vec<FileFinding> {
    let files = files.iter();
    files.flat_map(|file| findings_of(file, now)).collect()
}

/// Returns whether an alarm is raised for one of the files.
#[must_use]
pub fn is_raised(files: &[FileSummary], alarm: FileAlarm, now: UnixTime) -> bool {
    let mut alarms = files.iter().flat_map(|file| {
        let periods = file.periods.iter();
        periods.map(|period| alarm_of(file.file.content, period.validity(now)))
    });
    alarms.any(|raised| raised == Some(alarm))
}

/// Returns what is wrong with a file, the most urgent first.
fn findings_of(file: &FileSummary, now: UnixTime) -> Vec<FileFinding> {
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
    let alarm = alarm_of(file.file.content, validity);
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
    let (kind, of, date) = (kind(file.file.content), &period.of, date(at));
    let (file_name, advice) = (file_name(file), advice(file.file, alarm));
    Some(FileFinding {
        alarm,
        about: format!("{file_name}: {kind} {of}, {date}"),
        text: format!("{file_name}: {kind} {of} {what} {date}; {advice}"),
    })
}

/// Returns the finding about an entry of a file that rustls uses, but whose validity is unknown.
fn unknown(file: &FileSummary, number: usize) -> FileFinding {
    let (file_name, noun) = (file_name(file), noun(file.file.content));
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
    format!("{}={}", file.file.setting, file.path.display())
}

const fn alarm_of(content: FileContent, validity: Validity) -> Option<FileAlarm> {
    match validity {
        Validity::Valid | Validity::ExpiresSoon => None,
        Validity::Expired => Some(expired(content)),
        Validity::NotYetValid => not_yet_valid(content),
    }
}

const fn expired(content: FileContent) -> FileAlarm {
    match content {
        FileContent::Chain => FileAlarm::CertificateExpired,
        FileContent::Authorities => FileAlarm::AuthoritiesExpired,
        FileContent::RevocationLists => FileAlarm::RevokedExpired,
    }
}

const fn not_yet_valid(content: FileContent) -> Option<FileAlarm> {
    match content {
        FileContent::Chain => Some(FileAlarm::CertificateNotYetValid),
        FileContent::Authorities => Some(FileAlarm::AuthoritiesNotYetValid),
        FileContent::RevocationLists => None,
    }
}

const fn noun(content: FileContent) -> &'static str {
    match content {
        FileContent::Chain | FileContent::Authorities => "certificate",
        FileContent::RevocationLists => "revocation list",
    }
}

/// Returns what precedes the name of the certificate's subject or the list's issuer.
const fn kind(content: FileContent) -> &'static str {
    match content {
        FileContent::Chain => "the certificate of",
        FileContent::Authorities => "the authority",
        FileContent::RevocationLists => "the revocation list of",
    }
}

/// Returns what follows from an alarm or, for a warning, from the expiry, and what to do.
const fn advice(file: ExpiringFile, alarm: Option<FileAlarm>) -> &'static str {
    match alarm {
        None => file.before_expiry,
        Some(
            FileAlarm::CertificateExpired
            | FileAlarm::AuthoritiesExpired
            | FileAlarm::RevokedExpired,
        ) => file.after_expiry,
        Some(FileAlarm::CertificateNotYetValid | FileAlarm::AuthoritiesNotYetValid) => {
            "check this host's clock, and whether it is the right file"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
    use tickstorm_testkit::CertificateAuthority;

    use super::*;

    const DAY_S: u64 = 86_400;
    const DAY: i64 = DAY_S.cast_signed();
    /// A moment in 2033, in seconds of Unix time.
    const NOW_S: u64 = 2_000_000_000;

    fn now() -> UnixTime {
        UnixTime::from_nanos(i64::try_from(NOW_S).unwrap() * 1_000_000_000)
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn file(setting: &'static str, content: FileContent) -> ExpiringFile {
        ExpiringFile {
            setting,
            content,
            before_expiry: "replace it before that",
            after_expiry: "replace it at once",
        }
    }

    fn certificates(content: FileContent, certificates: &[CertificateDer<'_>]) -> Vec<FileSummary> {
        let (file, path) = (file("A_FILE", content), Path::new("a.pem"));
        vec![FileSummary::of_certificates(file, path, certificates)]
    }

    fn lists(lists: &[CertificateRevocationListDer<'_>]) -> Vec<FileSummary> {
        let file = file("CRL_FILE", FileContent::RevocationLists);
        vec![FileSummary::of_lists(file, Path::new("crl.pem"), lists)]
    }

    /// Returns the files with a chain whose intermediate authority is valid from and until these
    /// seconds from now.
    fn chain_valid(from_s: i64, until_s: i64) -> Vec<FileSummary> {
        let at = |offset_s| NOW_S.checked_add_signed(offset_s).unwrap();
        let root = CertificateAuthority::new();
        let middle = root.intermediate("middle", at(from_s)..at(until_s));
        let leaf = middle.issue_valid("edge.test", 0..NOW_S + 1_000 * DAY_S);
        let chain = [der(&leaf.certificate), der(middle.certificate())];
        certificates(FileContent::Chain, &chain)
    }

    const ALL: [FileAlarm; 5] = [
        FileAlarm::CertificateExpired,
        FileAlarm::CertificateNotYetValid,
        FileAlarm::AuthoritiesExpired,
        FileAlarm::AuthoritiesNotYetValid,
        FileAlarm::RevokedExpired,
    ];

    #[test]
    fn a_chain_is_valid_as_long_as_all_of_its_certificates() {
        for (from_s, until_s, alarm, text) in [
            (-DAY, 14 * DAY, None, ""),
            (
                -DAY,
                14 * DAY - 1,
                None,
                "expires in 13 days, at 2033-06-01T03:33:19Z; replace it before that",
            ),
            (-DAY, DAY, None, "expires in 1 day,"),
            (0, 0, None, "expires in less than a day,"),
            (
                -DAY,
                -1,
                Some(FileAlarm::CertificateExpired),
                "expired at 2033-05-18T03:33:19Z; replace it at once",
            ),
            (
                1,
                DAY,
                Some(FileAlarm::CertificateNotYetValid),
                "is not valid before 2033-05-18T03:33:21Z; check",
            ),
        ] {
            let files = chain_valid(from_s, until_s);
            assert_eq!(files[0].seconds_left(now()), Some(until_s));
            let status = files[0].status(now());
            assert_eq!(status["days_left"], until_s.div_euclid(DAY));
            assert_eq!(status["expires_first"], "CN=middle");
            assert_eq!(status["subject"], "CN=edge.test");
            for any in ALL {
                assert_eq!(is_raised(&files, any, now()), Some(any) == alarm, "{any:?}");
            }
            let found = findings(&files, now());
            assert!(found.len() <= 1, "{found:?}");
            let Some(found) = found.first() else {
                assert_eq!(text, "", "nothing is found");
                continue;
            };
            assert_eq!(found.alarm, alarm);
            let start = "A_FILE=a.pem: the certificate of CN=middle ";
            let rest = found.text.strip_prefix(start).unwrap();
            assert!(!text.is_empty() && rest.starts_with(text), "{rest}");
        }
    }

    fn list(
        authority: &CertificateAuthority,
        until_s: u64,
    ) -> CertificateRevocationListDer<'static> {
        let list = authority.revoke_until(&[], until_s);
        CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap()
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
        let files = certificates(FileContent::Authorities, &bundle);
        let found = findings(&files, now());
        let texts: Vec<_> = found.iter().map(|found| &*found.text).collect();
        let [older, old, soon] = &texts[..] else {
            panic!("{texts:?}");
        };
        assert!(older.contains("the authority CN=older expired"), "{older}");
        assert!(old.contains("the authority CN=old expired"), "{old}");
        assert!(soon.contains("CN=soon expires in 3 days"), "{soon}");
        let alarms: Vec<_> = found.iter().map(|found| found.alarm).collect();
        let expired = Some(FileAlarm::AuthoritiesExpired);
        assert_eq!(alarms, [expired, expired, None]);
        assert!(is_raised(&files, FileAlarm::AuthoritiesExpired, now()));
        assert_eq!(files[0].status(now())["days_left"], -2);
        let [new, .., old, _] = &authorities;
        let both = [list(new, NOW_S + 100 * DAY_S), list(old, NOW_S - DAY_S)];
        let files = lists(&both);
        let found = findings(&files, now());
        assert_eq!(found[0].alarm, Some(FileAlarm::RevokedExpired));
        assert_eq!(files[0].status(now())["days_left"], -1);
        assert_eq!(findings(&lists(&both[..1]), now()), []);
    }

    #[test]
    fn a_large_bundle_of_expired_authorities_is_cut_and_the_rest_is_counted() {
        let old = CertificateAuthority::named("old", 0..NOW_S - DAY_S);
        let bundle = vec![der(old.certificate()); FINDINGS_MAX + 7];
        let found = findings(&certificates(FileContent::Authorities, &bundle), now());
        let (last, shown) = found.split_last().unwrap();
        assert_eq!(shown.len(), FINDINGS_MAX);
        assert!(shown.iter().all(|found| found.alarm.is_some()));
        assert_eq!(
            last.text,
            "A_FILE=a.pem: further findings that are not shown: 7"
        );
        assert_eq!(last.alarm, None);
    }

    #[test]
    fn what_only_rustls_can_parse_is_a_warning() {
        let authority = CertificateAuthority::new();
        let bundle = [vec![1, 2, 3].into(), der(authority.certificate())];
        let files = certificates(FileContent::Authorities, &bundle);
        let found = findings(&files, now());
        let [warning] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(warning.alarm, None);
        let expected = "A_FILE=a.pem: certificate number 1 in the file can't be summarised";
        assert!(warning.text.starts_with(expected), "{warning:?}");
        assert!(files[0].seconds_left(now()).is_some());
        assert_eq!(files[0].unknown(), [1]);
        let files = lists(&[vec![1, 2, 3].into()]);
        let found = findings(&files, now());
        let expected = "CRL_FILE=crl.pem: revocation list number 1 in the file can't be";
        assert!(found[0].text.starts_with(expected), "{found:?}");
        assert_eq!(files[0].seconds_left(now()), None);
        let expected = serde_json::json!({ "path": "crl.pem" });
        assert_eq!(files[0].status(now()), expected);
    }
}
