//! Interprets any bytes as an environment, as a file that a setting names, or as the text of one
//! value. Whatever the text is, it must be judged like a simple reading of the documentation does,
//! an error must name the setting, and an accepted value must mean the same when it is written
//! again.

mod environment;
mod networks;
mod tokens;

use std::time::Duration;

use tickstorm_edge::settings::CLOCKS;
use tickstorm_service::byte_size::ByteSize;
use tickstorm_service::duration::{self, Written};

pub(crate) fn run(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => environment::run(text),
        1 => tokens::run(text),
        2 => networks::run(text),
        _ => value(text),
    }
}

/// Reads a text as a value of every type that has a grammar of its own.
fn value(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let parsed = duration::parse(text).ok();
    assert_eq!(parsed, simple_duration(text), "{text:?}");
    if let Some(parsed) = parsed {
        assert_eq!(duration::parse(&Written(parsed).to_string()), Ok(parsed));
    }
    let parsed = text.parse::<ByteSize>().ok();
    assert_eq!(parsed.map(ByteSize::bytes), simple_size(text), "{text:?}");
    if let Some(parsed) = parsed {
        assert_eq!(parsed.to_string().parse(), Ok(parsed));
    }
    if let Some(names) = CLOCKS.parse(text) {
        assert!(!names.is_empty());
        assert_eq!(CLOCKS.parse(&names.join(" , ")), Some(names));
    }
}

/// Reads a duration from its end: the units ascend.
fn simple_duration(text: &str) -> Option<Duration> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let (mut rest, mut sum_ms) = (text, 0_u128);
    for (unit, unit_ms) in units {
        let Some(before) = rest.strip_suffix(unit) else {
            continue;
        };
        let digits_at = before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number: u128 = before[digits_at..].parse().ok()?;
        sum_ms = number.checked_mul(unit_ms)?.checked_add(sum_ms)?;
        rest = &before[..digits_at];
    }
    let is_complete = rest.is_empty() && !text.is_empty();
    let sum_ms = u64::try_from(sum_ms).ok().filter(|_| is_complete)?;
    Some(Duration::from_millis(sum_ms))
}

fn simple_size(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let unit = units.iter().find(|(unit, _)| text.ends_with(unit));
    let (unit, shift) = unit.copied().unwrap_or(("", 0));
    let digits = &text[..text.len() - unit.len()];
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    number.checked_mul(1 << shift)
}

/// Returns the text of a list in a file, unless it contains what no list may.
fn list(content: &[u8]) -> Option<&str> {
    let text = str::from_utf8(content).ok()?;
    let is_plain = |c: char| !c.is_control() || "\t\r\n".contains(c);
    (!text.starts_with('\u{feff}') && text.chars().all(is_plain)).then_some(text)
}
