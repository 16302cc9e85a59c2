//! A section: the settings that one crate obeys, and what must hold between them. The crate that obeys them declares it, by
//! [`settings!`](crate::settings), and a program lists the sections that it takes.

use std::{error::Error, fmt, fs::File, path::PathBuf};

use super::{Row, Setting, Settings, SettingsError, setting::AnySetting};

/// Settings that belong together. A program's sections, one after the other, are its table of settings.
#[derive(Clone, Copy)]
pub struct Section {
    pub(super) settings: &'static [&'static dyn AnySetting],
    pub(super) check: Option<fn(&Settings, &mut Findings)>,
    pub(super) refused: Option<&'static str>,
}

impl Section {
    /// The section of `settings`. One whose default is derived from another's value stands behind that.
    #[must_use]
    pub const fn new(settings: &'static [&'static dyn AnySetting]) -> Self {
        Self {
            settings,
            check: None,
            refused: None,
        }
    }

    /// The same, with a check of what its settings must be to each other. It runs when all sections have been read, and looks only at
    /// values that are fine alone ([`Settings::look_up`]): one mistake, one error.
    #[must_use]
    pub const fn checked(self, check: fn(&Settings, &mut Findings)) -> Self {
        Self {
            check: Some(check),
            ..self
        }
    }

    /// The same in a program that does not obey it, and says `why`: anything but a default is refused.
    #[must_use]
    pub const fn refused(self, why: &'static str) -> Self {
        Self {
            refused: Some(why),
            ..self
        }
    }

    /// Its settings as documents show them.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        self.settings.iter().map(|setting| Row::of(*setting))
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.settings).finish()
    }
}

/// What the checks of sections find.
#[derive(Debug, Default)]
pub struct Findings {
    pub(super) errors: Vec<SettingsError>,
    pub(super) warnings: Vec<String>,
}

impl Findings {
    /// Settings that are fine alone do not go together: `error` names all of them.
    pub fn refuse(&mut self, error: impl Into<Box<dyn Error + Send + Sync>>) {
        self.errors.push(SettingsError::Together(error.into()));
    }

    /// A file that is read again while the process runs can't be opened: a wrong path is better told before that.
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

    /// Settings are allowed, but someone should look at them.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }
}
