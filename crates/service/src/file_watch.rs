//! Files that may change while a daemon runs. They are looked at every second, or at once if
//! SIGHUP asks for it, and loaded by the code that loaded them at the start: what
//! would be refused then never takes effect later, and what was loaded before stays in use.
//!
//! A file with fewer entries than before may be one that is half written. It takes effect if a
//! second look, one second later, finds the same, and then a warning says what is gone.

mod hangup;
mod watched_file;

use std::{error::Error, time::Duration};

use prometheus::{IntCounter, IntGauge, Opts, Registry};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Instant, MissedTickBehavior, interval},
};

use self::watched_file::Look;
pub use self::{
    hangup::reread_at_hangups,
    watched_file::{MissingEntries, WatchedFile},
};
use crate::{
    error_chain::ErrorChain,
    metrics::{self, RegisterError},
};

/// The interval at which files are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between a look that finds fewer entries and the one that confirms it. It is a
/// little less than an interval, since a look may come a little later after its tick than the next.
const CONFIRM_AFTER: Duration = Duration::from_millis(900);

/// The name of the gauge of each [`FileSet`].
const REFUSED: &str = "tickstorm_files_refused";

/// Files that take effect together, such as a certificate and its key.
pub trait FileSet: Send + 'static {
    /// What the files contain, in the plural.
    const NAME: &'static str;
    /// What follows from a change: a sentence without its full stop.
    const EFFECT: &'static str;
    /// What is made of the files.
    type Loaded: Send + 'static;
    /// The reason that the files can't be used.
    type Error: Error + Send + 'static;

    /// Returns the files.
    fn files(&self) -> Vec<WatchedFile>;

    /// Reads the files and makes of them what they are for.
    ///
    /// # Errors
    /// Returns an error if a file can't be read or used, or if they do not fit together. It names
    /// the file and shows nothing secret.
    fn load(&self) -> Result<Self::Loaded, Self::Error>;
}

/// Counts what became of changed files, and shows whether those that are there now can be used.
#[derive(Clone, Debug)]
pub struct ReloadCounters {
    loaded: IntCounter,
    failed: IntCounter,
    refused: IntGauge,
}

impl ReloadCounters {
    /// Registers the counters under `name`, which is `tickstorm_FILES_reloads_total`, and the gauge
    /// with the label FILES. `help` says what changed and what happens if it can't be used.
    ///
    /// # Errors
    /// Returns an error if the name is taken.
    pub fn register(registry: &Registry, name: &str, help: &str) -> Result<Self, RegisterError> {
        let reloads = metrics::counters(registry, name, help, &["result"])?;
        let files = name.strip_prefix("tickstorm_").unwrap_or(name);
        let files = files.strip_suffix("_reloads_total").unwrap_or(files);
        let opts = Opts::new(
            REFUSED,
            "1 while files that have changed can't be used, so that what was read before stays in \
             use, else 0.",
        );
        let refused = IntGauge::with_opts(opts.const_label("files", files));
        let refused = refused.map_err(|source| RegisterError::new(REFUSED, source))?;
        Ok(Self {
            loaded: reloads.with_label_values(&["loaded"]),
            failed: reloads.with_label_values(&["failed"]),
            refused: metrics::collector(registry, REFUSED, refused)?,
        })
    }
}

/// What became of a file when it was reread on request.
#[derive(Clone, Debug)]
struct FileReport {
    file: WatchedFile,
    outcome: Outcome,
    /// What follows from a change.
    effect: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Unchanged,
    /// It has changed and is in use; some entries may be gone.
    Changed(Option<MissingEntries>),
    /// It has changed, and another look decides; some entries may be gone.
    Unconfirmed(Option<MissingEntries>),
    /// It, or a file that takes effect together with it, can't be used.
    Refused(String),
}

impl FileReport {
    /// Warns that entries are gone.
    fn warn(&self, missing: &MissingEntries) {
        tracing::warn!(
            setting = self.file.setting, path = %self.file.path.display(),
            gone = missing.gone, of = missing.of,
            "{missing}: {}", missing.loss()
        );
    }
}

type Request = oneshot::Sender<Vec<FileReport>>;

/// Access to files that are being watched.
#[derive(Clone, Debug)]
pub struct FileWatch {
    name: &'static str,
    requests: mpsc::Sender<Request>,
    refused: watch::Receiver<Option<String>>,
}

impl FileWatch {
    /// Returns what the files contain, in the plural.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the reason that the files that are there now can't be used; `None` if they can.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.refused.borrow().clone()
    }

    /// Asks for a look at once; `None` if there are no files, or they are no longer watched. If an
    /// earlier request still waits, because a file system hangs, the answer is an error.
    fn request(&self) -> Option<oneshot::Receiver<Vec<FileReport>>> {
        let (request, answer) = oneshot::channel();
        match self.requests.try_send(request) {
            Ok(()) | Err(TrySendError::Full(_)) => Some(answer),
            Err(TrySendError::Closed(_)) => None,
        }
    }
}

/// The files in use.
#[derive(Debug)]
pub struct FilesInUse<S: FileSet> {
    watched: Watched<S>,
    requests: mpsc::Receiver<Request>,
    refused: watch::Sender<Option<String>>,
    access: FileWatch,
}

impl<S: FileSet> FilesInUse<S> {
    /// Loads the files for the first time, and returns what was made of them.
    ///
    /// # Errors
    /// Returns an error if the files can't be used.
    pub fn load(set: S) -> Result<(Self, S::Loaded), S::Error> {
        let (watched, loaded) = Watched::load(set)?;
        let (sender, requests) = mpsc::channel(1);
        let (refused, reason) = watch::channel(None);
        let access = FileWatch {
            name: S::NAME,
            requests: sender,
            refused: reason,
        };
        let files = Self {
            watched,
            requests,
            refused,
            access,
        };
        Ok((files, loaded))
    }

    /// Returns access to the files.
    #[must_use]
    pub fn access(&self) -> FileWatch {
        self.access.clone()
    }

    /// Watches the files; returns at once if there are none. `publish` is called after each look
    /// that finds files that can be used, with what was made of them if they have changed. `refuse`
    /// is called with the reason if changed files can't be used.
    pub async fn watch(
        self,
        counters: ReloadCounters,
        mut publish: impl FnMut(Option<S::Loaded>),
        mut refuse: impl FnMut(&str),
    ) {
        let Self {
            mut watched,
            mut requests,
            refused,
            // While it exists, requests do not end.
            access: _access,
        } = self;
        if watched.files.is_empty() {
            return;
        }
        let mut interval = interval(CHECK_INTERVAL);
        // After a file system has hung, one look is enough.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                _ = interval.tick() => None,
            };
            let is_requested = request.is_some();
            let Some((returned, found)) = watched.check_aside().await else {
                return;
            };
            watched = returned;
            let Found { verdict, reports } = found;
            match verdict {
                Verdict::Same => {
                    refused.send_replace(None);
                    counters.refused.set(0);
                    publish(None);
                }
                Verdict::Unconfirmed => {}
                Verdict::Loaded(loaded) => {
                    refused.send_replace(None);
                    counters.refused.set(0);
                    counters.loaded.inc();
                    if !is_requested {
                        log_change::<S>(&reports);
                    }
                    publish(Some(loaded));
                }
                Verdict::Refused { reason, is_new } => {
                    counters.refused.set(1);
                    if is_new || is_requested {
                        counters.failed.inc();
                    }
                    let is_known = refused.borrow().as_ref() == Some(&reason);
                    if !is_known {
                        if !is_requested {
                            let name = S::NAME;
                            tracing::error!(
                                error = reason,
                                "{name} can't be reread; what was read before stays in use"
                            );
                        }
                        refuse(&reason);
                        refused.send_replace(Some(reason));
                    }
                }
            }
            if let Some(request) = request {
                // The requester may have given up.
                let _ = request.send(reports);
                // A look that confirms this one comes a second later.
                interval.reset();
            }
        }
    }
}

/// Logs that changed files are in use: a warning about each file with missing entries, or else that
/// they have changed.
fn log_change<S: FileSet>(reports: &[FileReport]) {
    let mut is_warned = false;
    for report in reports {
        if let Outcome::Changed(Some(missing)) = &report.outcome {
            report.warn(missing);
            is_warned = true;
        }
    }
    if !is_warned {
        tracing::info!("{} changed: {}", S::NAME, S::EFFECT);
    }
}

/// The files, and what they looked like.
#[derive(Debug)]
struct Watched<S> {
    set: S,
    files: Vec<WatchedFile>,
    /// What the files in use looked like.
    in_use: Vec<Look>,
    /// What files with missing entries looked like, and when that was first seen.
    unconfirmed: Option<(Instant, Vec<Look>)>,
    /// What files that can't be used looked like, and the reason.
    refused: Option<(Vec<Look>, String)>,
}

/// The result of a look.
struct Found<L> {
    verdict: Verdict<L>,
    reports: Vec<FileReport>,
}

enum Verdict<L> {
    /// The files are those in use.
    Same,
    /// Another look decides.
    Unconfirmed,
    /// The files are in use.
    Loaded(L),
    Refused {
        reason: String,
        /// Whether this was not known from an earlier look.
        is_new: bool,
    },
}

impl<S: FileSet> Watched<S> {
    fn load(set: S) -> Result<(Self, S::Loaded), S::Error> {
        let files = set.files();
        // A file that changes between the look and the reading is read again after the next look.
        let in_use = files.iter().map(WatchedFile::look).collect();
        let loaded = set.load()?;
        let watched = Self {
            set,
            files,
            in_use,
            unconfirmed: None,
            refused: None,
        };
        Ok((watched, loaded))
    }

    /// Looks at the files on a thread of the blocking pool, so that a file system that hangs delays
    /// only this task. Returns `None` if the files can't be watched any more.
    async fn check_aside(mut self) -> Option<(Self, Found<S::Loaded>)> {
        let now = Instant::now();
        let looking = tokio::task::spawn_blocking(move || {
            let found = self.check(now);
            (self, found)
        });
        let found = looking.await;
        if let Err(error) = &found
            && error.is_panic()
        {
            tracing::error!(%error, "{} are no longer checked for changes", S::NAME);
        }
        // Any other error means that the runtime is shutting down.
        found.ok()
    }

    fn look(&self) -> Vec<Look> {
        self.files.iter().map(WatchedFile::look).collect()
    }

    fn check(&mut self, now: Instant) -> Found<S::Loaded> {
        let looks = self.look();
        if looks == self.in_use {
            (self.unconfirmed, self.refused) = (None, None);
            let reports = self.reports(&looks, |_| Outcome::Unchanged);
            let verdict = Verdict::Same;
            return Found { verdict, reports };
        }
        // Files that were refused are loaded again even if they look the same: the reason may pass,
        // such as that no descriptor was left.
        let loaded = match self.set.load() {
            Ok(loaded) => loaded,
            Err(error) => return self.refuse(looks, &error),
        };
        self.refused = None;
        if !self.is_confirmed(&looks, now) {
            let reports = self.reports(&looks, Outcome::Unconfirmed);
            let verdict = Verdict::Unconfirmed;
            return Found { verdict, reports };
        }
        let reports = self.reports(&looks, Outcome::Changed);
        self.in_use = looks;
        let verdict = Verdict::Loaded(loaded);
        Found { verdict, reports }
    }

    /// Returns whether files that look like this, and were loaded, may take effect now.
    fn is_confirmed(&mut self, looks: &[Look], now: Instant) -> bool {
        let before = self.unconfirmed.take();
        // What was loaded may not be what was looked at, if a file is being written.
        if self.look() != looks {
            return false;
        }
        let mut pairs = self.files.iter().zip(self.in_use.iter().zip(looks));
        let is_missing = pairs.any(|(file, (before, now))| file.missing(before, now).is_some());
        if !is_missing {
            return true;
        }
        let since = before.filter(|(_, before)| before == looks);
        let since = since.map_or(now, |(since, _)| since);
        if now.duration_since(since) >= CONFIRM_AFTER {
            return true;
        }
        self.unconfirmed = Some((since, looks.to_vec()));
        false
    }

    fn refuse(&mut self, looks: Vec<Look>, error: &S::Error) -> Found<S::Loaded> {
        let reason = ErrorChain(error).to_string();
        let reports = self.reports(&looks, |_| Outcome::Refused(reason.clone()));
        self.unconfirmed = None;
        let refused = Some((looks, reason.clone()));
        let is_new = self.refused != refused;
        self.refused = refused;
        let verdict = Verdict::Refused { reason, is_new };
        Found { verdict, reports }
    }

    /// Returns a report on each file; `outcome` makes the outcome of a file that has changed.
    fn reports(
        &self,
        looks: &[Look],
        outcome: impl Fn(Option<MissingEntries>) -> Outcome,
    ) -> Vec<FileReport> {
        let pairs = self.files.iter().zip(self.in_use.iter().zip(looks));
        let report = |(file, (before, now)): (&WatchedFile, (&Look, &Look))| FileReport {
            file: file.clone(),
            outcome: if before == now {
                Outcome::Unchanged
            } else {
                outcome(file.missing(before, now))
            },
            effect: S::EFFECT,
        };
        pairs.map(report).collect()
    }
}

#[cfg(test)]
mod tests;
