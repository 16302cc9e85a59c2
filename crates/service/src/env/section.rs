//! A section: settings that one crate obeys, and a check across them. That crate declares the
//! section with [`settings!`](crate::settings!), and a program lists the sections that it takes.

use std::{error::Error, fmt, fs::File, path::PathBuf};

use super::{GoneName, Row, Setting, Settings, SettingsError, setting::AnySetting};

/// A group of settings. A program's sections, in order, make up its table of settings.
#[derive(Clone, Copy)]
pub struct Section {
    pub(super) settings: &'static [&'static dyn AnySetting],
    pub(super) check: Option<fn(&Settings, &mut Findings)>,
    pub(super) refused: Option<&'static str>,
    pub(super) owned: Option<OwnedPrefix>,
    pub(super) neighbours: &'static [&'static str],
    pub(super) gone: &'static [GoneName],
}

/// A prefix of variables of which only those that the section lists have an effect.
#[derive(Clone, Copy)]
pub(super) struct OwnedPrefix {
    pub(super) prefix: &'static str,
    /// Whether the others must be refused.
    pub(super) applies: fn(&Settings) -> bool,
}

impl Section {
    /// Creates a section of `settings`. A setting whose default is derived from another setting
    /// comes after that one.
    #[must_use]
    pub const fn new(settings: &'static [&'static dyn AnySetting]) -> Self {
        Self {
            settings,
            check: None,
            refused: None,
            owned: None,
            neighbours: &[],
            gone: &[],
        }
    }

    /// Adds a check across settings. It runs once all sections have been read, and considers only
    /// values that are valid on their own ([`Settings::look_up`]), so that one mistake causes one
    /// error.
    #[must_use]
    pub const fn checked(self, check: fn(&Settings, &mut Findings)) -> Self {
        Self {
            check: Some(check),
            ..self
        }
    }

    /// Marks the section as one that the program does not obey, for the reason `why`: any value
    /// other than the default is refused.
    #[must_use]
    pub const fn refused(self, why: &'static str) -> Self {
        Self {
            refused: Some(why),
            ..self
        }
    }

    /// Declares that the section lists all variables with this prefix that have an effect. Others
    /// are refused if `applies`, since someone expects them to have one.
    #[must_use]
    pub const fn owning(self, prefix: &'static str, applies: fn(&Settings) -> bool) -> Self {
        Self {
            owned: Some(OwnedPrefix { prefix, applies }),
            ..self
        }
    }

    /// Declares that names with these prefixes belong to others, however much they resemble names
    /// of settings.
    #[must_use]
    pub const fn beside(self, neighbours: &'static [&'static str]) -> Self {
        Self { neighbours, ..self }
    }

    /// Declares names of earlier programs that have no counterpart.
    #[must_use]
    pub const fn without(self, gone: &'static [GoneName]) -> Self {
        Self { gone, ..self }
    }

    /// Returns the names of earlier programs that have no counterpart.
    #[must_use]
    pub const fn gone_names(&self) -> &'static [GoneName] {
        self.gone
    }

    /// Returns the settings as rows of the documentation.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        self.settings.iter().map(|setting| Row::of(*setting))
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.settings).finish()
    }
}

/// The errors and warnings that the checks of sections find.
#[derive(Debug, Default)]
pub struct Findings {
    pub(super) errors: Vec<SettingsError>,
    pub(super) warnings: Vec<String>,
}

impl Findings {
    /// Adds an error for settings that are valid on their own but contradict each other. `error`
    /// names all of them.
    pub fn refuse(&mut self, error: impl Into<Box<dyn Error + Send + Sync>>) {
        self.errors.push(SettingsError::Together(error.into()));
    }

    /// Adds an error if the file that `setting` names can't be opened. Such a file is read again
    /// while the process runs, and a wrong path should be reported at start.
    pub fn refuse_unreadable(&mut self, settings: &Settings, setting: &Setting<Option<PathBuf>>) {
        let Some(Some(path)) = settings.look_up(setting) else {
            return;
        };
        if let Err(error) = File::open(&path) {
            self.errors.push(SettingsError::File {
                variable: setting.name().into(),
                path,
                source: error.into(),
            });
        }
    }

    /// Adds a warning: the settings are allowed, but an operator should look at them.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }
}
