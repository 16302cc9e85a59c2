//! What a task needs of this machine, looked at before the task does anything: all that is missing
//! is said at once, with how to get it. What can't run here is skipped, and said so, unless `CI` is
//! set: then that is an error, too.

use std::{
    collections::BTreeMap,
    env,
    fmt::{self, Write as _},
};

use anyhow::{Result, bail};

/// Something that this machine does not have.
#[derive(PartialEq, Eq)]
pub(crate) struct Lack {
    what: String,
    remedy: String,
}

/// A piece of a task that is skipped on a machine that can't run it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Skippable {
    /// The whole check `weight`.
    Weight,
    /// The tests of a table of open files for each shard.
    PerShardTables,
    /// The whole check `portable`.
    Portable,
}

/// What has been found so far.
pub(crate) struct Preflight {
    is_ci: bool,
    missing: Vec<Lack>,
    skipped: Skipped,
}

/// What is skipped, each with its reason.
#[derive(Default)]
pub(crate) struct Skipped(BTreeMap<Skippable, Lack>);

impl Lack {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

impl fmt::Display for Skippable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight => "weight",
            Self::Portable => "portable",
            Self::PerShardTables => "tests of tables of open files for each thread",
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

    /// Notes what the task can't do without.
    pub(crate) fn need(&mut self, lacks: impl IntoIterator<Item = Lack>) {
        for lack in lacks {
            // Several checks may need the same.
            if !self.missing.contains(&lack) {
                self.missing.push(lack);
            }
        }
    }

    /// Notes what only this piece of the task can't do without.
    pub(crate) fn need_for(&mut self, piece: Skippable, lack: Option<Lack>) {
        let Some(lack) = lack else { return };
        if self.is_ci {
            let what = format!(
                "{piece}, which is skipped elsewhere but not where CI is set: {}",
                lack.what
            );
            self.missing.push(Lack { what, ..lack });
        } else {
            self.skipped.0.insert(piece, lack);
        }
    }

    /// Notes what this piece of the task is skipped without, also where `CI` is set: not every
    /// machine of CI can get it.
    pub(crate) fn skip_without(&mut self, piece: Skippable, lack: Option<Lack>) {
        if let Some(lack) = lack {
            self.skipped.0.insert(piece, lack);
        }
    }

    /// Says what is skipped; fails with all that is missing.
    pub(crate) fn finish(self) -> Result<Skipped> {
        if !self.missing.is_empty() {
            let mut text = "nothing was run, since this machine lacks".to_owned();
            for lack in &self.missing {
                write!(text, "\n  - {lack}")?;
            }
            bail!(text);
        }
        for (piece, lack) in &self.skipped.0 {
            eprintln!("xtask: skipping {piece}, which takes {lack}");
        }
        Ok(self.skipped)
    }
}

impl Skipped {
    pub(crate) fn has(&self, piece: Skippable) -> bool {
        self.0.contains_key(&piece)
    }

    /// For the end of the report; nothing if nothing is skipped.
    pub(crate) fn summary(&self) -> String {
        let pieces: Vec<_> = self
            .0
            .iter()
            .map(|(piece, lack)| format!("{piece} (takes {})", lack.what))
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

    fn valgrind() -> Option<Lack> {
        Some(Lack::new("valgrind", "install it"))
    }

    #[test]
    fn all_that_is_missing_is_named_at_once_with_how_to_get_it() {
        let mut preflight = Preflight::new(false);
        preflight.need(Some(Lack::new("Python", "install python3")));
        preflight.need(None);
        preflight.need([Lack::new("an engine", "install docker")]);
        preflight.need([Lack::new("an engine", "install docker")]);
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
    fn what_cannot_run_is_skipped_and_named_in_the_summary() {
        let mut preflight = Preflight::new(false);
        preflight.need_for(Skippable::Weight, valgrind());
        preflight.need_for(Skippable::PerShardTables, None);
        let skipped = preflight.finish().unwrap();
        assert!(skipped.has(Skippable::Weight) && !skipped.has(Skippable::PerShardTables));
        assert_eq!(skipped.summary(), "; SKIPPED: weight (takes valgrind)");
    }

    #[test]
    fn in_ci_nothing_is_skipped() {
        let mut preflight = Preflight::new(true);
        preflight.need_for(Skippable::Weight, valgrind());
        let error = preflight.finish().err().unwrap().to_string();
        assert!(
            error.contains("weight") && error.contains("valgrind: install it"),
            "{error}"
        );
    }

    #[test]
    fn without_a_lack_there_is_nothing_to_say() {
        let mut preflight = Preflight::new(true);
        preflight.need_for(Skippable::Weight, None);
        assert_eq!(preflight.finish().unwrap().summary(), "");
    }
}
