//! A table for people: Markdown whose columns are aligned.

use std::io::{self, Write};

/// Writes the headings and the rows, each of which has as many cells as there are headings.
pub(crate) fn write<const N: usize>(
    out: &mut impl Write,
    headings: [&str; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([headings[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: &[String; N]| {
        let padded = cells.iter().zip(&widths);
        let padded: Vec<String> = padded
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "| {} |", padded.join(" | "))
    };
    line(&headings.map(str::to_owned))?;
    line(&widths.map(|width| "-".repeat(width)))?;
    rows.iter().try_for_each(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["silent", "1 → 2"].map(str::to_owned),
            ["a", ""].map(str::to_owned),
        ];
        let mut out = Vec::new();
        write(&mut out, ["attack", "p99 (ms)"], &rows).unwrap();
        let expected = "| attack | p99 (ms) |\n\
                        | ------ | -------- |\n\
                        | silent | 1 → 2    |\n\
                        | a      |          |\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
