//! [`ShortChains`]: bounds on the chain of certificates that a client presents. Without them one
//! handshake can take a third of a second: webpki tries every path through the intermediate
//! certificates, and a dozen that could each have signed all others make more paths than it stops
//! at. rustls also keeps the whole chain for as long as the connection lives.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// The most intermediate certificates of a chain, through which at most 15 paths lead. Authorities
/// for clients use one or two.
const INTERMEDIATES_MAX: usize = 3;
/// The longest chain in bytes. A certificate with an RSA key of 4,096 bits takes less than 2 KiB.
const CHAIN_BYTES_MAX: usize = 8 * 1024;

/// A verifier that refuses long chains without looking at them.
#[derive(Debug)]
pub(crate) struct ShortChains(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ShortChains {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let others: usize = intermediates.iter().map(|each| each.len()).sum();
        if intermediates.len() > INTERMEDIATES_MAX || end_entity.len() + others > CHAIN_BYTES_MAX {
            let error = CertificateError::ApplicationVerificationFailure;
            return Err(error.into());
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts every chain within the bounds, and panics at any other.
    #[derive(Debug)]
    struct WithinBounds;

    impl ClientCertVerifier for WithinBounds {
        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            &[]
        }

        fn verify_client_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            intermediates: &[CertificateDer<'_>],
            _now: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            let certificates = intermediates.iter().chain([end_entity]);
            let bytes: usize = certificates.map(|each| each.len()).sum();
            assert!(intermediates.len() <= 3 && bytes <= 8_192, "{bytes} bytes");
            Ok(ClientCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            unreachable!("only TLS 1.3 is spoken")
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    #[test]
    fn a_chain_that_is_too_long_never_reaches_the_verifier_and_a_shorter_one_does() {
        let verifier = ShortChains(Arc::new(WithinBounds));
        let certificate = |len| CertificateDer::from(vec![0x30; len]);
        let verify = |end_entity, intermediates: &[usize]| {
            let intermediates: Vec<_> = intermediates.iter().copied().map(certificate).collect();
            let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
            verifier.verify_client_cert(&certificate(end_entity), &intermediates, now)
        };
        for accepted in [&[][..], &[500; 3], &[2_500, 2_500, 2_192]] {
            assert!(verify(1_000, accepted).is_ok(), "{accepted:?}");
        }
        for refused in [&[1; 4][..], &[1; 5_000], &[2_500, 2_500, 2_193], &[20_000]] {
            let error = verify(1_000, refused).unwrap_err();
            let expected = CertificateError::ApplicationVerificationFailure;
            assert_eq!(error, Error::from(expected), "{} others", refused.len());
        }
    }
}
