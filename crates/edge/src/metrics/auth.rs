//! The results of AUTH frames.

/// The result of an AUTH.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AuthResult {
    Accepted,
    Failed,
    /// The AUTH had to wait, and the credentials were right.
    DelayedAccepted,
    /// The AUTH had to wait, and the credentials were wrong.
    DelayedFailed,
    /// The connection ended while the AUTH was waiting.
    DelayedUnjudged,
    /// Too many AUTHs were waiting already, so the credentials were not checked.
    RateLimited,
}

impl AuthResult {
    /// All results, in declaration order.
    pub(super) const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Failed,
        Self::DelayedAccepted,
        Self::DelayedFailed,
        Self::DelayedUnjudged,
        Self::RateLimited,
    ];

    /// Returns the value of the label `result`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Failed => "failed",
            Self::DelayedAccepted => "delayed_accepted",
            Self::DelayedFailed => "delayed_failed",
            Self::DelayedUnjudged => "delayed_unjudged",
            Self::RateLimited => "rate_limited",
        }
    }
}
