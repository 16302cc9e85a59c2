//! The metric of the time until files of TLS expire. It is computed when metrics are collected, so
//! that it is current even if a file system hangs.

use prometheus::{
    IntGauge, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tickstorm_timebase::{HostClock as _, SystemHost, UnixTime};
use tokio::sync::watch;

use super::FileSummary;
use crate::metrics::{RegisterError, register_collector};

const NAME: &str = "tickstorm_tls_expiry_seconds";
const HELP: &str = "Time until the first certificate or revocation list of a TLS file expires, by \
    this host's clock; negative after that. The label is the setting that names the file.";

/// Registers the metric of the files that `state` has now: later ones must have the same settings.
/// A process may have several such sets of files.
///
/// # Errors
/// Returns an error if a file with one of these settings is registered already.
pub fn register_expiry<S>(
    registry: &Registry,
    state: watch::Receiver<S>,
) -> Result<(), RegisterError>
where
    S: AsRef<[FileSummary]> + Send + Sync + 'static,
{
    let settings: Vec<_> = {
        let state = state.borrow();
        let files = state.as_ref().iter();
        files.map(|summary| summary.file().setting).collect()
    };
    if settings.is_empty() {
        return Ok(());
    }
    let gauge = |setting: &'static str| -> prometheus::Result<_> {
        let opts = Opts::new(NAME, HELP).const_label("file", setting);
        Ok((setting, IntGauge::with_opts(opts)?))
    };
    let gauges: prometheus::Result<Vec<_>> = settings.into_iter().map(gauge).collect();
    let gauges = gauges.map_err(|source| RegisterError::new(NAME, source))?;
    register_collector(registry, NAME, Box::new(ExpiryMetric { gauges, state }))
}

struct ExpiryMetric<S> {
    /// The gauge of each file, by its setting.
    gauges: Vec<(&'static str, IntGauge)>,
    state: watch::Receiver<S>,
}

impl<S: AsRef<[FileSummary]> + Send + Sync> ExpiryMetric<S> {
    fn seconds_left(&self, setting: &str, now: UnixTime) -> Option<i64> {
        let state = self.state.borrow();
        let mut files = state.as_ref().iter();
        let summary = files.find(|summary| summary.file().setting == setting)?;
        summary.seconds_left(now)
    }
}

impl<S: AsRef<[FileSummary]> + Send + Sync> Collector for ExpiryMetric<S> {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges.iter();
        gauges.flat_map(|(_, gauge)| gauge.desc()).collect()
    }

    /// Leaves out the files whose validity is unknown.
    fn collect(&self) -> Vec<MetricFamily> {
        let now = SystemHost::new(0).read().unix;
        let gauges = self.gauges.iter();
        let known = gauges.filter_map(|(setting, gauge)| {
            gauge.set(self.seconds_left(setting, now)?);
            Some(gauge.collect())
        });
        known.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use tickstorm_testkit::CertificateAuthority;

    use super::{super::*, *};
    use crate::metrics::encode;

    const DAY_S: u64 = 86_400;

    fn file(setting: &'static str) -> ExpiringFile {
        ExpiringFile {
            setting,
            content: FileContent::Chain,
            before_expiry: "replace it",
            after_expiry: "replace it",
        }
    }

    /// Returns the summary of a file with a certificate that expires in these days.
    fn expiring(setting: &'static str, days: i64) -> FileSummary {
        let now_s = SystemHost::new(0).read().unix.as_millis().cast_unsigned() / 1_000;
        let until_s = now_s
            .checked_add_signed(days * DAY_S.cast_signed())
            .unwrap();
        let issued = CertificateAuthority::new().issue_valid("a.test", 0..until_s);
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        FileSummary::of_certificates(file(setting), Path::new("a.crt"), &[certificate])
    }

    fn days_left(registry: &Registry, setting: &str) -> Option<f64> {
        let text = encode(registry).unwrap();
        let series = format!("{NAME}{{file=\"{setting}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&*series))?;
        let left_s: f64 = value.parse().unwrap();
        // The test takes less than an hour.
        Some((left_s / 3_600.0).ceil() / 24.0)
    }

    #[test]
    fn each_set_of_files_has_its_series_which_follow_the_files() {
        let registry = Registry::new();
        let own = watch::Sender::new(vec![expiring("A_FILE", 30), expiring("B_FILE", -2)]);
        register_expiry(&registry, own.subscribe()).unwrap();
        let other = watch::Sender::new(vec![expiring("C_FILE", 5)]);
        register_expiry(&registry, other.subscribe()).unwrap();
        let none = watch::Sender::new(Vec::<FileSummary>::new());
        register_expiry(&registry, none.subscribe()).unwrap();
        let all = || ["A_FILE", "B_FILE", "C_FILE"].map(|setting| days_left(&registry, setting));
        assert_eq!(all(), [Some(30.0), Some(-2.0), Some(5.0)]);
        // What x509-parser can't parse has no known validity.
        let unknown = [CertificateDer::from(vec![1, 2, 3])];
        let unknown = FileSummary::of_certificates(file("B_FILE"), Path::new("b.crt"), &unknown);
        own.send_replace(vec![expiring("A_FILE", 90), unknown]);
        assert_eq!(all(), [Some(90.0), None, Some(5.0)]);
        own.send_replace(vec![expiring("A_FILE", 90), expiring("B_FILE", 7)]);
        assert_eq!(all(), [Some(90.0), Some(7.0), Some(5.0)]);
        assert!(register_expiry(&registry, other.subscribe()).is_err());
    }
}
