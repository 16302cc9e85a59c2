//! Sizes in bytes as people write them in settings: `67108864`, `64MiB`. This is the only grammar
//! for them.

use std::{fmt, str::FromStr};

/// A description of the form that [`ByteSize`] parses from, for messages and documentation.
pub const FORM: &str =
    "a whole number of bytes, or one with the unit KiB, MiB or GiB (67108864, 64MiB)";

/// The units and their lengths in bytes, largest first.
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// The error for a text that is not a size. It does not contain the text: the caller that reports
/// the error knows where the text came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {FORM}")]
pub struct InvalidByteSize;

impl ByteSize {
    /// Creates a size of `kib` kibibytes.
    #[must_use]
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// Creates a size of `mib` mebibytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidByteSize;

    /// Units of powers of ten are rejected, since readers would disagree on what `MB` means. Signs,
    /// fractions and spaces are also rejected.
    fn from_str(text: &str) -> Result<Self, InvalidByteSize> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit());
        let (digits, unit) = text.split_at(digits_end.unwrap_or(text.len()));
        let number: u64 = digits.parse().map_err(|_| InvalidByteSize)?;
        let unit_bytes = match unit {
            "" => 1,
            unit => {
                let known = UNITS.iter().find(|(name, _)| *name == unit);
                known.ok_or(InvalidByteSize)?.1
            }
        };
        number
            .checked_mul(unit_bytes)
            .map(Self)
            .ok_or(InvalidByteSize)
    }
}

impl fmt::Display for ByteSize {
    /// Writes the size in the largest unit of which it is a multiple.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |unit_bytes: u64| self.0 != 0 && self.0.is_multiple_of(unit_bytes);
        let unit = UNITS.iter().find(|(_, unit_bytes)| divides(*unit_bytes));
        let (unit, unit_bytes) = unit.unwrap_or(&("", 1));
        write!(f, "{}{unit}", self.0 / unit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_size_is_a_number_of_bytes_or_of_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("67108864", 1 << 26),
            ("512KiB", 1 << 19),
            ("64MiB", 1 << 26),
            ("3GiB", 3 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn every_other_form_is_rejected() {
        for text in [
            "",
            "64 MiB",
            " 64MiB",
            "64MiB ",
            "+64",
            "-64",
            "1.5GiB",
            "64MB",
            "64M",
            "64Mi",
            "64mib",
            "64TiB",
            "64B",
            "MiB",
            "1GiB512MiB",
            "0x40",
            "٣",
            "18446744073709551616",
            "18446744073709551615KiB",
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(InvalidByteSize), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_displayed_size_parses_back(
            bytes in prop_oneof![any::<u64>(), (0..64_u64, 0..1_000_u64).prop_map(|(shift, n)| {
                n.checked_shl(u32::try_from(shift % 50).unwrap_or(0)).unwrap_or(0)
            })],
        ) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,12}|[0-9KMGiB]{0,25}") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }
    }
}
