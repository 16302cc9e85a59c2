//! Checks, before a task does anything, what the task needs from this machine. Everything that is
//! missing is reported together, with how to get it. Optional pieces of a task that can't run here
//! are skipped and reported; if `CI` is set, most of them are errors instead.

use std::{
    collections::BTreeMap,
    env,
    fmt::{self, Write as _},
};

use anyhow::{Result, bail};

/// Something that this machine is missing.
#[derive(PartialEq, Eq)]
pub(crate) struct Missing {
    /// A noun phrase that names it.
    what: String,
    /// An instruction for getting it, without a full stop.
    remedy: String,
}

/// A piece of a task that is skipped on a machine that can't run it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Skippable {
    /// The check `weight`.
    Weight,
    /// The tests of a file descriptor table per shard.
    PerShardTables,
    /// The tests that run promtool.
    Promtool,
    /// The tests of the admin port's page in a browser.
    StatusPage,
    /// The check `portable`.
    Portable,
    /// The check `oldest-compiler`.
    OldestCompiler,
    /// The check `monitoring`.
    Monitoring,
    /// The check `advisories`.
    Advisories,
    /// The checks and tests of the Go client.
    GoClient,
    /// The check of the dissector for Wireshark.
    Dissector,
    /// Fetching what is new for the check `advisories`.
    NewestAdvisories,
}

/// The findings so far.
pub(crate) struct Preflight {
    is_ci: bool,
    missing: Vec<Missing>,
    skipped: Skipped,
}

/// The pieces to skip, each with the reason.
#[derive(Default)]
pub(crate) struct Skipped(BTreeMap<Skippable, Missing>);

impl Missing {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

impl fmt::Display for Skippable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight => "weight",
            Self::Portable => "portable",
            Self::OldestCompiler => "oldest-compiler",
            Self::Monitoring => "monitoring",
            Self::Advisories => "advisories",
            Self::NewestAdvisories => "the newest advisories",
            Self::GoClient => "the Go client",
            Self::Dissector => "the dissector for Wireshark",
            Self::PerShardTables => "tests of per-shard file descriptor tables",
            Self::Promtool => "tests with promtool",
            Self::StatusPage => "tests of the status page in a browser",
        })
    }
}

impl Preflight {
    pub(crate) fn start() -> Self {
        let ci = env::var("CI").unwrap_or_default();
        Self::new(!["", "0", "false"].contains(&ci.as_str()))
    }

    fn new(is_ci: bool) -> Self {
        Self {
            is_ci,
            missing: Vec::new(),
            skipped: Skipped::default(),
        }
    }

    /// Records what the task can't run without.
    pub(crate) fn need(&mut self, all_missing: impl IntoIterator<Item = Missing>) {
        for missing in all_missing {
            // Several checks may need the same thing.
            if !self.missing.contains(&missing) {
                self.missing.push(missing);
            }
        }
    }

    /// Records what only `piece` can't run without. It is skipped, unless `CI` is set.
    pub(crate) fn need_for(&mut self, piece: Skippable, missing: Option<Missing>) {
        let Some(missing) = missing else { return };
        if self.is_ci {
            let what = format!(
                "{} (for {piece}, which may not be skipped if CI is set)",
                missing.what
            );
            self.missing.push(Missing { what, ..missing });
        } else {
            self.skipped.0.insert(piece, missing);
        }
    }

    /// Records what `piece` can't run without. It is skipped even if `CI` is set, since not every
    /// CI machine can get this.
    pub(crate) fn skip_without(&mut self, piece: Skippable, missing: Option<Missing>) {
        if let Some(missing) = missing {
            self.skipped.0.insert(piece, missing);
        }
    }

    /// Prints what is skipped. Fails with everything that is missing, if anything is.
    pub(crate) fn finish(self) -> Result<Skipped> {
        if !self.missing.is_empty() {
            let mut text = "nothing was run, since this machine is missing".to_owned();
            for missing in &self.missing {
                write!(text, "\n  - {missing}")?;
            }
            bail!(text);
        }
        for (piece, missing) in &self.skipped.0 {
            eprintln!("xtask: skipping {piece}, which requires {missing}");
        }
        Ok(self.skipped)
    }
}

impl Skipped {
    /// Adds a piece for which something turned out to be missing when it ran. It does not fail even
    /// if `CI` is set.
    pub(crate) fn add(&mut self, piece: Skippable, missing: Missing) {
        self.0.insert(piece, missing);
    }

    pub(crate) fn has(&self, piece: Skippable) -> bool {
        self.0.contains_key(&piece)
    }

    /// Returns text for the end of a report, which is empty if nothing is skipped.
    pub(crate) fn summary(&self) -> String {
        let pieces: Vec<_> = self
            .0
            .iter()
            .map(|(piece, missing)| format!("{piece} (requires {})", missing.what))
            .collect();
        if pieces.is_empty() {
            String::new()
        } else {
            format!("; SKIPPED: {}", pieces.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valgrind() -> Option<Missing> {
        Some(Missing::new("valgrind", "install it"))
    }

    #[test]
    fn everything_missing_is_reported_together_with_its_remedy() {
        let mut preflight = Preflight::new(false);
        preflight.need(Some(Missing::new("Python", "install python3")));
        preflight.need(None);
        preflight.need([Missing::new("an engine", "install docker")]);
        preflight.need([Missing::new("an engine", "install docker")]);
        let error = preflight.finish().err().unwrap().to_string();
        assert_eq!(error.matches("an engine").count(), 1, "{error}");
        for line in [
            "\n  - Python: install python3",
            "\n  - an engine: install docker",
        ] {
            assert!(error.contains(line), "no {line:?} in {error}");
        }
    }

    #[test]
    fn a_piece_that_cannot_run_is_skipped_and_listed_in_the_summary() {
        let mut preflight = Preflight::new(false);
        preflight.need_for(Skippable::Weight, valgrind());
        preflight.need_for(Skippable::PerShardTables, None);
        let skipped = preflight.finish().unwrap();
        assert!(skipped.has(Skippable::Weight) && !skipped.has(Skippable::PerShardTables));
        assert_eq!(skipped.summary(), "; SKIPPED: weight (requires valgrind)");
    }

    #[test]
    fn in_ci_a_piece_that_cannot_run_is_an_error() {
        let mut preflight = Preflight::new(true);
        preflight.need_for(Skippable::Weight, valgrind());
        let error = preflight.finish().err().unwrap().to_string();
        assert!(
            error.contains("valgrind (for weight,") && error.contains(": install it"),
            "{error}"
        );
    }

    #[test]
    fn a_piece_that_is_skipped_while_it_runs_is_in_the_summary_too() {
        let mut skipped = Preflight::new(true).finish().unwrap();
        skipped.add(
            Skippable::Advisories,
            Missing::new("a database", "fetch it"),
        );
        assert_eq!(
            skipped.summary(),
            "; SKIPPED: advisories (requires a database)"
        );
    }

    #[test]
    fn the_summary_is_empty_if_nothing_is_skipped() {
        let mut preflight = Preflight::new(true);
        preflight.need_for(Skippable::Weight, None);
        assert_eq!(preflight.finish().unwrap().summary(), "");
    }
}
