//! The metrics of TLS, and the results of its handshakes.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, Registry};
use tickstorm_service::metrics::{RegisterError, counters, histogram};

const HANDSHAKE_BUCKETS_S: [f64; 11] = [
    1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// The metrics of TLS.
#[derive(Clone)]
pub(crate) struct TlsMetrics {
    handshakes: [IntCounter; HandshakeResult::ALL.len()],
    handshake_seconds: Histogram,
}

impl TlsMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let handshakes = counters(
            registry,
            "tickstorm_tls_handshakes_total",
            "TLS handshakes that have ended, by result.",
            &["result"],
        )?;
        let results = HandshakeResult::ALL.map(HandshakeResult::label);
        Ok(Self {
            handshakes: results.map(|result| handshakes.with_label_values(&[result])),
            handshake_seconds: histogram(
                registry,
                "tickstorm_tls_handshake_seconds",
                "Time from the first byte of a TLS handshake to its completion.",
                &HANDSHAKE_BUCKETS_S,
            )?,
        })
    }

    /// Counts a handshake that was completed within `time`.
    pub(crate) fn count_completed(&self, time: Duration) {
        self.count_handshake(HandshakeResult::Completed);
        self.handshake_seconds.observe(time.as_secs_f64());
    }

    /// Counts a handshake that has ended.
    pub(crate) fn count_handshake(&self, result: HandshakeResult) {
        self.handshakes[result as usize].inc();
    }
}

/// The result of a TLS handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandshakeResult {
    Completed,
    /// The client presented no certificate although it must.
    CertificateMissing,
    /// No authority in TLS_CA_FILE has signed the client's certificate.
    UnknownAuthority,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateRevoked,
    /// The certificate is not for clients.
    CertificateWrongPurpose,
    /// The revocation list of the certificate's authority has expired.
    RevocationListExpired,
    /// TLS_CRL_FILE has no revocation list of the certificate's authority.
    RevocationListMissing,
    /// The certificate is not valid for another reason.
    CertificateInvalid,
    /// The client closed the connection, did not finish in time, or sent an alert.
    Abandoned,
    /// The client does not support TLS 1.3, or none of the cipher suites, groups and signatures.
    Incompatible,
    /// Anything else, such as plain text.
    Failed,
}

impl HandshakeResult {
    /// All results, in declaration order.
    pub(crate) const ALL: [Self; 13] = [
        Self::Completed,
        Self::CertificateMissing,
        Self::UnknownAuthority,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateRevoked,
        Self::CertificateWrongPurpose,
        Self::RevocationListExpired,
        Self::RevocationListMissing,
        Self::CertificateInvalid,
        Self::Abandoned,
        Self::Incompatible,
        Self::Failed,
    ];

    /// Returns the value of the label `result`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::CertificateMissing => "certificate_missing",
            Self::UnknownAuthority => "unknown_authority",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateWrongPurpose => "certificate_wrong_purpose",
            Self::RevocationListExpired => "crl_expired",
            Self::RevocationListMissing => "crl_missing",
            Self::CertificateInvalid => "certificate_invalid",
            Self::Abandoned => "abandoned",
            Self::Incompatible => "incompatible",
            Self::Failed => "failed",
        }
    }

    /// Returns whether the edge has refused the client's certificate, or the lack of one.
    pub(crate) const fn is_refusal(self) -> bool {
        match self {
            Self::CertificateMissing
            | Self::UnknownAuthority
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::CertificateRevoked
            | Self::CertificateWrongPurpose
            | Self::RevocationListExpired
            | Self::RevocationListMissing
            | Self::CertificateInvalid => true,
            Self::Completed | Self::Abandoned | Self::Incompatible | Self::Failed => false,
        }
    }
}
