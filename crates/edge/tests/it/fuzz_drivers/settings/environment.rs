//! Whole environments of an edge.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use tickstorm_edge::settings::{self, DEFAULTS};
use tickstorm_service::env::{Row, Section, Settings, SettingsErrors};
use tickstorm_service::error_chain::ErrorChain;
use tickstorm_service::nats::NATS;
use tickstorm_service::settings::COMMON;
use tickstorm_service::traces::settings::TRACES;

use super::super::text_file::TextFile;

/// Separates the variables of the input.
const SEPARATOR: u8 = 0x1E;
/// The end of every secret, by which it would be recognised in the output.
const CANARY: &[u8] = b"zQ7x";
/// Errors and values are cut, so no line is longer than this.
const LINE_BYTES_MAX: usize = 8_192;

fn sections() -> Vec<Section> {
    [&[COMMON, TRACES, NATS][..], &settings::SECTIONS].concat()
}

pub(super) fn run(text: &[u8]) {
    let rows: Vec<Row> = sections().iter().flat_map(Section::rows).collect();
    let row_of = |name: &str| rows.iter().find(|row| is_name_of(row, name));
    let mut vars = BTreeMap::from([
        ("STREAM_USER".to_owned(), b"somebody".to_vec()),
        ("STREAM_PASS".to_owned(), b"right".to_vec()),
    ]);
    let mut files = Vec::new();
    for variable in text.split(|byte| *byte == SEPARATOR) {
        let Some(equals) = variable.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = (&variable[..equals], &variable[equals + 1..]);
        let name = String::from_utf8_lossy(name).into_owned();
        let is_file = name.ends_with("_FILE") || name.ends_with("_PATH");
        // Other texts are names in the present folder: no path leads to a file that could block.
        let is_content = is_file && value.contains(&b'/');
        let is_secret = row_of(&name).is_some_and(|row| row.secret);
        let mut value = value.to_vec();
        if is_secret && !value.is_empty() && (is_content || !is_file) {
            value.extend_from_slice(CANARY);
        }
        if is_content {
            let file = TextFile::new(&value);
            value = file.path().as_os_str().as_bytes().to_vec();
            files.push(file);
        }
        vars.insert(name, value);
    }
    let outcome = load(vars.iter());
    let reversed = load(vars.iter().rev());
    match (&outcome, &reversed) {
        (Ok(settings), Ok(reversed)) => {
            assert_eq!(settings.check_config(), reversed.check_config());
            check_accepted(settings, &vars, &rows);
        }
        (Err(errors), Err(reversed)) => {
            assert_eq!(messages(errors), messages(reversed));
            check_errors(errors, &vars, &rows);
        }
        (_, _) => panic!("the order of the variables matters"),
    }
    for (name, value) in &vars {
        let row = row_of(name).filter(|row| row.name == name.as_str() && !value.is_empty());
        let is_refused = match (row, str::from_utf8(value)) {
            (Some(row), Ok(value)) => !row.accepts(value),
            (Some(_), Err(_)) => true,
            (None, _) => false,
        };
        let errors = outcome.as_ref().err().map(messages).unwrap_or_default();
        let is_named = errors.iter().any(|error| error.contains(name.as_str()));
        assert!(!is_refused || is_named, "{name} is not refused: {errors:?}");
    }
}

type Vars = BTreeMap<String, Vec<u8>>;

fn load<'a>(
    vars: impl Iterator<Item = (&'a String, &'a Vec<u8>)>,
) -> Result<Settings, SettingsErrors> {
    let vars = vars.map(|(name, value)| (name, OsString::from_vec(value.clone())));
    Settings::from_vars(vars, &sections(), &DEFAULTS)
}

fn messages(errors: &SettingsErrors) -> Vec<String> {
    errors
        .iter()
        .map(|error| ErrorChain(error).to_string())
        .collect()
}

fn is_name_of(row: &Row, name: &str) -> bool {
    [Some(row.name), row.file.as_deref()].contains(&Some(name)) || row.former_names.contains(&name)
}

/// Each error is one line that names a setting of the input, and holds no secret.
fn check_errors(errors: &SettingsErrors, vars: &Vars, rows: &[Row]) {
    let messages = messages(errors);
    assert!(!messages.is_empty());
    for message in messages {
        assert_is_line(&message);
        let is_named = |name: &String| {
            let row = rows.iter().find(|row| is_name_of(row, name));
            row.is_some_and(|row| message.contains(row.name) || message.contains(name.as_str()))
        };
        assert!(vars.keys().any(is_named), "no setting is named: {message}");
    }
    assert!(!contains_secret(&errors.to_string()), "{errors}");
}

/// Settings that were accepted are printed without secrets, and are the same if they are set to
/// what was printed.
fn check_accepted(settings: &Settings, vars: &Vars, rows: &[Row]) {
    let printed = settings.check_config();
    assert!(!contains_secret(&printed), "{printed}");
    let lines: Vec<_> = printed.split_terminator('\n').collect();
    lines.iter().for_each(|line| assert_is_line(line));
    settings
        .warnings()
        .iter()
        .for_each(|line| assert_is_line(line));
    assert_eq!(lines.len(), rows.len(), "{printed}");
    let is_exact = |value: &Vec<u8>| {
        let text = str::from_utf8(value);
        value.len() <= 1_000 && text.is_ok_and(|text| !text.chars().any(char::is_control))
    };
    if !vars.values().all(is_exact) {
        return;
    }
    let mut again = Vars::new();
    for (line, row) in lines.iter().zip(rows) {
        let (value, _) = value_in(line);
        assert!(line.starts_with(row.name), "{line}");
        let is_masked = row.secret || value.contains("***");
        if !is_masked {
            again.insert(row.name.to_owned(), value.as_bytes().to_vec());
            continue;
        }
        let given = vars.iter().filter(|(name, _)| is_name_of(row, name));
        again.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    }
    let printed_again = match load(again.iter()) {
        Ok(settings) => settings.check_config(),
        Err(errors) => panic!("what was printed is refused: {errors}"),
    };
    let lines_again = printed_again.split_terminator('\n');
    for (line, again) in lines.iter().zip(lines_again) {
        assert_eq!(value_in(line).0, value_in(again).0);
    }
}

/// Returns the value in a line of `--check-config`, and its origin.
fn value_in(line: &str) -> (&str, &str) {
    let (_, value) = line.split_once('=').expect("NAME=value");
    value.rsplit_once(" (").expect("an origin")
}

fn contains_secret(output: &str) -> bool {
    let canary = str::from_utf8(CANARY).expect("ASCII");
    output.contains(canary)
}

fn assert_is_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() <= LINE_BYTES_MAX, "{} bytes: {text}", text.len());
}
