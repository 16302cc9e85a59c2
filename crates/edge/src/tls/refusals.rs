//! [`Refusals`]: limits how often refused client certificates are logged, since anyone can
//! present one.

use std::sync::{Mutex, PoisonError};

use tickstorm_timebase::Mono;

use crate::log_limit::LogLimit;
use crate::metrics::HandshakeResult;

/// The refusals of all shards.
#[derive(Default)]
pub(crate) struct Refusals {
    by_result: Mutex<[LogLimit; HandshakeResult::ALL.len()]>,
}

impl Refusals {
    /// Notes a refusal. If it may be logged, returns the number of earlier ones for the same reason
    /// that were not.
    pub(crate) fn note(&self, result: HandshakeResult, now: Mono) -> Option<u64> {
        let mut by_result = self
            .by_result
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        by_result[result as usize].note(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ten_refusals_a_minute_are_logged_for_each_reason_and_the_others_are_counted() {
        let refusals = Refusals::default();
        let at = |seconds| Mono::ZERO + Duration::from_secs(seconds);
        let (revoked, missing) = (
            HandshakeResult::CertificateRevoked,
            HandshakeResult::CertificateMissing,
        );
        let logged: Vec<_> = (0..15).map(|_| refusals.note(revoked, at(5))).collect();
        assert_eq!(logged[..10], [Some(0); 10]);
        assert_eq!(logged[10..], [None; 5]);
        assert_eq!(refusals.note(missing, at(5)), Some(0));
        assert_eq!(refusals.note(revoked, at(64)), None);
        assert_eq!(refusals.note(revoked, at(65)), Some(6));
        assert_eq!(refusals.note(revoked, at(65)), Some(0));
    }
}
