//! Reads Markdown: its paragraphs without code, the lines that cannot be wrapped, its links and the
//! anchors of its headings.

use std::{collections::BTreeSet, ops::Range};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::passage::{Excerpt, Passage};

/// The placeholder for a piece of code in a sentence, so that no phrase matches across it.
const CODE: &str = "\u{fffc}";

fn parse(text: &str) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
    Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter()
}

/// Returns the paragraphs, headings, list items and table cells.
pub(super) fn passages(excerpt: &Excerpt) -> Vec<Passage> {
    let mut found = Vec::new();
    let mut passage = Passage::default();
    let mut is_code = false;
    for (event, range) in parse(&excerpt.text) {
        let line = || excerpt.line(range.start);
        if matches!(event, Event::Start(Tag::CodeBlock(_))) {
            is_code = true;
        } else if matches!(event, Event::End(TagEnd::CodeBlock)) {
            is_code = false;
        } else if let Event::Text(text) = &event
            && !is_code
        {
            passage.push(line(), text);
        } else if matches!(event, Event::Code(_)) {
            passage.push(line(), CODE);
        } else if matches!(event, Event::SoftBreak | Event::HardBreak) {
            passage.text.push(' ');
        } else if ends_passage(&event) {
            found.extend(passage.take());
        }
    }
    found.extend(passage.take());
    found
}

/// Returns whether the event starts or ends a block, rather than a link or emphasis within one.
fn ends_passage(event: &Event<'_>) -> bool {
    let is_within = matches!(
        event,
        Event::Start(
            Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Link { .. } | Tag::Image { .. }
        ) | Event::End(
            TagEnd::Emphasis
                | TagEnd::Strong
                | TagEnd::Strikethrough
                | TagEnd::Link
                | TagEnd::Image
        )
    );
    matches!(event, Event::Start(_) | Event::End(_)) && !is_within
}

/// Returns the lines, counted from 1, of code blocks and tables, which cannot be wrapped.
pub(super) fn fixed_lines(text: &str) -> BTreeSet<usize> {
    let line = |offset: usize| text[..offset].matches('\n').count() + 1;
    parse(text)
        .filter(|(event, _)| matches!(event, Event::Start(Tag::CodeBlock(_) | Tag::Table(_))))
        .flat_map(|(_, range)| line(range.start)..=line(range.end.max(1) - 1))
        .collect()
}

/// Returns the destination and line of each link and image.
pub(super) fn links(text: &str) -> Vec<(String, usize)> {
    let mut links = Vec::new();
    for (event, range) in parse(text) {
        if let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = event {
            let line = text[..range.start].matches('\n').count() + 1;
            links.push((dest_url.into_string(), line));
        }
    }
    links
}

/// Returns the anchors of the headings, as the usual Git hosts make them: in lower case, without
/// punctuation, with hyphens for spaces, and with a number appended if the anchor is taken.
pub(super) fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut heading = String::new();
    for (event, _) in parse(text) {
        if let Event::Start(Tag::Heading { .. }) = event {
            heading.clear();
        } else if let Event::Text(text) | Event::Code(text) = &event {
            heading.push_str(text);
        } else if let Event::End(TagEnd::Heading(_)) = event {
            let name = anchor(&heading);
            let mut unique = name.clone();
            let mut number = 0;
            while !anchors.insert(unique.clone()) {
                number += 1;
                unique = format!("{name}-{number}");
            }
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            _ => letter.is_alphanumeric().then_some(letter),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_the_usual_hosts() {
        let text = "# A client gets no ticks\n## `/status`, and *more*\n## Twice\n## Twice\n";
        let expected = [
            "a-client-gets-no-ticks",
            "status-and-more",
            "twice",
            "twice-1",
        ];
        assert_eq!(anchors(text), expected.map(str::to_owned).into());
    }

    #[test]
    fn tables_and_code_are_fixed_and_paragraphs_are_not() {
        let text = "a\n\n| b |\n|---|\n| c |\n\nd\n\n```\ne\n```\nf\n";
        assert_eq!(fixed_lines(text), [3, 4, 5, 9, 10, 11].into());
    }
}
