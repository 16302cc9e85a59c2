//! docs/operations.md says of settings what the table says, no more and no less.

use std::fs;

use tickstorm_service::env::{Group, Row, table::rows};

/// Who takes a setting, as the document's headings name them.
fn section(row: &Row) -> Option<&'static str> {
    match row.groups {
        groups if groups.contains(&Group::Common) => Some("### Clock and edge"),
        groups if groups.contains(&Group::Clock) => Some("### Clock"),
        groups if groups.contains(&Group::Edge) => Some("### Edge"),
        _ => None,
    }
}

/// A setting's row in the document.
fn line(row: &Row) -> String {
    let file = row
        .file
        .as_ref()
        .map_or_else(String::new, |file| format!(" Or `{file}`."));
    let older = row
        .older
        .map_or_else(String::new, |older| format!(" Once `{older}`."));
    format!(
        "| `{}` | {} | {}{file}{older} Takes {}. The default's reason: {}. |",
        row.name, row.default, row.help, row.allowed, row.why
    )
}

#[test]
fn the_documented_settings_are_those_that_are_obeyed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let document = fs::read_to_string(path).unwrap();
    for heading in ["### Clock and edge", "### Clock", "### Edge"] {
        let expected: Vec<_> = rows()
            .filter(|row| row.built && section(row) == Some(heading))
            .map(|row| line(&row))
            .collect();
        let documented: Vec<_> = document
            .lines()
            .skip_while(|line| *line != heading)
            .skip(1)
            .take_while(|line| !line.starts_with('#'))
            .filter(|line| line.starts_with("| `"))
            .collect();
        assert_eq!(
            documented,
            expected,
            "under {heading} there should be:\n{}",
            expected.join("\n")
        );
    }
}
