//! The settings of a program, loaded and checked. Only the type of a value interprets its text;
//! nothing here depends on what it means.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    Findings, Section, Setting, SettingsError, SettingsErrors, Value,
    raw::{Found, Others, RawVars},
    setting::{About, AnySetting, Preset, show_path},
};

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The setting was not set.
    Default,
    /// An environment variable.
    Env,
    /// The file named by a `*_FILE` variable.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Env => f.write_str("env"),
            Self::File(path) => write!(f, "file {}", show_path(path)),
        }
    }
}

/// The values of all settings in the loaded sections. Its `Display` and `Debug` output masks
/// secrets, like [`Settings::check_config`].
pub struct Settings {
    loaded: Vec<Loaded>,
    warnings: Vec<String>,
}

struct Loaded {
    setting: &'static dyn AnySetting,
    text: Option<Zeroizing<String>>,
    origin: Origin,
}

impl Loaded {
    fn text(&self) -> Option<&str> {
        self.text.as_ref().map(|text| text.as_str())
    }

    fn shown(&self) -> String {
        self.text()
            .map_or_else(String::new, |text| self.setting.about().show(text))
    }
}

impl Settings {
    /// Loads the settings of `sections` from this process's environment. `defaults` are pairs of a
    /// name and a text that replace the defaults in the table, for programs that need other ones.
    ///
    /// # Errors
    /// Returns all errors together.
    pub fn load(sections: &[Section], defaults: &[(&str, &str)]) -> Result<Self, SettingsErrors> {
        Self::from_vars(env::vars_os(), sections, defaults)
    }

    /// Loads the settings of `sections` from `vars`, so that tests need not change the environment,
    /// which all threads share.
    ///
    /// # Errors
    /// Returns all errors together.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
        sections: &[Section],
        defaults: &[(&str, &str)],
    ) -> Result<Self, SettingsErrors> {
        let vars = vars
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        let mut findings = Findings::default();
        let all: Vec<_> = sections
            .iter()
            .flat_map(|section| section.settings)
            .copied()
            .collect();
        let owned = sections.iter().filter_map(|section| section.owned);
        let others = Others {
            prefixes: owned.map(|owned| owned.prefix).collect(),
            neighbours: sections
                .iter()
                .flat_map(|section| section.neighbours)
                .copied()
                .collect(),
            gone: sections.iter().flat_map(|section| section.gone).collect(),
        };
        let mut raw = RawVars::collect(vars, &all, &others, &mut findings.warnings);
        let mut settings = Self {
            loaded: Vec::new(),
            warnings: Vec::new(),
        };
        for section in sections {
            for setting in section.settings.iter().copied() {
                let default = || settings.preset_text(setting.about(), defaults);
                let found = raw.find(setting, section.refused, default, &mut findings.warnings);
                let outcome = found.and_then(|found| match found {
                    Some(found) => accept(setting, found),
                    None => settings.preset(setting, defaults),
                });
                match outcome {
                    Ok(loaded) => settings.loaded.push(loaded),
                    Err(error) => findings.errors.push(error),
                }
            }
        }
        findings
            .errors
            .extend(raw.judge_gone(&mut findings.warnings));
        for check in sections.iter().filter_map(|section| section.check) {
            check(&settings, &mut findings);
        }
        for section in sections {
            if let Some(owned) = section.owned.filter(|owned| (owned.applies)(&settings)) {
                let foreign = raw.refuse_foreign(owned.prefix, section.settings);
                findings.errors.extend(foreign);
            }
        }
        let Findings { errors, warnings } = findings;
        if errors.is_empty() {
            Ok(Self {
                warnings,
                ..settings
            })
        } else {
            Err(SettingsErrors { errors, warnings })
        }
    }

    /// Loads the value of `setting` alone from this process's environment, in a program with these
    /// `defaults`. Errors in other settings are ignored: they do not concern a command that only
    /// queries the running process.
    ///
    /// # Errors
    /// Returns an error if this setting is invalid.
    pub fn load_one<T: Value>(
        setting: &'static Setting<T>,
        defaults: &[(&str, &str)],
    ) -> Result<T, SettingsError> {
        let mut ignored_warnings = Vec::new();
        let empty = Self {
            loaded: Vec::new(),
            warnings: Vec::new(),
        };
        let others = Others::default();
        let mut raw = RawVars::collect(env::vars_os(), &[setting], &others, &mut ignored_warnings);
        let default = || empty.preset_text(setting.about(), defaults);
        let found = raw.find(setting, None, default, &mut ignored_warnings)?;
        let loaded = match found {
            Some(found) => accept(setting, found)?,
            None => empty.preset(setting, defaults)?,
        };
        Ok(setting.value(loaded.text()).expect("it was accepted"))
    }

    /// Returns the value of `setting`.
    ///
    /// # Panics
    /// Panics if the setting's section was not loaded. That is a bug, which shows the first time
    /// that the program starts.
    #[must_use]
    pub fn get<T: Value>(&self, setting: &Setting<T>) -> T {
        self.look_up(setting)
            .expect("the setting's section was loaded")
    }

    /// Returns the value of `setting`, or `None` if it was not loaded or is invalid.
    #[must_use]
    pub fn look_up<T: Value>(&self, setting: &Setting<T>) -> Option<T> {
        setting.value(self.loaded(setting.name())?.text())
    }

    /// Returns the source of the value of `setting`.
    ///
    /// # Panics
    /// Panics if the setting's section was not loaded.
    #[must_use]
    pub fn origin_of<T: Value>(&self, setting: &Setting<T>) -> &Origin {
        &self
            .loaded(setting.name())
            .expect("the setting's section was loaded")
            .origin
    }

    /// Returns the file that holds the value of `setting`, if there is one. The caller can read it
    /// again when it changes.
    ///
    /// # Panics
    /// Panics if the setting's section was not loaded.
    #[must_use]
    pub fn file_of<T: Value>(&self, setting: &Setting<T>) -> Option<&Path> {
        match self.origin_of(setting) {
            Origin::File(path) => Some(path),
            Origin::Default | Origin::Env => None,
        }
    }

    /// Returns the warnings: they are not errors, but an operator should look at them. The caller
    /// logs them once logging has been started.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the output of `--check-config`: a line `NAME=value (default|env|file PATH)` for each
    /// setting, with secrets masked.
    #[must_use]
    pub fn check_config(&self) -> String {
        self.to_string()
    }

    fn loaded(&self, name: &str) -> Option<&Loaded> {
        self.loaded
            .iter()
            .find(|loaded| loaded.setting.about().name == name)
    }

    /// Returns a setting that is not set, with its default value.
    fn preset(
        &self,
        setting: &'static dyn AnySetting,
        defaults: &[(&str, &str)],
    ) -> Result<Loaded, SettingsError> {
        let about = setting.about();
        let text = self.preset_text(about, defaults).map(Zeroizing::new);
        accept(
            setting,
            Found {
                variable: about.name.into(),
                text,
                origin: Origin::Default,
            },
        )
    }

    /// Returns the text of a setting's default, if there is one.
    fn preset_text(&self, about: &About, defaults: &[(&str, &str)]) -> Option<String> {
        let replaced = defaults.iter().find(|(name, _)| *name == about.name);
        match (replaced, about.preset) {
            (Some((_, text)), _) => Some((*text).to_owned()),
            (None, Preset::Text(text)) => Some(text.to_owned()),
            (None, Preset::Derived { find, .. }) => Some(find(self)),
            (None, Preset::Unset) => None,
        }
    }
}

/// Accepts the text that was found, if the setting's rule allows it.
fn accept(setting: &'static dyn AnySetting, found: Found) -> Result<Loaded, SettingsError> {
    let loaded = Loaded {
        setting,
        text: found.text,
        origin: found.origin,
    };
    if setting.accepts(loaded.text()) {
        return Ok(loaded);
    }
    let value = match &loaded.origin {
        Origin::File(path) => format!("{} (the text in the file)", show_path(path)),
        Origin::Default | Origin::Env => loaded.shown(),
    };
    let mut allowed = setting.allowed();
    if let Some(problem) = loaded.text().and_then(|text| setting.problem(text)) {
        allowed.push_str(&format!(": {problem}"));
    }
    Err(SettingsError::Invalid {
        variable: found.variable,
        value,
        allowed,
    })
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for loaded in &self.loaded {
            let name = loaded.setting.about().name;
            writeln!(f, "{name}={} ({})", loaded.shown(), loaded.origin)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
