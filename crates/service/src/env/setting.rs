//! The description of a setting, from which its documentation, its checks and its error messages
//! are derived. It holds no value.

use std::{fmt, path::Path};

use super::{Settings, Value, former::Former};

/// A setting of type `T`: its name, its help, its default with the reason for it, and the values
/// that are allowed.
#[derive(Debug)]
pub struct Setting<T: Value> {
    pub(super) about: About,
    pub(super) rule: T::Rule,
}

/// The part of a setting's description that does not depend on its type.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) preset: Preset,
    pub(super) why: &'static str,
    pub(super) shown: Shown,
    pub(super) has_file_variable: bool,
    pub(super) former: Option<Former>,
    pub(super) built: bool,
}

/// The default of a setting.
#[derive(Clone, Copy, Debug)]
pub(super) enum Preset {
    Text(&'static str),
    /// Determined at start, from this machine or from settings that come earlier in the table.
    Derived {
        how: &'static str,
        find: fn(&Settings) -> String,
    },
    Unset,
}

/// The way a value is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Plain,
    Masked,
    /// In full, except for the text before the last @: a URL may contain a password.
    Url,
}

impl<T: Value> Setting<T> {
    /// Creates a setting with the values that `rule` allows and a default. `why` is the reason for
    /// the default; it starts with a capital letter and has no final full stop.
    #[must_use]
    pub const fn new(rule: T::Rule, default: &'static str, why: &'static str) -> Self {
        Self::with(rule, Preset::Text(default), why)
    }

    /// Creates a setting without a default; `why` is the reason for that. It may be left unset if
    /// its type gives that a meaning ([`Value::unset`]), or if the program supplies a default.
    #[must_use]
    pub const fn unset(rule: T::Rule, why: &'static str) -> Self {
        Self::with(rule, Preset::Unset, why)
    }

    /// Creates a setting whose default `find` determines at start, possibly from settings that come
    /// earlier in the table. `how` describes the default in the documentation.
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
            has_file_variable: false,
            former: None,
            built: true,
        };
        Self { about, rule }
    }

    /// Sets the name and help that [`settings!`](crate::settings) takes from a declaration.
    #[doc(hidden)]
    #[must_use]
    pub const fn named(mut self, name: &'static str, help: &'static str) -> Self {
        self.about.name = name;
        self.about.help = help;
        self
    }

    /// Marks the value as secret: it is never printed.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.about.shown = Shown::Masked;
        self
    }

    /// Marks the value as one or more URLs. The text before the last @ is never printed, since it
    /// may contain a password.
    #[must_use]
    pub const fn url(mut self) -> Self {
        self.about.shown = Shown::Url;
        self
    }

    /// Makes the setting also accept its value from a file, whose path is in the variable
    /// `NAME_FILE`.
    #[must_use]
    pub const fn or_file(mut self) -> Self {
        self.about.has_file_variable = true;
        self
    }

    /// Makes the setting also accept its value under a former name.
    #[must_use]
    pub const fn formerly(mut self, name: &'static str) -> Self {
        self.about.former = Some(Former::Same(name));
        self
    }

    /// Makes the setting also accept its value under a former name, as a plain number of
    /// milliseconds.
    #[must_use]
    pub const fn formerly_millis(mut self, name: &'static str) -> Self {
        self.about.former = Some(Former::Millis(name));
        self
    }

    /// Makes the setting, which is a plain number of milliseconds, also accept its value under a
    /// former name, as a duration with a unit.
    #[must_use]
    pub const fn formerly_units(mut self, name: &'static str) -> Self {
        self.about.former = Some(Former::Units(name));
        self
    }

    /// Makes the setting, which is an address, also accept its parts under two former names. If one
    /// of them is missing, that part is the default's.
    #[must_use]
    pub const fn formerly_host_and_port(mut self, host: &'static str, port: &'static str) -> Self {
        self.about.former = Some(Former::HostAndPort { host, port });
        self
    }

    /// Marks the setting as one that nothing obeys yet: any value but its default is refused.
    #[must_use]
    pub const fn not_built(mut self) -> Self {
        self.about.built = false;
        self
    }

    /// Returns the name of its environment variable.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.about.name
    }

    /// Parses `text` as a value of this setting. This is for text that does not come from the
    /// environment (a file that is read again, a command's option).
    #[must_use]
    pub fn parse(&self, text: &str) -> Option<T> {
        T::parse(text, &self.rule)
    }

    /// Parses `text`, or returns the value of an unset setting if there is no text.
    pub(super) fn value(&self, text: Option<&str>) -> Option<T> {
        text.map_or_else(T::unset, |text| self.parse(text))
    }

    /// Returns a noun phrase for the values that are allowed.
    #[must_use]
    pub fn allowed(&self) -> String {
        T::allowed(&self.rule)
    }
}

/// A setting of any type, so that a section can list them together. Only [`Setting`] implements it.
pub trait AnySetting: Sync {
    /// Returns the part of the description that does not depend on the type.
    fn about(&self) -> &About;
    /// Returns whether `text`, or leaving the setting unset, gives a valid value.
    fn accepts(&self, text: Option<&str>) -> bool;
    /// Returns a noun phrase for the values that are allowed.
    fn allowed(&self) -> String;
    /// Returns what is wrong with a `text` that is not valid, on one line, if only a part of it is.
    fn problem(&self, text: &str) -> Option<String>;
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

    fn problem(&self, text: &str) -> Option<String> {
        T::problem(text, &self.rule).map(|problem| on_one_line(&problem))
    }
}

impl About {
    pub(super) fn file_variable(&self) -> Option<String> {
        self.has_file_variable
            .then(|| format!("{}_FILE", self.name))
    }

    /// Returns the default as the documentation shows it.
    pub(super) fn default_text(&self) -> &'static str {
        match self.preset {
            Preset::Text(text) => text,
            Preset::Derived { how, .. } => how,
            Preset::Unset => "",
        }
    }

    /// Returns `value` in the form in which it may be printed: on one line, without secrets.
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

/// The maximum number of characters of a value that an error or `--check-config` prints.
const SHOWN_MAX: usize = 1_024;

/// Returns a path in the form in which it may be printed.
pub(super) fn show_path(path: &Path) -> String {
    on_one_line(&path.to_string_lossy())
}

/// Returns a text in the form in which it may be printed: without control characters, and cut.
pub(crate) fn on_one_line(text: &str) -> String {
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

/// A setting as the documentation shows it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name of the variable.
    pub name: &'static str,
    /// The default: in words if it is determined at start, empty if there is none.
    pub default: &'static str,
    /// The reason for the default.
    pub why: &'static str,
    /// The values that are allowed.
    pub allowed: String,
    /// The help text.
    pub help: &'static str,
    /// Whether the value is secret and never printed.
    pub secret: bool,
    /// The variable that may name a file with the value, if there is one.
    pub file: Option<String>,
    /// The former names that are still accepted.
    pub former_names: Vec<&'static str>,
    /// Whether the setting is implemented; if not, only its default is accepted.
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
            file: about.file_variable(),
            former_names: about
                .former
                .into_iter()
                .flat_map(|former| former.names())
                .collect(),
            built: about.built,
            setting,
        }
    }

    /// Returns whether `text` is a valid value.
    #[must_use]
    pub fn accepts(&self, text: &str) -> bool {
        self.setting.accepts(Some(text))
    }
}
