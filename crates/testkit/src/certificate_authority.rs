//! A certificate authority for tests.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, date_time_ymd,
};

/// The serial number of the next certificate.
static SERIAL: AtomicU64 = AtomicU64::new(1_000);

/// From 2000 to 2100, in seconds of Unix time.
const VALIDITY: Range<u64> = 946_684_800..4_102_444_800;

/// A certificate authority that only the test knows.
pub struct CertificateAuthority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A purpose that a certificate is valid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUsage {
    /// A server presents it to clients.
    Server,
    /// A client presents it to servers.
    Client,
    /// A purpose with this number that no program knows.
    Unknown(u64),
}

/// A certificate and its key, in PEM.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate, in PEM.
    pub certificate: String,
    /// The private key, in PEM.
    pub key: String,
    /// The serial number.
    pub serial: u64,
}

impl CertificateAuthority {
    /// Creates a new authority. Certificates of other authorities do not verify against it.
    ///
    /// # Panics
    /// Panics if the system has no randomness.
    #[must_use]
    pub fn new() -> Self {
        Self::named("test authority", VALIDITY)
    }

    /// Creates a new authority with this name, whose own certificate is valid for a range of
    /// seconds of Unix time.
    ///
    /// # Panics
    /// Panics if the system has no randomness.
    #[must_use]
    pub fn named(name: &str, valid: Range<u64>) -> Self {
        let (params, key) = (authority_params(name, valid), key());
        let certificate = params.self_signed(&key);
        Self {
            certificate: certificate.expect("the parameters are valid").pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Creates an authority that this one has signed.
    ///
    /// # Panics
    /// Panics if the system has no randomness.
    #[must_use]
    pub fn intermediate(&self, name: &str, valid: Range<u64>) -> Self {
        let (params, key) = (authority_params(name, valid), key());
        let certificate = params.signed_by(&key, &self.issuer);
        Self {
            certificate: certificate.expect("the parameters are valid").pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Returns the authority's own certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for a host name or address, valid for servers and clients.
    ///
    /// # Panics
    /// Panics if `name` is not allowed in a certificate.
    #[must_use]
    pub fn issue(&self, name: &str) -> Certificate {
        self.issue_with(name, &[name], VALIDITY, &[])
    }

    /// Issues a certificate that is valid for a range of seconds of Unix time.
    ///
    /// # Panics
    /// Panics if `name` is not allowed in a certificate.
    #[must_use]
    pub fn issue_valid(&self, name: &str, valid: Range<u64>) -> Certificate {
        self.issue_with(name, &[name], valid, &[])
    }

    /// Issues a certificate for a subject with several host names and addresses, valid for `usages`
    /// only, or for all usages if there are none.
    ///
    /// # Panics
    /// Panics if a name is not allowed in a certificate.
    #[must_use]
    pub fn issue_for(
        &self,
        subject: &str,
        names: &[&str],
        usages: &[CertificateUsage],
    ) -> Certificate {
        self.issue_with(subject, names, VALIDITY, usages)
    }

    fn issue_with(
        &self,
        subject: &str,
        names: &[&str],
        valid: Range<u64>,
        usages: &[CertificateUsage],
    ) -> Certificate {
        let (key, serial) = (key(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let mut params = params(names, valid);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        let usages = usages.iter().map(|usage| match usage {
            CertificateUsage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            CertificateUsage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            // Below a number of the range for examples in documentation.
            CertificateUsage::Unknown(number) => {
                ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 32_473, *number])
            }
        });
        params.extended_key_usages = usages.collect();
        params.serial_number = Some(serial.into());
        let certificate = params.signed_by(&key, &self.issuer);
        Certificate {
            certificate: certificate.expect("the parameters are valid").pem(),
            key: key.serialize_pem(),
            serial,
        }
    }

    /// Returns a list that revokes these certificates, in PEM.
    ///
    /// # Panics
    /// Panics if the list can't be signed.
    #[must_use]
    pub fn revoke(&self, certificates: &[&Certificate]) -> String {
        self.revoke_until(certificates, VALIDITY.end)
    }

    /// Returns a list that revokes these certificates, in PEM. The list expires at a moment in
    /// seconds of Unix time.
    ///
    /// # Panics
    /// Panics if the list can't be signed.
    #[must_use]
    pub fn revoke_until(&self, certificates: &[&Certificate], next_update_s: u64) -> String {
        let revoked = certificates.iter().map(|certificate| RevokedCertParams {
            serial_number: certificate.serial.into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(1970, 1, 1) + Duration::from_secs(next_update_s),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("the list is valid");
        list.pem().expect("the list can be encoded")
    }
}

impl Default for CertificateAuthority {
    fn default() -> Self {
        Self::new()
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}

fn params(names: &[&str], valid: Range<u64>) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names);
    let mut params = params.expect("the names are allowed in a certificate");
    // Python insists on this extension.
    params.use_authority_key_identifier_extension = true;
    let start = date_time_ymd(1970, 1, 1);
    params.not_before = start + Duration::from_secs(valid.start);
    params.not_after = start + Duration::from_secs(valid.end);
    params
}

fn authority_params(name: &str, valid: Range<u64>) -> CertificateParams {
    let mut params = params(&[], valid);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
