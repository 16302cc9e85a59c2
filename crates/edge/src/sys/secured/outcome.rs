//! The result under which a handshake that failed is counted.

use rustls::{CertificateError, Error};
use tickstorm_tls::HandshakeError;

use crate::metrics::HandshakeResult;

pub(super) fn of(error: &HandshakeError) -> HandshakeResult {
    match error {
        HandshakeError::Tls(Error::NoCertificatesPresented) => HandshakeResult::CertificateMissing,
        HandshakeError::Tls(Error::InvalidCertificate(error)) => of_certificate(error),
        HandshakeError::Tls(Error::PeerIncompatible(_)) => HandshakeResult::Incompatible,
        HandshakeError::Tls(Error::AlertReceived(_)) | HandshakeError::Closed => {
            HandshakeResult::Abandoned
        }
        HandshakeError::Tls(_)
        | HandshakeError::InvalidRecord
        | HandshakeError::TooMuchInput { .. }
        | HandshakeError::Ended => HandshakeResult::Failed,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not named here is rare, and rustls may add to it"
)]
fn of_certificate(error: &CertificateError) -> HandshakeResult {
    match error {
        // The signature is wrong if another authority has the same name as a known one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            HandshakeResult::UnknownAuthority
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            HandshakeResult::CertificateExpired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            HandshakeResult::CertificateNotYetValid
        }
        CertificateError::Revoked => HandshakeResult::CertificateRevoked,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            HandshakeResult::CertificateWrongPurpose
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            HandshakeResult::RevocationListExpired
        }
        CertificateError::UnknownRevocationStatus => HandshakeResult::RevocationListMissing,
        _ => HandshakeResult::CertificateInvalid,
    }
}
