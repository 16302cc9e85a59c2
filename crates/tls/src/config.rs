//! The configuration of the server's side: TLS 1.3 only, two cipher suites, and no resumption.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{InconsistentKeys, ServerConfig, SupportedCipherSuite};
use zeroize::Zeroizing;

use crate::short_chains::ShortChains;

/// The cipher suites, in the order of preference.
const CIPHER_SUITES: [SupportedCipherSuite; 2] = [
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// The configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The certificate and key are not usable, or do not belong together.
    #[error("the certificate and key cannot be used: {0}")]
    CertificateAndKey(#[source] rustls::Error),
    /// The provider does not support TLS 1.3.
    #[error("the cipher suites cannot be used: {0}")]
    CipherSuites(#[source] rustls::Error),
}

/// Returns the cryptography of this crate: that of AWS-LC, with the two cipher suites.
#[must_use]
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        ..aws_lc_rs::default_provider()
    }
}

/// Creates the configuration of a server: TLS 1.3 only, without session tickets, early data and
/// ALPN. If there is a `client_verifier`, clients must present a certificate that it accepts, with
/// a short chain. The encoded key is wiped.
///
/// # Errors
/// The certificate and key are not usable, or do not belong together.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, ConfigError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(ConfigError::CipherSuites)?;
    let verifier = match client_verifier {
        Some(verifier) => Arc::new(ShortChains(verifier)),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let certified = certified_key(chain, key).map_err(ConfigError::CertificateAndKey)?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    // The traffic secrets are handed over to `Session`.
    config.enable_secret_extraction = true;
    // Resumption would keep secrets in memory for longer than their connections.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Does the same as `CertifiedKey::from_der` in rustls, but wipes the encoded key.
fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let key = Zeroizing::new(key);
    let certified = CertifiedKey::new(chain, any_supported_type(&key)?);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}
