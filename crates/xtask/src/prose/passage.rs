//! Splits a file into [`Passage`]s, which are the text in it that people read: paragraphs, comments
//! and string literals, without the code around them.

use std::mem;

use ra_ap_rustc_lexer::{FrontmatterAllowed, LiteralKind, TokenKind, tokenize};

use super::{Source, markdown};

/// A paragraph, a comment or a string literal. Each line break in it is replaced by a space, so
/// that a phrase is found even if a line break splits it.
#[derive(Default)]
pub(super) struct Passage {
    pub(super) text: String,
    /// The offset in `text` at which each line of the file starts, and that line's number.
    lines: Vec<(usize, usize)>,
}

/// Text whose lines need not follow each other in the file, such as the lines of a comment without
/// their `//`.
#[derive(Default)]
pub(super) struct Excerpt {
    pub(super) text: String,
    /// For each line of `text`, its line number in the file.
    lines: Vec<usize>,
}

/// Returns everything in a file that people read.
pub(super) fn passages(source: &Source<'_>) -> Vec<Passage> {
    let name = source.path.rsplit('/').next().unwrap_or(source.path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        "md" => markdown::passages(&Excerpt::whole(source.text)),
        "rs" => rust(source.text),
        "proto" => comments(source.text, "//"),
        "txt" | "svg" | "json" => Vec::new(),
        _ => comments(source.text, "#"),
    }
}

impl Passage {
    /// Returns the number of the file's line that contains an offset in `text`.
    pub(super) fn line(&self, offset: usize) -> usize {
        let after = self.lines.partition_point(|&(start, _)| start <= offset);
        self.lines[after.saturating_sub(1)].1
    }

    /// Adds text of a line of the file.
    pub(super) fn push(&mut self, line: usize, text: &str) {
        if self.lines.last().is_none_or(|&(_, last)| last != line) {
            self.lines.push((self.text.len(), line));
        }
        self.text.push_str(text);
    }

    /// Clears the passage, and returns its former content unless that has no letter in it.
    pub(super) fn take(&mut self) -> Option<Self> {
        let taken = mem::take(self);
        taken.text.contains(char::is_alphabetic).then_some(taken)
    }
}

impl Excerpt {
    pub(super) fn whole(text: &str) -> Self {
        let mut excerpt = Self::default();
        for (index, line) in text.lines().enumerate() {
            excerpt.push(index + 1, line);
        }
        excerpt
    }

    fn push(&mut self, line: usize, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
        self.lines.push(line);
    }

    /// Returns the number of the file's line that contains an offset in `text`.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines[self.text[..offset].matches('\n').count()]
    }
}

/// Returns the passages of a Rust file: its comments, read as Markdown, and the string literals
/// that contain a space.
fn rust(text: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    let mut comment = Excerpt::default();
    let (mut offset, mut line) = (0, 1);
    for token in tokenize(text, FrontmatterAllowed::No) {
        let end = offset + token.len as usize;
        let token_text = &text[offset..end];
        let is_line_break =
            token.kind == TokenKind::Whitespace && token_text.matches('\n').count() < 2;
        if let TokenKind::LineComment { .. } = token.kind {
            comment.push(line, token_text.trim_start_matches(['/', '!']));
        } else if let TokenKind::BlockComment { .. } = token.kind {
            for (index, text) in token_text.lines().enumerate() {
                comment.push(line + index, text.trim_matches([' ', '/', '*', '!']));
            }
        } else if !is_line_break {
            found.extend(markdown::passages(&mem::take(&mut comment)));
            if let TokenKind::Literal { kind, .. } = token.kind
                && matches!(kind, LiteralKind::Str { .. } | LiteralKind::RawStr { .. })
            {
                found.extend(literal(token_text, line));
            }
        }
        offset = end;
        line += token_text.matches('\n').count();
    }
    found.extend(markdown::passages(&comment));
    found
}

fn literal(text: &str, line: usize) -> Option<Passage> {
    let mut passage = Passage::default();
    for (index, text) in text.lines().enumerate() {
        let text = text.trim_end_matches('\\').trim();
        let gap = if index > 0 { " " } else { "" };
        passage.push(line + index, &format!("{gap}{text}"));
    }
    passage.take().filter(|passage| passage.text.contains(' '))
}

/// Returns the comments of a file in which `marker` starts a comment. Consecutive comment lines are
/// one passage; a comment after code is a passage by itself.
fn comments(text: &str, marker: &str) -> Vec<Passage> {
    let after = format!(" {marker} ");
    let mut found = Vec::new();
    let mut comment = Passage::default();
    for (index, text) in text.lines().enumerate() {
        if let Some(text) = text.trim_start().strip_prefix(marker) {
            comment.push(index + 1, text.trim());
            comment.text.push(' ');
            continue;
        }
        found.extend(comment.take());
        let quotes = |text: &str| text.matches('"').count();
        if let Some((code, text)) = text.split_once(&after)
            && quotes(code).is_multiple_of(2)
        {
            comment.push(index + 1, text);
            found.extend(comment.take());
        }
    }
    found.extend(comment.take());
    found
}
