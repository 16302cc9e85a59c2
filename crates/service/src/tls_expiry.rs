//! Certificates and revocation lists that expire: the time that is left, and the findings that
//! operators must know of. Each set of files that a daemon uses is watched in the same way: the
//! metric says when a file expires, and the log warns from 14 days before. The time is the host's
//! wall clock, by which rustls checks certificates.

mod finding;
mod log;
mod metrics;
mod summary;

pub use self::{
    finding::{FileAlarm, FileFinding, findings, is_raised},
    log::ExpiryLog,
    metrics::register_expiry,
    summary::{ExpiringFile, FileContent, FileSummary, date_of},
};
