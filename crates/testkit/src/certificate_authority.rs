//! An authority for tests, and the certificates that it signs.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Signs certificates; nobody else knows it.
pub struct CertificateAuthority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl CertificateAuthority {
    /// Makes a new authority, which no other one's certificates satisfy.
    ///
    /// # Panics
    /// Where the system gives no randomness.
    #[must_use]
    pub fn new() -> Self {
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of tests");
        let key = key();
        let certificate = params.self_signed(&key).expect("sound parameters").pem();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    /// Its own certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a host's name or address, good for servers and clients.
    ///
    /// # Panics
    /// Where `name` can't stand in a certificate.
    #[must_use]
    pub fn issue(&self, name: &str) -> Certificate {
        let key = key();
        let certificate = params(&[name]).signed_by(&key, &self.issuer);
        Certificate {
            certificate: certificate.expect("sound parameters").pem(),
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
    KeyPair::generate().expect("the system gives randomness")
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).expect("names fit in a certificate")
}
