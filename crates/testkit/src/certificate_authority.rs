//! A certificate authority for tests.

use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};

/// The serial number of the next certificate.
static SERIAL: AtomicU64 = AtomicU64::new(1_000);

/// A certificate authority that only the test knows.
pub struct CertificateAuthority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
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
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let key = key();
        let certificate = params
            .self_signed(&key)
            .expect("the parameters are valid")
            .pem();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
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
        let (key, serial) = (key(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let mut params = params(&[name]);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
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
        let revoked = certificates.iter().map(|certificate| RevokedCertParams {
            serial_number: certificate.serial.into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
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

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).expect("the names are allowed in a certificate")
}
