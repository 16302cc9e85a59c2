//! The types that a setting can have: how each is written, and which values its rule allows. Rules
//! are data, so that the check and the text that explains it can't differ.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use secrecy::SecretString;
use tickstorm_timebase::ClockId;
use tickstorm_timebase::clock_id::CLOCK_ID_BYTES_MAX;

use crate::byte_size::{self, ByteSize};
use crate::duration::{self, Written};

/// The type of a setting's value, parsed from text.
pub trait Value: Sized {
    /// A restriction on the values of the type: a range, a length, a set of characters.
    type Rule: Sync + 'static;

    /// Parses `text`. Returns `None` if the rule does not allow it.
    fn parse(text: &str, rule: &Self::Rule) -> Option<Self>;

    /// Returns a noun phrase for the values that are allowed, for error messages ("expected …") and
    /// documentation.
    fn allowed(rule: &Self::Rule) -> String;

    /// Returns what is wrong with a text that the rule does not allow, if only a part of it is. The
    /// description of what is allowed comes before it.
    #[must_use]
    fn problem(_text: &str, _rule: &Self::Rule) -> Option<String> {
        None
    }

    /// Returns the value of an unset setting that has no default, if the type has such a value.
    #[must_use]
    fn unset() -> Option<Self> {
        None
    }
}

/// The range of a duration, in milliseconds, and the way it is written.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    min_ms: u64,
    max_ms: u64,
    form: Form,
    never_multiple_of_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// Numbers with units, such as `250ms`, `15s` or `1m30s`.
    Units,
    /// A number of milliseconds, for settings whose name ends in _MS.
    Millis,
}

impl Span {
    /// Creates the rule for durations written with units.
    #[must_use]
    pub const fn units(min_ms: u64, max_ms: u64) -> Self {
        Self {
            min_ms,
            max_ms,
            form: Form::Units,
            never_multiple_of_ms: None,
        }
    }

    /// Creates the rule for durations written as plain numbers of milliseconds.
    #[must_use]
    pub const fn millis(min_ms: u64, max_ms: u64) -> Self {
        Self {
            min_ms,
            max_ms,
            form: Form::Millis,
            never_multiple_of_ms: None,
        }
    }

    /// Excludes the multiples of `ms`.
    #[must_use]
    pub const fn never_multiple_of(mut self, ms: u64) -> Self {
        self.never_multiple_of_ms = Some(ms);
        self
    }

    fn contains(&self, ms: u128) -> bool {
        let is_multiple_of = |step: u64| ms.is_multiple_of(step.into());
        (self.min_ms.into()..=self.max_ms.into()).contains(&ms)
            && !self.never_multiple_of_ms.is_some_and(is_multiple_of)
    }
}

impl Value for Duration {
    type Rule = Span;

    fn parse(text: &str, rule: &Span) -> Option<Self> {
        let duration = match rule.form {
            Form::Units => duration::parse(text).ok(),
            Form::Millis => parse_digits(text).map(Self::from_millis),
        };
        duration.filter(|duration| rule.contains(duration.as_millis()))
    }

    fn allowed(rule: &Span) -> String {
        let mut allowed = match rule.form {
            Form::Units => format!(
                "a duration from {} to {}, in {}",
                Written(Self::from_millis(rule.min_ms)),
                Written(Self::from_millis(rule.max_ms)),
                duration::FORM
            ),
            Form::Millis => {
                format!(
                    "a whole number of milliseconds from {} to {}",
                    rule.min_ms, rule.max_ms
                )
            }
        };
        if let Some(step) = rule.never_multiple_of_ms {
            allowed.push_str(&format!(", but not a multiple of {step}"));
        }
        allowed
    }
}

/// Parses digits only: `parse` alone would also accept a plus sign.
fn parse_digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

macro_rules! whole_numbers {
    ($($number:ty),+) => {$(
        impl Value for $number {
            type Rule = RangeInclusive<Self>;

            fn parse(text: &str, rule: &Self::Rule) -> Option<Self> {
                text.parse()
                    .ok()
                    .filter(|number| !text.starts_with('+') && rule.contains(number))
            }

            fn allowed(rule: &Self::Rule) -> String {
                format!("a whole number from {} to {}", rule.start(), rule.end())
            }
        }
    )+};
}
whole_numbers!(u32, usize, i64);

impl Value for ByteSize {
    type Rule = RangeInclusive<Self>;

    fn parse(text: &str, rule: &Self::Rule) -> Option<Self> {
        text.parse().ok().filter(|size| rule.contains(size))
    }

    fn allowed(rule: &Self::Rule) -> String {
        format!(
            "a size from {} to {}, as {}",
            rule.start(),
            rule.end(),
            byte_size::FORM
        )
    }
}

impl Value for bool {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        text.parse().ok()
    }

    fn allowed((): &()) -> String {
        "true or false".into()
    }
}

impl Value for SocketAddr {
    type Rule = ();

    /// Accepts no host names, not even localhost: that may stand for either of two addresses, and a
    /// listener needs exactly one.
    fn parse(text: &str, (): &()) -> Option<Self> {
        text.parse().ok()
    }

    fn allowed((): &()) -> String {
        "an IP address and port, such as 0.0.0.0:8080, 127.0.0.1:8080 or [::]:8080 \
         (not a host name; port 0 picks any free port)"
            .into()
    }
}

impl Value for PathBuf {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        Some(text.into())
    }

    fn allowed((): &()) -> String {
        "a path".into()
    }
}

/// A rule for text: a test for the texts that are allowed, and a description of them.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    allowed: &'static str,
    is_allowed: fn(&str) -> bool,
}

impl Text {
    /// The rule for names of edges, which appear in labels and logs.
    pub const ID: Self = Self::new("1 to 64 characters (A-Z a-z 0-9 . _ -)", |text| {
        (1..=64).contains(&text.len()) && text.bytes().all(is_id_byte)
    });

    /// The rule for names and passwords. Two of them, at 1,024 bytes each, fit into an AUTH of at
    /// most 4,096 bytes and leave room for its other fields.
    pub const CREDENTIAL: Self =
        Self::new("1 to 1024 bytes", |text| (1..=1_024).contains(&text.len()));

    /// Creates a rule that allows the texts for which `is_allowed` returns true. `allowed` is a
    /// noun phrase for them.
    #[must_use]
    pub const fn new(allowed: &'static str, is_allowed: fn(&str) -> bool) -> Self {
        Self {
            allowed,
            is_allowed,
        }
    }

    /// Returns a noun phrase for the texts that are allowed.
    #[must_use]
    pub const fn allowed(&self) -> &'static str {
        self.allowed
    }

    /// Returns whether `text` is allowed.
    #[must_use]
    pub fn allows(&self, text: &str) -> bool {
        (self.is_allowed)(text)
    }
}

/// Returns whether the id of an edge may contain `byte`.
pub(super) fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl Value for String {
    type Rule = Text;

    fn parse(text: &str, rule: &Text) -> Option<Self> {
        rule.allows(text).then(|| text.into())
    }

    fn allowed(rule: &Text) -> String {
        rule.allowed.into()
    }
}

impl Value for SecretString {
    type Rule = Text;

    fn parse(text: &str, rule: &Text) -> Option<Self> {
        rule.allows(text).then(|| text.into())
    }

    fn allowed(rule: &Text) -> String {
        rule.allowed.into()
    }
}

/// The maximum number of entries in a list. Lists are written by hand; the bound only limits the
/// damage that a mistake can do.
const LIST_MAX: usize = 64;

impl Value for ClockId {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        text.parse().ok()
    }

    fn allowed((): &()) -> String {
        format!("1 to {CLOCK_ID_BYTES_MAX} characters (A-Z a-z 0-9 - _)")
    }
}

impl<T: Value + PartialEq> Value for Vec<T> {
    type Rule = T::Rule;

    fn parse(text: &str, rule: &T::Rule) -> Option<Self> {
        let mut items = Self::new();
        for item in text.split(',') {
            let item = T::parse(item.trim(), rule)?;
            if items.contains(&item) {
                return None;
            }
            items.push(item);
        }
        (items.len() <= LIST_MAX).then_some(items)
    }

    fn allowed(rule: &T::Rule) -> String {
        format!(
            "at most {LIST_MAX} different names, separated by commas, each {}",
            T::allowed(rule)
        )
    }

    fn unset() -> Option<Self> {
        Some(Self::new())
    }
}

/// A setting that may be left unset.
impl<T: Value> Value for Option<T> {
    type Rule = T::Rule;

    fn parse(text: &str, rule: &T::Rule) -> Option<Self> {
        T::parse(text, rule).map(Some)
    }

    fn allowed(rule: &T::Rule) -> String {
        T::allowed(rule)
    }

    fn unset() -> Option<Self> {
        Some(None)
    }
}

/// Implements [`Value`] for an enumeration, from a list of texts and the variant that each stands
/// for, and a method that returns the text.
#[macro_export]
macro_rules! choices {
    ($choice:ty: $($text:literal => $value:path),+ $(,)?) => {
        impl $choice {
            /// Returns the text that stands for this value in a setting.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($value => $text,)+
                }
            }
        }

        impl $crate::env::Value for $choice {
            type Rule = ();

            fn parse(text: &str, (): &()) -> Option<Self> {
                match text {
                    $($text => Some($value),)+
                    _ => None,
                }
            }

            fn allowed((): &()) -> String {
                $crate::env::one_of(&[$($text),+])
            }
        }
    };
}

/// Joins words into a list of alternatives, such as `a, b or c`.
#[must_use]
pub fn one_of(words: &[impl Display]) -> String {
    let mut text = String::new();
    for (i, word) in words.iter().enumerate() {
        let before = match i {
            0 => "",
            _ if i + 1 == words.len() => " or ",
            _ => ", ",
        };
        text.push_str(&format!("{before}{word}"));
    }
    text
}
