//! One row of a table: everything that is said about a setting, once. It holds no value.

use std::fmt;

use super::{Settings, Value};

/// A setting of type `T`: name, default and its reason, what is allowed, and what it is for.
#[derive(Debug)]
pub struct Setting<T: Value> {
    pub(super) about: About,
    pub(super) rule: T::Rule,
}

/// What does not depend on the setting's type.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) preset: Preset,
    pub(super) why: &'static str,
    pub(super) shown: Shown,
    pub(super) file_twin: bool,
    pub(super) older: Option<Older>,
    pub(super) built: bool,
}

/// What holds where nothing is set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Preset {
    Text(&'static str),
    /// Found at start, from this machine or from settings that stand before this one in the table.
    Derived {
        how: &'static str,
        find: fn(&Settings) -> String,
    },
    Unset,
}

/// How a value is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Plain,
    Masked,
    /// As it is, but for what stands before the last @: a URL may carry a password.
    Url,
}

/// A name from the requirement documents that stands for a setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Older {
    pub(super) name: &'static str,
    /// Its value is a plain number of milliseconds where the setting wants a unit.
    pub(super) is_millis: bool,
}

impl<T: Value> Setting<T> {
    /// A setting whose values `rule` allows, and its default, for which `why` is the reason.
    #[must_use]
    pub const fn new(rule: T::Rule, default: &'static str, why: &'static str) -> Self {
        Self::with(rule, Preset::Text(default), why)
    }

    /// A setting without a default, for which `why` is the reason. It may be left out if that means something ([`Value::unset`]), or
    /// if the program brings a default of its own.
    #[must_use]
    pub const fn unset(rule: T::Rule, why: &'static str) -> Self {
        Self::with(rule, Preset::Unset, why)
    }

    /// A setting whose default is found at start. `find` may look up settings that stand before it; documents say `how`.
    #[must_use]
    pub const fn derived(
        rule: T::Rule,
        how: &'static str,
        find: fn(&Settings) -> String,
        why: &'static str,
    ) -> Self {
        Self::with(rule, Preset::Derived { how, find }, why)
    }

    const fn with(rule: T::Rule, preset: Preset, why: &'static str) -> Self {
        let about = About {
            name: "",
            help: "",
            preset,
            why,
            shown: Shown::Plain,
            file_twin: false,
            older: None,
            built: true,
        };
        Self { about, rule }
    }

    /// The same under this name, with its help: what [`settings!`](crate::settings) makes of a declaration.
    #[doc(hidden)]
    #[must_use]
    pub const fn named(mut self, name: &'static str, help: &'static str) -> Self {
        self.about.name = name;
        self.about.help = help;
        self
    }

    /// Its value is never printed.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.about.shown = Shown::Masked;
        self
    }

    /// Its value is a URL, or several, of which what stands before the last @ is never printed: it may be a password.
    #[must_use]
    pub const fn url(mut self) -> Self {
        self.about.shown = Shown::Url;
        self
    }

    /// The value may stand in a file that `NAME_FILE` names.
    #[must_use]
    pub const fn or_file(mut self) -> Self {
        self.about.file_twin = true;
        self
    }

    /// An older name stands for it, too.
    #[must_use]
    pub const fn formerly(mut self, name: &'static str) -> Self {
        self.about.older = Some(Older {
            name,
            is_millis: false,
        });
        self
    }

    /// An older name stands for it, too, whose value is a plain number of milliseconds.
    #[must_use]
    pub const fn formerly_millis(mut self, name: &'static str) -> Self {
        self.about.older = Some(Older {
            name,
            is_millis: true,
        });
        self
    }

    /// Nothing obeys it yet: anything but its default is refused.
    #[must_use]
    pub const fn not_built(mut self) -> Self {
        self.about.built = false;
        self
    }

    /// The name of its environment variable.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.about.name
    }

    /// Parses `text` as this setting's value, for what arrives otherwise (a file read again, an option of a command).
    #[must_use]
    pub fn parse(&self, text: &str) -> Option<T> {
        T::parse(text, &self.rule)
    }

    /// The value that `text` makes, or what none means.
    pub(super) fn value(&self, text: Option<&str>) -> Option<T> {
        text.map_or_else(T::unset, |text| self.parse(text))
    }

    /// Says what is allowed.
    #[must_use]
    pub fn allowed(&self) -> String {
        T::allowed(&self.rule)
    }
}

/// A setting of any type, as sections list them. Only [`Setting`]s are such.
pub trait AnySetting: Sync {
    /// What does not depend on its type.
    fn about(&self) -> &About;
    /// Whether `text`, or none, makes a value.
    fn accepts(&self, text: Option<&str>) -> bool;
    /// What is allowed.
    fn allowed(&self) -> String;
}

impl fmt::Debug for dyn AnySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about().name)
    }
}

impl<T: Value> AnySetting for Setting<T> {
    fn about(&self) -> &About {
        &self.about
    }

    fn accepts(&self, text: Option<&str>) -> bool {
        self.value(text).is_some()
    }

    fn allowed(&self) -> String {
        self.allowed()
    }
}

impl About {
    pub(super) fn file_name(&self) -> Option<String> {
        self.file_twin.then(|| format!("{}_FILE", self.name))
    }

    /// The default as documents give it.
    pub(super) fn default_text(&self) -> &'static str {
        match self.preset {
            Preset::Text(text) => text,
            Preset::Derived { how, .. } => how,
            Preset::Unset => "",
        }
    }

    /// `value` as it may be printed: no secret, and on one line.
    pub(super) fn show(&self, value: &str) -> String {
        match self.shown {
            Shown::Masked => "***".into(),
            Shown::Plain => on_one_line(value),
            Shown::Url => match value.rsplit_once('@') {
                Some((_, host)) => format!("***@{}", on_one_line(host)),
                None => on_one_line(value),
            },
        }
    }
}

/// The most characters of a value that an error or `--check-config` repeats.
const SHOWN_MAX: usize = 1_024;

fn on_one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().take(SHOWN_MAX) {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    if text.chars().nth(SHOWN_MAX).is_some() {
        line.push('…');
    }
    line
}

/// A setting as documents and `--help` show it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The variable's name.
    pub name: &'static str,
    /// The default, in words where it is found at start, empty where there is none.
    pub default: &'static str,
    /// The default's reason.
    pub why: &'static str,
    /// What is allowed.
    pub allowed: String,
    /// What it is for.
    pub help: &'static str,
    /// Whether its value is never printed.
    pub secret: bool,
    /// The variable that may name a file with the value.
    pub file: Option<String>,
    /// An older name that is still accepted.
    pub older: Option<&'static str>,
    /// Whether anything but the default is accepted yet.
    pub built: bool,
    setting: &'static dyn AnySetting,
}

impl Row {
    pub(super) fn of(setting: &'static dyn AnySetting) -> Self {
        let about = setting.about();
        Self {
            name: about.name,
            default: about.default_text(),
            why: about.why,
            allowed: setting.allowed(),
            help: about.help.trim_start(),
            secret: about.shown == Shown::Masked,
            file: about.file_name(),
            older: about.older.map(|older| older.name),
            built: about.built,
            setting,
        }
    }

    /// Whether `text` makes a value.
    #[must_use]
    pub fn accepts(&self, text: &str) -> bool {
        self.setting.accepts(Some(text))
    }
}
