//! [`FileSummary`]: what an operator sees of a file of certificates or revocation lists: when each
//! of them becomes valid and expires, and which certificate the daemon presents. Only rustls
//! decides whether a file can be used; what can't be summarised is listed as such.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use serde_json::{Value, json};
use tickstorm_timebase::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

/// The time before its expiry from which a file needs attention.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
const DAY_S: i64 = 86_400;

/// A file of TLS that expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiringFile {
    /// The setting that names the file, which is also its name in the metric.
    pub setting: &'static str,
    /// What it contains.
    pub content: FileContent,
    /// What to do before it expires: a clause without its full stop.
    pub before_expiry: &'static str,
    /// What follows from its expiry, and what to do then: a clause without its full stop.
    pub after_expiry: &'static str,
}

/// What a file of TLS contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// The certificate that the daemon presents, and those of its intermediate authorities.
    Chain,
    /// The authorities that sign the other side's certificates.
    Authorities,
    /// Lists of certificates that are no longer valid.
    RevocationLists,
}

impl FileContent {
    /// Returns the name of the file's section in /status.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Chain => "certificate",
            Self::Authorities => "ca",
            Self::RevocationLists => "crl",
        }
    }
}

/// Whether a certificate or revocation list is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    NotYetValid,
    Valid,
    /// Valid, but not for long.
    ExpiresSoon,
    Expired,
}

/// The time for which a certificate or revocation list is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ValidityPeriod {
    /// The subject of the certificate, or the issuer of the list.
    pub(super) of: String,
    /// `None` for a revocation list, which is used even before its `thisUpdate`.
    pub(super) starts: Option<ASN1Time>,
    pub(super) ends: ASN1Time,
}

/// What an operator sees of one file.
#[derive(Clone, Debug)]
pub struct FileSummary {
    pub(super) file: ExpiringFile,
    pub(super) path: PathBuf,
    /// One period for each certificate or list, the one that ends first at the start.
    pub(super) periods: Vec<ValidityPeriod>,
    /// The numbers, from 1, of the certificates or lists whose period is unknown.
    pub(super) unknown: Vec<usize>,
    /// The certificate that the daemon presents.
    own: Option<OwnCertificate>,
}

/// What identifies the certificate that the daemon presents.
#[derive(Clone, Debug)]
struct OwnCertificate {
    subject: String,
    serial: String,
    /// The names and addresses for which it is valid.
    names: Vec<String>,
}

impl ValidityPeriod {
    fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let validity = parsed.validity();
        Some(Self {
            of: parsed.subject().to_string(),
            starts: Some(validity.not_before),
            ends: validity.not_after,
        })
    }

    fn of_list(list: &CertificateRevocationListDer<'_>) -> Option<Self> {
        let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
        Some(Self {
            of: parsed.issuer().to_string(),
            starts: None,
            ends: parsed.next_update()?,
        })
    }

    fn seconds_left(&self, now: UnixTime) -> i64 {
        self.ends.timestamp().saturating_sub(seconds(now))
    }

    /// Returns the whole days until the end, negative after it.
    pub(super) fn days_left(&self, now: UnixTime) -> i64 {
        self.seconds_left(now).div_euclid(DAY_S)
    }

    pub(super) fn validity(&self, now: UnixTime) -> Validity {
        let left_s = self.seconds_left(now);
        let starts = self.starts.as_ref();
        if left_s < 0 {
            Validity::Expired
        } else if starts.is_some_and(|starts| seconds(now) < starts.timestamp()) {
            Validity::NotYetValid
        } else if left_s.unsigned_abs() < EXPIRES_SOON.as_secs() {
            Validity::ExpiresSoon
        } else {
            Validity::Valid
        }
    }
}

impl FileSummary {
    /// Summarises the certificates in a file. The first one of a chain is the one that the daemon
    /// presents.
    #[must_use]
    pub fn of_certificates(
        file: ExpiringFile,
        path: &Path,
        certificates: &[CertificateDer<'_>],
    ) -> Self {
        let periods = certificates.iter().map(ValidityPeriod::of_certificate);
        let mut summary = Self::new(file, path, periods);
        if file.content == FileContent::Chain {
            let first = certificates.first();
            let first = first.and_then(|first| X509Certificate::from_der(first).ok());
            summary.own = first.map(|(_, certificate)| OwnCertificate::of(&certificate));
        }
        summary
    }

    /// Summarises the revocation lists in a file.
    #[must_use]
    pub fn of_lists(
        file: ExpiringFile,
        path: &Path,
        lists: &[CertificateRevocationListDer<'_>],
    ) -> Self {
        let periods = lists.iter().map(ValidityPeriod::of_list);
        Self::new(file, path, periods)
    }

    fn new(
        file: ExpiringFile,
        path: &Path,
        periods: impl Iterator<Item = Option<ValidityPeriod>>,
    ) -> Self {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (number, period) in (1..).zip(periods) {
            match period {
                Some(period) => known.push(period),
                None => unknown.push(number),
            }
        }
        known.sort_by_key(|period| period.ends);
        Self {
            file,
            path: path.to_owned(),
            periods: known,
            unknown,
            own: None,
        }
    }

    /// Returns the file.
    #[must_use]
    pub const fn file(&self) -> ExpiringFile {
        self.file
    }

    /// Returns the numbers, from 1, of the certificates or lists whose validity is unknown.
    #[must_use]
    pub fn unknown(&self) -> &[usize] {
        &self.unknown
    }

    /// Returns the seconds until the first certificate or list in the file expires, negative after
    /// that; `None` if no period is known.
    #[must_use]
    pub fn seconds_left(&self, now: UnixTime) -> Option<i64> {
        Some(self.periods.first()?.seconds_left(now))
    }

    /// Returns the file as /status shows it.
    #[must_use]
    pub fn status(&self, now: UnixTime) -> Value {
        let mut status = json!({ "path": self.path.display().to_string() });
        if let Some(first) = self.periods.first() {
            status["not_after"] = date(first.ends).into();
            status["expires_first"] = (*first.of).into();
            status["days_left"] = first.days_left(now).into();
        }
        let starts = self.periods.iter().filter_map(|period| period.starts);
        if let Some(starts) = starts.max() {
            status["not_before"] = date(starts).into();
        }
        if let Some(own) = &self.own {
            status["subject"] = (*own.subject).into();
            status["serial"] = (*own.serial).into();
            status["names"] = own.names.clone().into();
        }
        status
    }
}

impl OwnCertificate {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let names = alternative
            .iter()
            .flat_map(|names| &names.value.general_names);
        Self {
            subject: certificate.subject().to_string(),
            serial: certificate.raw_serial_as_string(),
            names: names.map(name).collect(),
        }
    }
}

fn name(name: &GeneralName<'_>) -> String {
    if let GeneralName::DNSName(name) = name {
        return (*name).to_owned();
    }
    if let GeneralName::IPAddress(address) = *name {
        if let Ok(v4) = <[u8; 4]>::try_from(address) {
            return Ipv4Addr::from(v4).to_string();
        }
        if let Ok(v6) = <[u8; 16]>::try_from(address) {
            return Ipv6Addr::from(v6).to_string();
        }
    }
    name.to_string()
}

/// Returns the whole seconds since the start of 1970, rounded down.
fn seconds(time: UnixTime) -> i64 {
    time.as_millis().div_euclid(1_000)
}

/// Writes a moment as in RFC 3339.
pub(super) fn date(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Writes a moment of the host's clock as in RFC 3339.
#[must_use]
pub fn date_of(time: UnixTime) -> String {
    ASN1Time::from_timestamp(seconds(time)).map_or_else(|_| String::new(), date)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;
    use tickstorm_testkit::CertificateAuthority;

    use super::*;

    #[test]
    fn all_names_of_the_presented_certificate_are_shown() {
        let names = ["edge.test", "192.0.2.1", "2001:db8::1"];
        let issued = CertificateAuthority::new().issue_for("edge", &names, &[]);
        let chain = [CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
        let file = ExpiringFile {
            setting: "TLS_CERT_FILE",
            content: FileContent::Chain,
            before_expiry: "replace it",
            after_expiry: "replace it",
        };
        let summary = FileSummary::of_certificates(file, Path::new("edge.crt"), &chain);
        let status = summary.status(UnixTime::from_nanos(0));
        assert_eq!(status["names"], json!(names), "{status}");
    }
}
