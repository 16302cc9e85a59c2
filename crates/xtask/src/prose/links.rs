//! Checks relative links in Markdown: the file must exist, and so must the heading that the link
//! names.

use std::{fs, path::Path};

use super::{Finding, Source, markdown};
use crate::command::in_workspace;

pub(super) fn findings(source: &Source<'_>) -> Vec<Finding> {
    if !source.path.ends_with(".md") {
        return Vec::new();
    }
    markdown::links(source.text)
        .into_iter()
        .filter(|(link, _)| !link.contains("://") && !is_found(link, source))
        .map(|(link, line)| Finding {
            line,
            text: format!("the link {link} leads nowhere"),
        })
        .collect()
}

fn is_found(link: &str, source: &Source<'_>) -> bool {
    let (file, anchor) = link
        .split_once('#')
        .map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let directory = Path::new(source.path).parent().unwrap_or(Path::new(""));
    let path = in_workspace("").join(directory).join(file);
    match anchor {
        None => path.exists(),
        Some(anchor) if file.is_empty() => markdown::anchors(source.text).contains(anchor),
        Some(anchor) => {
            fs::read_to_string(path).is_ok_and(|text| markdown::anchors(&text).contains(anchor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_needs_its_file_and_its_heading() {
        let text = "# Here\n[a](#here) [b](../README.md) [c](https://example.org/)\n\
                    [d](#there)\n[e](gone.md)\n[f](../README.md#no-such-heading)\n";
        let path = "docs/new.md";
        let found = findings(&Source { path, text });
        let lines: Vec<_> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [3, 4, 5], "{found:?}");
    }
}
