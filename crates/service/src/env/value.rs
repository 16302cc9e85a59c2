//! The types that a setting can have: how each is written, and what its rule allows. Rules are data, so that the check and
//! the sentence that explains it can't differ.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::duration::{self, Written};

/// What a setting's text is parsed to.
pub trait Value: Sized {
    /// What narrows the type down: a range, a length, a set of characters.
    type Rule: Sync + 'static;

    /// Parses `text`; none where the rule does not allow it.
    fn parse(text: &str, rule: &Self::Rule) -> Option<Self>;

    /// Says what is allowed, for errors and documents.
    fn allowed(rule: &Self::Rule) -> String;

    /// What an unset setting without a default means, where it can mean something.
    #[must_use]
    fn unset() -> Option<Self> {
        None
    }
}

/// Where a duration may lie, in milliseconds, and how it is written.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    min_ms: u64,
    max_ms: u64,
    form: Form,
    never_multiple_of_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// `250ms`, `15s`, `1m30s`.
    Units,
    /// A number of milliseconds: settings whose name ends in _MS.
    Millis,
}

impl Span {
    /// Durations with a unit.
    #[must_use]
    pub const fn units(min_ms: u64, max_ms: u64) -> Self {
        Self {
            min_ms,
            max_ms,
            form: Form::Units,
            never_multiple_of_ms: None,
        }
    }

    /// Plain numbers of milliseconds.
    #[must_use]
    pub const fn millis(min_ms: u64, max_ms: u64) -> Self {
        Self {
            min_ms,
            max_ms,
            form: Form::Millis,
            never_multiple_of_ms: None,
        }
    }

    /// The same without the multiples of `ms`.
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
            allowed.push_str(&format!(", no multiple of {step}"));
        }
        allowed
    }
}

/// Digits only: `parse` alone would take a plus sign too.
fn parse_digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

macro_rules! whole_numbers {
    ($($number:ty),+) => {$(
        impl Value for $number {
            type Rule = RangeInclusive<Self>;

            fn parse(text: &str, rule: &Self::Rule) -> Option<Self> {
                text.parse().ok().filter(|number| !text.starts_with('+') && rule.contains(number))
            }

            fn allowed(rule: &Self::Rule) -> String {
                format!("a whole number from {} to {}", rule.start(), rule.end())
            }
        }
    )+};
}
whole_numbers!(u32, usize, i64);

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

    /// Names are not looked up, not even localhost: it may mean either of two addresses, and a listener needs one.
    fn parse(text: &str, (): &()) -> Option<Self> {
        text.parse().ok()
    }

    fn allowed((): &()) -> String {
        "an IP address and a port, as in 0.0.0.0:8080, 127.0.0.1:8080 or [::]:8080 (no host name; port 0: any free one)"
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

/// Which texts are allowed, and the words that say so.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    allowed: &'static str,
    is_allowed: fn(&str) -> bool,
}

impl Text {
    /// Names of clocks and edges: they stand in subjects, labels and logs.
    pub const ID: Self = Self::new("1 to 64 characters of A-Z a-z 0-9 . _ -", |text| {
        (1..=64).contains(&text.len()) && text.bytes().all(is_id_byte)
    });

    /// Names and passwords. 1,024 bytes twice fit into an AUTH of at most 4,096 bytes with room for all else.
    pub const CREDENTIAL: Self =
        Self::new("1 to 1024 bytes", |text| (1..=1_024).contains(&text.len()));

    /// Texts of which `is_allowed` is true; `allowed` says in words which those are.
    #[must_use]
    pub const fn new(allowed: &'static str, is_allowed: fn(&str) -> bool) -> Self {
        Self {
            allowed,
            is_allowed,
        }
    }

    /// Whether `text` is allowed.
    #[must_use]
    pub fn allows(&self, text: &str) -> bool {
        (self.is_allowed)(text)
    }
}

/// Whether `byte` may stand in the id of a clock or an edge.
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

/// The most entries of a list. The lists are written by hand; this only keeps a mistake from growing.
const LIST_MAX: usize = 64;

impl Value for Vec<String> {
    type Rule = Text;

    fn parse(text: &str, rule: &Text) -> Option<Self> {
        let mut items = Self::new();
        for item in text.split(',').map(str::trim) {
            if !rule.allows(item) || items.iter().any(|earlier| earlier == item) {
                return None;
            }
            items.push(item.into());
        }
        (items.len() <= LIST_MAX).then_some(items)
    }

    fn allowed(rule: &Text) -> String {
        format!(
            "at most {LIST_MAX} different names, separated by commas, each of {}",
            rule.allowed
        )
    }

    fn unset() -> Option<Self> {
        Some(Self::new())
    }
}

/// A setting that may be left out.
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

/// Makes an enumeration a setting's type: its texts, and the value that each stands for.
#[macro_export]
macro_rules! choices {
    ($choice:ty: $($text:literal => $value:expr),+ $(,)?) => {
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
/// `a, b or c`.
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
