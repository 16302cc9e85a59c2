//! A certificate authority for tests.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

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
        let key = key();
        let certificate = params(&[name]).signed_by(&key, &self.issuer);
        Certificate {
            certificate: certificate.expect("the parameters are valid").pem(),
            key: key.serialize_pem(),
        }
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
