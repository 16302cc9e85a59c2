//! A Markdown document of the repository: its sections and the tables in them.

use std::fs;

use tickstorm_tests::manifests::repository;

/// The text of a document, or of one of its sections.
pub(crate) struct Document {
    /// What it is called in the messages of failed tests.
    name: String,
    text: String,
}

impl Document {
    /// Reads a document, whose path starts at the root of the repository.
    pub(crate) fn read(path: &str) -> Self {
        let text = fs::read_to_string(repository().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let name = path.to_owned();
        Self { name, text }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns what is between this heading, such as `## Files`, and the next one that is not below
    /// it.
    pub(crate) fn section(&self, heading: &str) -> Self {
        let name = format!("{}, {heading}", self.name);
        let depth = depth(heading);
        let mut lines = self.text.lines().skip_while(|line| *line != heading);
        assert!(lines.next().is_some(), "there is no {name}");
        let is_inside = |line: &&str| !(1..=depth).contains(&self::depth(line));
        let lines: Vec<_> = lines.take_while(is_inside).collect();
        let text = lines.join("\n");
        Self { name, text }
    }

    /// Returns the cells of the rows of the table whose first row has these cells.
    pub(crate) fn table(&self, head: &[&str]) -> Vec<Vec<String>> {
        let is_head = |line: &&str| cells(line) == head;
        let mut lines = self.text.lines().skip_while(|line| !is_head(line));
        assert!(lines.next().is_some(), "no table {head:?} in {}", self.name);
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        let rows: Vec<_> = rows.map(cells).collect();
        assert!(!rows.is_empty(), "{head:?} of {}", self.name);
        rows
    }

    /// Returns the number before these words, in a text such as `a client takes 411 bytes`.
    pub(crate) fn number_before(&self, words: &str) -> f64 {
        let is_digit = |letter: char| letter.is_ascii_digit() || letter == '.' || letter == ',';
        let mut found = self.text.match_indices(words).map(|(at, _)| {
            let start = self.text[..at].trim_end_matches(is_digit).len();
            self.text[start..at].replace(',', "")
        });
        let number = found.next();
        let number = number.unwrap_or_else(|| panic!("no {words:?} in {}", self.name));
        number
            .parse()
            .unwrap_or_else(|error| panic!("{number:?} before {words:?}: {error}"))
    }
}

/// Returns the number of a heading's number signs; 0 for other lines.
fn depth(line: &str) -> usize {
    let depth = line.len() - line.trim_start_matches('#').len();
    if line[depth..].starts_with(' ') {
        depth
    } else {
        0
    }
}

/// Returns the cells of a table's row.
fn cells(line: &str) -> Vec<String> {
    let Some(inside) = line
        .strip_prefix('|')
        .and_then(|line| line.strip_suffix('|'))
    else {
        return Vec::new();
    };
    inside
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_tables_and_numbers_are_found() {
        let text =
            "# A\n## B\nx takes 1,200 bytes\n### C\n| a | b |\n|---|---|\n| 1 | `2` |\n\n## D\n\
                    | a | b |\n|---|---|\n| 3 | 4 |\n"
                .to_owned();
        let document = Document {
            name: "a test".to_owned(),
            text,
        };
        let section = document.section("## B");
        assert!(!section.text().contains("## D"), "{}", section.text());
        assert_eq!(section.table(&["a", "b"]), [["1", "`2`"]]);
        assert_eq!(document.section("## D").table(&["a", "b"]), [["3", "4"]]);
        assert!((section.number_before(" bytes") - 1_200.0).abs() < f64::EPSILON);
    }
}
