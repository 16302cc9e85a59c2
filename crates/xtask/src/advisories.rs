//! `cargo xtask test advisories`: looks for the dependencies in RustSec's database of advisories.
//! cargo-deny fetches the database with Git. A machine that can't reach it uses the copy that was
//! fetched last, or skips the check; either is reported at once and at the end of the run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Result;

use crate::{
    command::cargo,
    preflight::{Missing, Skippable, Skipped},
    tool::DENY,
};

/// The time limit for fetching the database, which takes seconds.
const FETCH_TIME_MAX: Duration = Duration::from_secs(180);

/// What is missing if the database can't be fetched.
const REMEDY: &str = "allow Git to fetch https://github.com/RustSec/advisory-db, or point it to a \
    mirror with its setting url.<mirror>.insteadOf";

/// Fails if an advisory applies to a dependency, or if one was yanked.
pub(crate) fn check(skipped: &mut Skipped) -> Result<()> {
    DENY.provide()?;
    cargo("fetch --locked").run()?;
    let Err(error) = cargo("deny --locked fetch db").run_within(FETCH_TIME_MAX) else {
        // Not offline, so that yanked versions are looked up in the registry's index.
        return cargo("deny --locked check advisories").run();
    };
    eprintln!("xtask: WARNING: the newest advisories can't be fetched: {error:#}; {REMEDY}");
    if !has_copy() {
        eprintln!("xtask: WARNING: dependencies are NOT checked against advisories");
        let what = "RustSec's database of advisories, which can't be fetched";
        skipped.add(Skippable::Advisories, Missing::new(what, REMEDY));
        return Ok(());
    }
    eprintln!("xtask: WARNING: using the copy of the database that was fetched last");
    let what = "access to RustSec's database of advisories; an earlier copy was used";
    skipped.add(Skippable::NewestAdvisories, Missing::new(what, REMEDY));
    cargo("deny --offline --locked check advisories").run()
}

/// Returns whether cargo-deny has fetched a database before, into its default directory.
fn has_copy() -> bool {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let databases = cargo_home.and_then(|home| fs::read_dir(home.join("advisory-dbs")).ok());
    databases
        .into_iter()
        .flatten()
        .flatten()
        .any(|database| is_complete(&database.path()))
}

/// Returns whether a clone was finished. Git leaves `.git` behind if it is killed.
fn is_complete(database: &Path) -> bool {
    let head = Command::new("git")
        .arg("-C")
        .arg(database)
        .args(["rev-parse", "--verify", "--quiet", "HEAD"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    database.join("crates").is_dir() && head.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn a_clone_that_was_cut_off_is_no_copy() {
        let dir = env::temp_dir().join(format!("advisories-{}", process::id()));
        fs::create_dir_all(dir.join("crates")).unwrap();
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            git.arg("-C").arg(&dir).args(args).stdout(Stdio::null());
            assert!(git.status().unwrap().success(), "{args:?}");
        };
        git(&["init", "--quiet"]);
        assert!(!is_complete(&dir));
        let author = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
        let commit = ["commit", "--quiet", "--allow-empty", "--message=a"];
        git(&[&author[..], &commit[..]].concat());
        assert!(is_complete(&dir));
        fs::remove_dir_all(dir.join("crates")).unwrap();
        assert!(!is_complete(&dir));
        fs::remove_dir_all(dir).unwrap();
    }
}
