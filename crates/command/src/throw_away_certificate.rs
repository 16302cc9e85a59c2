//! [`ThrowAwayCertificate`]: a certificate for an edge that this program starts itself, signed by
//! an authority that exists only for that run. The authority's private key is never written, so
//! nobody can issue another certificate in its name.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm, date_time_ymd,
};
use tickstorm_timebase::{HostClock as _, SystemHost};

use crate::private_dir::PrivateDir;

/// The common name of the certificates' subject.
const SUBJECT: &str = "tickstorm throw-away";
/// That of the authority. It is another one, because OpenSSL takes a certificate whose subject and
/// issuer have the same name for self-signed.
const ISSUER: &str = "tickstorm throw-away authority";

const DAY: Duration = Duration::from_secs(86_400);
/// How long before now certificates are valid, for clients with a clock that is slow.
const VALID_BEFORE: Duration = DAY;
/// How long certificates are valid. Edges warn 14 days before the end, so this is more than that by
/// the time of a long run.
const VALID_FOR: Duration = DAY.saturating_mul(30);

const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "edge.pem";
const KEY: &str = "edge.key";
const CLIENT_CERTIFICATE: &str = "client.pem";
const CLIENT_KEY: &str = "client.key";

/// The type of the edge's private key.
#[expect(
    missing_docs,
    reason = "--help would show the documentation of each variant, but the names say enough"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KeyType {
    #[default]
    EcdsaP256,
    #[value(name = "rsa-2048")]
    Rsa2048,
}

impl KeyType {
    /// Returns the name, as it is written on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::Rsa2048 => "rsa-2048",
        }
    }

    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            Self::Rsa2048 => &PKCS_RSA_SHA256,
        }
    }
}

/// Certificates and keys in a directory that only this user can read. The directory is removed when
/// this is dropped.
#[derive(Debug)]
pub struct ThrowAwayCertificate {
    directory: PrivateDir,
}

/// The certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ThrowAwayError {
    /// A name is not allowed in a certificate, or a key could not be generated or used.
    #[error("can't issue a throw-away certificate")]
    Issue(#[from] rcgen::Error),
    /// The directory could not be made, or a file in it could not be written.
    #[error(
        "can't write a throw-away certificate to a directory in {}",
        std::env::temp_dir().display()
    )]
    Write(#[from] io::Error),
}

impl ThrowAwayCertificate {
    /// Creates an authority, a certificate for an edge that clients know by these names or IP
    /// addresses, and a certificate that clients can present to it.
    ///
    /// # Errors
    /// A name is not allowed in a certificate, or the files can't be written.
    pub fn new(names: &[&str], key_type: KeyType) -> Result<Self, ThrowAwayError> {
        let this = Self {
            directory: PrivateDir::new("tickstorm-tls-")?,
        };
        let mut authority = params(&[])?;
        authority
            .distinguished_name
            .push(DnType::CommonName, ISSUER);
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = authority.self_signed(&key)?;
        this.directory.write(AUTHORITY, &certificate.pem())?;
        let issuer = Issuer::new(authority, key);
        let edge = (CERTIFICATE, KEY);
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        this.issue(&issuer, params(names)?, key_type, usage, edge)?;
        let client = (CLIENT_CERTIFICATE, CLIENT_KEY);
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        this.issue(&issuer, params(&[])?, KeyType::EcdsaP256, usage, client)?;
        Ok(this)
    }

    /// Returns the file with the authority's certificate, which clients must trust.
    #[must_use]
    pub fn authority_file(&self) -> PathBuf {
        self.path(AUTHORITY)
    }

    /// Returns the files with the certificate that a client can present, and with its key.
    #[must_use]
    pub fn client_files(&self) -> (PathBuf, PathBuf) {
        (self.path(CLIENT_CERTIFICATE), self.path(CLIENT_KEY))
    }

    /// Returns the settings that make an edge use the certificate. With `client_auth`, clients must
    /// present one of the same authority.
    #[must_use]
    pub fn edge_settings(&self, client_auth: bool) -> Vec<(&'static str, OsString)> {
        let mut settings = vec![
            ("TLS_ENABLED", "true".into()),
            ("TLS_CERT_FILE", self.path(CERTIFICATE).into()),
            ("TLS_KEY_FILE", self.path(KEY).into()),
        ];
        if client_auth {
            settings.extend([
                ("TLS_CLIENT_AUTH", "require_verify".into()),
                ("TLS_CA_FILE", self.authority_file().into()),
            ]);
        }
        settings
    }

    fn issue(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        mut params: CertificateParams,
        key_type: KeyType,
        usage: ExtendedKeyUsagePurpose,
        (certificate_file, key_file): (&str, &str),
    ) -> Result<(), ThrowAwayError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(key_type.algorithm())?;
        let certificate = params.signed_by(&key, issuer)?;
        self.directory.write(certificate_file, &certificate.pem())?;
        self.directory.write(key_file, &key.serialize_pem())?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn params(names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, SUBJECT);
    let unix_ms = SystemHost::default().read().unix.as_millis();
    let since_1970 = Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
    let now = date_time_ymd(1970, 1, 1) + since_1970;
    params.not_before = now - VALID_BEFORE;
    params.not_after = now + VALID_FOR;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_files_vanish_with_the_value() {
        let made = ThrowAwayCertificate::new(&["localhost", "127.0.0.1"], KeyType::EcdsaP256);
        let made = made.unwrap();
        let directory = made.directory.path().to_owned();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 5);
        drop(made);
        assert!(!directory.exists());
    }

    #[test]
    fn only_the_key_of_the_edge_has_the_requested_type() {
        for key_type in KeyType::value_variants() {
            let made = ThrowAwayCertificate::new(&["localhost"], *key_type).unwrap();
            let algorithm = |name| {
                let pem = std::fs::read_to_string(made.path(name)).unwrap();
                KeyPair::from_pem(&pem).unwrap().algorithm()
            };
            assert_eq!(algorithm(KEY), key_type.algorithm());
            assert_eq!(algorithm(CLIENT_KEY), KeyType::EcdsaP256.algorithm());
        }
    }

    #[test]
    fn the_settings_name_files_that_exist() {
        let made = ThrowAwayCertificate::new(&["localhost"], KeyType::EcdsaP256).unwrap();
        for client_auth in [false, true] {
            let settings = made.edge_settings(client_auth);
            let files = settings.iter().filter(|(name, _)| name.ends_with("_FILE"));
            for (name, file) in files {
                assert!(Path::new(file).is_file(), "{name}");
            }
            let has_authority = settings.iter().any(|(name, _)| *name == "TLS_CA_FILE");
            assert_eq!(has_authority, client_auth);
        }
    }

    #[test]
    fn a_name_that_no_certificate_can_have_is_an_error() {
        let error = ThrowAwayCertificate::new(&["bücher"], KeyType::EcdsaP256).unwrap_err();
        assert!(matches!(error, ThrowAwayError::Issue(_)), "{error}");
    }
}
