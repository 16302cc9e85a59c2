//! `cargo xtask test prose`: checks everything that people read. codespell looks for misspellings,
//! our own rules in `prose.toml` for phrases that we do not use, and rustdoc for missing
//! documentation and broken links. No line may be wider than 100 columns, and every relative link
//! in Markdown must lead somewhere.

mod links;
mod markdown;
mod passage;
mod rules;
mod width;

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use ignore::WalkBuilder;

use self::rules::Rules;
use crate::{
    command::{cargo, in_workspace, program},
    python_tool::CODESPELL,
};

/// rustdoc's lints: the ones that warn by default, and three that do not.
const RUSTDOC_LINTS: &str = "-D warnings -D missing_docs -D rustdoc::missing_crate_level_docs \
                             -D rustdoc::unescaped_backticks";

/// A line that must be changed, and the reason.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    text: String,
}

/// A text file of the workspace.
struct Source<'a> {
    /// The path from the workspace's root, with slashes.
    path: &'a str,
    text: &'a str,
}

/// Runs all of these checks. Prints every finding before it returns an error.
pub(crate) fn check() -> Result<()> {
    let rules = Rules::load()?;
    let paths = rules.select(files()?);
    let spelling = spell(&rules, &paths);
    let mut findings = 0;
    for path in &paths {
        let Ok(text) = String::from_utf8(fs::read(in_workspace(path))?) else {
            continue;
        };
        for Finding { line, text } in examine(&rules, &Source { path, text: &text }) {
            eprintln!("{path}:{line}: {text}");
            findings += 1;
        }
    }
    let rustdoc = cargo("doc --workspace --no-deps --document-private-items --locked")
        .env("RUSTDOCFLAGS", RUSTDOC_LINTS)
        .run();
    ensure!(
        findings == 0,
        "{findings} findings, listed above, in the {} files checked; the rules are in {}",
        paths.len(),
        rules::FILE
    );
    spelling.and(rustdoc)
}

fn examine(rules: &Rules, source: &Source<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> = passage::passages(source)
        .iter()
        .flat_map(|passage| rules.findings(passage))
        .collect();
    findings.extend(width::findings(source));
    findings.extend(links::findings(source));
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// Returns the paths of all files of the workspace except those that `.gitignore` excludes. Works
/// without Git.
pub(crate) fn files() -> Result<Vec<String>> {
    let root = in_workspace("");
    let mut paths = Vec::new();
    let walk = WalkBuilder::new(&root)
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_path(Path::cmp)
        .build();
    for entry in walk {
        let path = entry?.into_path();
        if path.is_file()
            && let Some(path) = path.strip_prefix(&root)?.to_str()
        {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

fn spell(rules: &Rules, paths: &[String]) -> Result<()> {
    let codespell = CODESPELL.installed()?;
    let allowed = rules.allowed_words().join(",");
    program(
        &codespell.display().to_string(),
        &["--builtin", "clear,rare", "--ignore-words-list", &allowed],
    )
    .with_files(paths)
    .run()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let rules = Rules::load().unwrap();
        let findings = examine(&rules, &Source { path, text });
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_phrase_is_found_in_comments_and_messages_but_not_in_code() {
        let text = "//! Fine.\n\
                    //! Likewise.\n\
                    fn likewise() -> bool { // likewise\n\
                    let likewise = \"this one, likewise\";\n\
                    let name = r#\"and likewise\"#;\n\
                    /* first\n   likewise */\n\
                    likewise == '\"'\n}\n";
        assert_eq!(lines("a.rs", text), [2, 3, 4, 5, 7]);
    }

    #[test]
    fn a_phrase_that_a_line_break_splits_is_found_where_it_starts() {
        let text = "fn f() {\n    // It starts at the\n    // begin of a round.\n}\n";
        assert_eq!(lines("a.rs", text), [2]);
        assert_eq!(lines("a.md", "It starts\nat the\nbegin.\n"), [2]);
        assert_eq!(
            lines("a.yaml", "a: 1\n# It starts at\n# the begin.\nb: 2\n"),
            [2]
        );
    }

    #[test]
    fn code_in_markdown_is_not_read() {
        let text = "Call `likewise`.\n\n```\nlikewise\n```\n\n| a |\n|---|\n| likewise |\n";
        assert_eq!(lines("a.md", text), [9]);
        let text = "/// Call `likewise`:\n/// ```\n/// likewise();\n/// ```\n";
        assert!(lines("a.rs", text).is_empty());
    }

    #[test]
    fn comments_of_configuration_are_read() {
        let text = "key: \"a # likewise\"\nb: 1 # likewise\n#likewise\n";
        assert_eq!(lines("a.yaml", text), [2, 3]);
        assert_eq!(lines("Dockerfile.edge", "FROM x\n# likewise\n"), [2]);
        assert_eq!(lines("a.proto", "int32 a = 1; // likewise\n"), [1]);
    }
}
