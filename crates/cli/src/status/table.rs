//! Tables for a terminal of 80 columns: cells are cut and padded to the width of their column.

use std::ffi::OsStr;
use std::fmt;

use super::text::{clean, cut};

/// The space between two columns.
const GAP: &str = "  ";

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    /// They are not.
    Plain,
    /// They are.
    Colours,
}

/// The meaning of a text, which its colour shows in addition to its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    #[default]
    Normal,
    /// All is well.
    Good,
    /// Something to look at.
    Remark,
    /// Something is wrong.
    Bad,
    /// A heading.
    Heading,
}

impl Paint {
    /// Returns colours for a terminal, unless the environment asks for none: `no_color` is the
    /// value of NO_COLOR, and `terminal` that of TERM.
    pub(super) fn for_terminal(
        is_terminal: bool,
        no_color: Option<&OsStr>,
        terminal: Option<&OsStr>,
    ) -> Self {
        let is_refused = no_color.is_some_and(|value| !value.is_empty());
        if is_terminal && !is_refused && terminal.is_none_or(|name| name != "dumb") {
            Self::Colours
        } else {
            Self::Plain
        }
    }

    /// Returns `text` in the colour of `tone`.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Plain, _) | (Self::Colours, Tone::Normal) => return text.to_owned(),
            (Self::Colours, Tone::Good) => "32",
            (Self::Colours, Tone::Remark) => "33",
            (Self::Colours, Tone::Bad) => "31",
            (Self::Colours, Tone::Heading) => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A column: its title, its width, and on which side its cells are padded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    width: usize,
    is_number: bool,
}

impl Column {
    /// Creates a column of words.
    pub(super) const fn words(title: &'static str, width: usize) -> Self {
        Self {
            title,
            width,
            is_number: false,
        }
    }

    /// Creates a column of numbers.
    pub(super) const fn numbers(title: &'static str, width: usize) -> Self {
        Self {
            title,
            width,
            is_number: true,
        }
    }

    fn pad(&self, text: &str) -> String {
        let text = cut(&clean(text), self.width);
        let width = self.width;
        if self.is_number {
            format!("{text:>width$}")
        } else {
            format!("{text:<width$}")
        }
    }
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Creates a cell whose text is shown in the colour of `tone`.
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Normal)
    }
}

/// A table.
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[Cell; N]>,
    paint: Paint,
}

impl<const N: usize> Table<N> {
    pub(super) const fn new(columns: [Column; N], paint: Paint) -> Self {
        Self {
            columns,
            rows: Vec::new(),
            paint,
        }
    }

    pub(super) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = self.columns.map(|column| column.pad(column.title));
        let titles = titles.join(GAP);
        writeln!(f, "{}", self.paint.paint(Tone::Heading, titles.trim_end()))?;
        for row in &self.rows {
            let cells = self.columns.iter().zip(row);
            let painted = cells.map(|(column, cell)| {
                let text = column.pad(&cell.text);
                self.paint.paint(cell.tone, &text)
            });
            let line = painted.collect::<Vec<_>>().join(GAP);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_cut_and_padded_on_their_side() {
        let columns = [Column::words("Name", 6), Column::numbers("N", 3)];
        let mut table = Table::new(columns, Paint::Plain);
        table.push(["a-long-name".into(), "12".into()]);
        table.push(["b\n".into(), Cell::new("", Tone::Bad)]);
        assert_eq!(table.to_string(), "Name      N\na-l…me   12\nb?\n");
    }

    #[test]
    fn colours_need_a_terminal_that_wants_them() {
        let paint = |is_terminal, no_color: Option<&str>, terminal: Option<&str>| {
            Paint::for_terminal(
                is_terminal,
                no_color.map(OsStr::new),
                terminal.map(OsStr::new),
            )
        };
        assert_eq!(paint(true, None, Some("xterm")), Paint::Colours);
        assert_eq!(paint(true, Some(""), None), Paint::Colours);
        assert_eq!(paint(true, Some("1"), Some("xterm")), Paint::Plain);
        assert_eq!(paint(true, None, Some("dumb")), Paint::Plain);
        assert_eq!(paint(false, None, Some("xterm")), Paint::Plain);
        let bad = |paint: Paint| paint.paint(Tone::Bad, "a");
        assert_eq!(bad(Paint::Colours), "\x1b[31ma\x1b[0m");
        assert_eq!(bad(Paint::Plain), "a");
    }
}
