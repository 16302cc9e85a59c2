//! Durations as people write them, in settings and on command lines: `500ms`, `15s`, `1m30s`. This
//! is the only grammar for them.

use std::{fmt, time::Duration};

/// A description of the form that [`parse`] accepts, for messages and documentation.
pub const FORM: &str =
    "whole numbers with units h, m, s or ms, largest unit first (500ms, 15s, 1m30s)";

/// The units and their lengths in milliseconds, largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The error for a text that is not a duration. It does not contain the text: the caller that
/// reports the error knows where the text came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration in {FORM}")]
pub struct InvalidDuration;

/// Parses a duration: whole numbers, each with a unit, largest unit first and no unit twice. A bare
/// number is rejected, since readers would guess different units for it. Signs, fractions and
/// spaces are also rejected.
///
/// # Errors
/// Returns an error if `text` has any other form, or the duration is not below 2^64 ms.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let (mut rest, mut units, mut sum_ms) = (text, UNITS.iter(), 0_u64);
    loop {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit());
        let (digits, after) = rest.split_at(digits_end.ok_or(InvalidDuration)?);
        let unit_end = after.find(|c: char| c.is_ascii_digit());
        let (unit, after) = after.split_at(unit_end.unwrap_or(after.len()));
        // The iterator never goes back to larger units, so none can follow a smaller one.
        let (_, unit_ms) = units
            .find(|(name, _)| *name == unit)
            .ok_or(InvalidDuration)?;
        let number: u64 = digits.parse().map_err(|_| InvalidDuration)?;
        sum_ms = number
            .checked_mul(*unit_ms)
            .and_then(|ms| sum_ms.checked_add(ms))
            .ok_or(InvalidDuration)?;
        if after.is_empty() {
            return Ok(Duration::from_millis(sum_ms));
        }
        rest = after;
    }
}

/// Displays a duration in a form that [`parse`] accepts, in the largest unit of which it is a
/// multiple. Fractions of a millisecond are dropped.
#[derive(Clone, Copy, Debug)]
pub struct Written(pub Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let divides = |unit_ms: u64| ms != 0 && ms.is_multiple_of(unit_ms.into());
        let unit = UNITS.iter().find(|(_, unit_ms)| divides(*unit_ms));
        let (unit, unit_ms) = unit.unwrap_or(&("s", 1_000));
        write!(f, "{}{unit}", ms / u128::from(*unit_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option::of, prelude::*};

    use super::*;

    #[test]
    fn durations_are_the_sum_of_their_units() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("15s", 15_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1h1ms", 3_600_001),
            ("1h2m3s4ms", 3_723_004),
            ("0h0m90s", 90_000),
            ("18446744073709551615ms", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn every_other_form_is_rejected() {
        for text in [
            "",
            "15",
            "15 s",
            " 15s",
            "15s ",
            "+15s",
            "-15s",
            "1.5s",
            "15S",
            "15sec",
            "1m 30s",
            "1m30",
            "30s1m",
            "1s1s",
            "1ms1s",
            "ms",
            "s15",
            "1d",
            "900000us",
            "PT15S",
            "٣s",
            "18446744073709551616ms",
            "18446744073709551615ms1s",
            "99999999999999999h",
        ] {
            assert_eq!(parse(text), Err(InvalidDuration), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_displayed_duration_parses_back(ms in prop_oneof![any::<u64>(), 0..100_000_000_u64]) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&Written(duration).to_string()), Ok(duration));
        }

        #[test]
        fn units_are_accepted_in_descending_order_only(
            parts in [of(0..10_000_u64), of(0..10_000_u64), of(0..10_000_u64), of(0..10_000_u64)],
            order in Just(vec![0, 1, 2, 3]).prop_shuffle(),
        ) {
            let written = |unit: usize| parts[unit].map(|n| format!("{n}{}", UNITS[unit].0));
            let descending: String = (0..4).filter_map(written).collect();
            let shuffled: String = order.into_iter().filter_map(written).collect();
            let ms = parts
                .iter()
                .zip(UNITS)
                .map(|(n, (_, unit_ms))| n.unwrap_or(0) * unit_ms)
                .sum();
            prop_assume!(!descending.is_empty());
            prop_assert_eq!(parse(&descending), Ok(Duration::from_millis(ms)));
            prop_assert_eq!(parse(&shuffled).is_ok(), shuffled == descending);
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,12}|[0-9hms]{0,25}") {
            if let Ok(duration) = parse(&text) {
                prop_assert_eq!(parse(&Written(duration).to_string()), Ok(duration));
            }
        }
    }
}
