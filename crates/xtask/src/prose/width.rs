//! Checks the width of lines. rustfmt cannot wrap comments and long strings, so they are wrapped by
//! hand.

use std::collections::BTreeSet;

use super::{Finding, Source, markdown};

const COLUMNS_MAX: usize = 100;

pub(super) fn findings(source: &Source<'_>) -> Vec<Finding> {
    let fixed = if source.path.ends_with(".md") {
        markdown::fixed_lines(source.text)
    } else {
        BTreeSet::new()
    };
    source
        .text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(number, line)| !fixed.contains(number) && is_too_wide(line))
        .map(|(line, text)| Finding {
            line,
            text: format!(
                "{} columns wide; {COLUMNS_MAX} are allowed",
                text.chars().count()
            ),
        })
        .collect()
}

/// Returns whether a line is too wide, and could be wrapped: it has more than one word. A line with
/// only one, such as a link, may be of any width.
fn is_too_wide(line: &str) -> bool {
    let words = line.split_whitespace().filter(|word| {
        let is_mark = word.chars().all(|letter| "/!#*->|".contains(letter));
        !is_mark
    });
    line.chars().count() > COLUMNS_MAX && words.count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_that_can_be_wrapped_is_too_wide() {
        let wide = "word ".repeat(20) + "a";
        let word = "/// ".to_owned() + &"x".repeat(100);
        assert_eq!(wide.chars().count(), 101);
        for (line, expected) in [(&*wide, true), (&wide[..100], false), (&*word, false)] {
            assert_eq!(is_too_wide(line), expected, "{line}");
        }
        // Characters count, not bytes.
        assert!(!is_too_wide(&"é ".repeat(50)));
        let path = "a.md";
        let text = format!("{wide}\n\n```\n{wide}\n```\n\n| {wide} |\n|---|\n");
        assert_eq!(findings(&Source { path, text: &text }).len(), 1);
    }
}
