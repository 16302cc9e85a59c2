//! `cargo xtask test unsafe`: compares the unsafe code of the workspace with the table in
//! `docs/security.md`, which justifies each piece. Code that is added, removed or moved changes the
//! table, so a reviewer sees it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use ra_ap_rustc_lexer::{FrontmatterAllowed, TokenKind, tokenize};

use crate::{command::in_workspace, prose::files};

/// The document with the table.
const DOCUMENT: &str = "docs/security.md";
/// The heading above the table.
const HEADING: &str = "## Unsafe code";

/// The number of times that each file uses the keyword.
type Uses = BTreeMap<String, usize>;

/// Fails with everything in which the code and the table differ.
pub(crate) fn check() -> Result<()> {
    let mut found = Uses::new();
    for path in files()? {
        if !path.ends_with(".rs") {
            continue;
        }
        let text = fs::read_to_string(in_workspace(&path))
            .with_context(|| format!("could not read {path}"))?;
        let uses = keywords(&text);
        if uses > 0 {
            found.insert(path, uses);
        }
    }
    let document = fs::read_to_string(in_workspace(DOCUMENT))
        .with_context(|| format!("could not read {DOCUMENT}"))?;
    let differences = differences(&found, &table(&document)?);
    ensure!(
        differences.is_empty(),
        "the table under \"{HEADING}\" in {DOCUMENT} does not match the code\n  - {}",
        differences.join("\n  - ")
    );
    eprintln!(
        "    {} uses of `unsafe` in {} files, all of them in the table",
        found.values().sum::<usize>(),
        found.len()
    );
    Ok(())
}

/// Returns how often the keyword `unsafe` is in the code of a Rust file. Comments and strings do
/// not count.
fn keywords(text: &str) -> usize {
    let mut at = 0;
    tokenize(text, FrontmatterAllowed::No)
        .filter(|token| {
            let start = at;
            at += token.len as usize;
            token.kind == TokenKind::Ident && &text[start..at] == "unsafe"
        })
        .count()
}

/// Returns the rows of the table: each starts with a file in backticks and its number of uses.
fn table(document: &str) -> Result<Uses> {
    let (_, section) = document
        .split_once(HEADING)
        .with_context(|| format!("{DOCUMENT} has no section \"{HEADING}\""))?;
    let section = section.split("\n## ").next().unwrap_or(section);
    let mut uses = Uses::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let file = cells.next().unwrap_or_default().trim_matches('`');
        let count = cells.next().and_then(|cell| cell.parse().ok());
        let count = count.with_context(|| format!("{DOCUMENT}: no number of uses in: {line}"))?;
        let has_reasons = cells.filter(|cell| !cell.is_empty()).count() >= 2;
        ensure!(
            has_reasons,
            "{DOCUMENT}: a row needs a purpose and a safety argument: {line}"
        );
        let is_new = uses.insert(file.to_owned(), count).is_none();
        ensure!(is_new, "{DOCUMENT}: {file} has two rows");
    }
    Ok(uses)
}

fn differences(found: &Uses, listed: &Uses) -> Vec<String> {
    let mut files: Vec<_> = found.keys().chain(listed.keys()).collect();
    files.sort_unstable();
    files.dedup();
    let count = |uses: &Uses, file: &String| uses.get(file).copied().unwrap_or(0);
    files
        .into_iter()
        .filter(|file| count(found, file) != count(listed, file))
        .map(|file| {
            format!(
                "{file} uses `unsafe` {} times, but the table says {}",
                count(found, file),
                count(listed, file)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(of: &[(&str, usize)]) -> Uses {
        of.iter()
            .map(|(file, count)| ((*file).to_owned(), *count))
            .collect()
    }

    #[test]
    fn only_the_keyword_counts() {
        let text = "//! unsafe\n#[expect(unsafe_code, reason = \"unsafe\")]\n\
                    unsafe impl A for B {\n    unsafe fn f() { /* unsafe */ unsafe { g() } }\n}\n";
        assert_eq!(keywords(text), 3);
    }

    #[test]
    fn a_use_that_is_added_moved_or_removed_is_found() {
        let table = uses(&[("a.rs", 1), ("b.rs", 2)]);
        assert!(differences(&table, &table).is_empty());
        let added = differences(&uses(&[("a.rs", 2), ("b.rs", 2)]), &table);
        assert_eq!(added, ["a.rs uses `unsafe` 2 times, but the table says 1"]);
        let moved = differences(&uses(&[("b.rs", 2), ("c.rs", 1)]), &table);
        assert_eq!(moved.len(), 2, "{moved:?}");
        let removed = differences(&uses(&[("b.rs", 2)]), &table);
        assert_eq!(
            removed,
            ["a.rs uses `unsafe` 0 times, but the table says 1"]
        );
    }

    #[test]
    fn rows_are_read_from_their_section_only() {
        let rows = "| file | uses | what | safe because |\n|---|---|---|---|\n\
                    | `a.rs` | 2 | calls f | of this |\n";
        let document = format!("## Other\n| `b.rs` | 1 | x | y |\n{HEADING}\n{rows}\n## Next\n");
        assert_eq!(table(&document).unwrap(), uses(&[("a.rs", 2)]));
    }

    #[test]
    fn a_row_without_a_number_or_an_argument_is_refused() {
        for row in [
            "| `a.rs` | two | calls f | of this |",
            "| `a.rs` | 2 | calls f | |",
        ] {
            let error = table(&format!("{HEADING}\n{row}\n")).unwrap_err();
            assert!(error.to_string().contains(row), "{error}");
        }
        assert!(table("# Security\n").is_err());
    }
}
