//! The raw strings of the environment: finds the variable or file that holds a setting's text.
//! Other modules decide what the text means.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    path::PathBuf,
};

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{
    Origin, SettingsError,
    former::{GoneEffect, GoneName},
    misspelling::{is_service_link, misspelling_warning},
    read_secret_file,
    setting::{About, AnySetting, on_one_line},
    value::one_of,
};

/// The reason for refusing a setting that no code obeys yet.
const NOT_BUILT: &str = "this version does not implement it yet";

/// The variables that belong to a program's settings and are not empty.
pub(super) struct RawVars {
    /// The text of each variable by its name in lower case (envy converts names).
    text_by_name: HashMap<String, Zeroizing<String>>,
    /// The names of variables whose value is not UTF-8.
    not_utf8: HashSet<String>,
    /// Variables that are not settings but have a prefix that a section owns, with their values.
    foreign: Vec<(String, Zeroizing<String>)>,
    /// Variables of earlier programs that have no counterpart, with their values, by their position
    /// in the list of such names.
    gone: BTreeMap<usize, (GoneName, Zeroizing<String>)>,
}

/// What is known of variables that are not settings.
#[derive(Default)]
pub(super) struct Others<'a> {
    /// The prefixes that sections own.
    pub(super) prefixes: Vec<&'static str>,
    /// The prefixes of names that resemble settings, and are not misspelt.
    pub(super) neighbours: Vec<&'static str>,
    /// The names of earlier programs that have no counterpart.
    pub(super) gone: Vec<&'a GoneName>,
}

/// A setting's text and its source. There is no text if the setting's file is empty.
pub(super) struct Found {
    pub(super) variable: String,
    pub(super) text: Option<Zeroizing<String>>,
    pub(super) origin: Origin,
}

impl RawVars {
    /// Keeps only the variables that belong to `settings`. Other variables may hold anything, even
    /// bytes that are not UTF-8.
    pub(super) fn collect(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        settings: &[&dyn AnySetting],
        others: &Others<'_>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let (mut ours, mut not_utf8, mut foreign) = (Vec::new(), HashSet::new(), Vec::new());
        let mut gone = BTreeMap::new();
        for (name, value) in vars {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if value.is_empty() || is_service_link(&name, &value.to_string_lossy()) {
                continue;
            }
            if let Some(position) = others.gone.iter().position(|gone| gone.name == name) {
                let value = Zeroizing::new(value.to_string_lossy().into_owned());
                gone.insert(position, (*others.gone[position], value));
                continue;
            }
            if !settings
                .iter()
                .any(|setting| is_a_name_of(setting.about(), &name))
            {
                let starts_with = |prefix: &&str| name.starts_with(prefix);
                if !others.neighbours.iter().any(starts_with) {
                    warnings.extend(misspelling_warning(&name, settings, &others.gone));
                }
                if others.prefixes.iter().any(starts_with) {
                    foreign.push((name, Zeroizing::new(value.to_string_lossy().into_owned())));
                }
                continue;
            }
            match value.into_string() {
                Ok(value) => ours.push((name, value)),
                Err(_) => {
                    not_utf8.insert(name);
                }
            }
        }
        let text_by_name: HashMap<String, String> =
            envy::from_iter(ours).expect("envy deserialises any text to a String");
        let text_by_name = text_by_name
            .into_iter()
            .map(|(name, text)| (name, Zeroizing::new(text)))
            .collect();
        Self {
            text_by_name,
            not_utf8,
            foreign,
            gone,
        }
    }

    /// Refuses or warns of each variable of earlier programs that has no counterpart.
    pub(super) fn judge_gone(&self, warnings: &mut Vec<String>) -> Vec<SettingsError> {
        let mut errors = Vec::new();
        for (GoneName { name, why, effect }, value) in self.gone.values() {
            match effect {
                GoneEffect::Warning => warnings.push(format!("{name} has no effect: {why}")),
                GoneEffect::Refused { unless } if value.as_str() == *unless => {}
                GoneEffect::Refused { unless } => errors.push(SettingsError::NotObeyed {
                    variable: (*name).into(),
                    value: shown(name, value),
                    why,
                    default: unless,
                }),
            }
        }
        errors
    }

    /// Returns an error for each variable with a prefix that the section `owned` must refuse.
    pub(super) fn refuse_foreign(
        &self,
        prefix: &str,
        known: &[&dyn AnySetting],
    ) -> impl Iterator<Item = SettingsError> {
        let names: Vec<_> = known.iter().map(|setting| setting.about().name).collect();
        let known = one_of(&names);
        let foreign = self.foreign.iter();
        let foreign = foreign.filter(move |(name, _)| name.starts_with(prefix));
        foreign.map(move |(name, value)| SettingsError::Unknown {
            variable: on_one_line(name),
            value: shown(name, value),
            known: known.clone(),
        })
    }

    fn take(
        &mut self,
        name: &str,
        setting: &dyn AnySetting,
    ) -> Result<Option<Zeroizing<String>>, SettingsError> {
        if self.not_utf8.contains(name) {
            let (variable, allowed) = (name.into(), setting.allowed());
            return Err(SettingsError::NotUtf8 { variable, allowed });
        }
        Ok(self.text_by_name.remove(&name.to_ascii_lowercase()))
    }

    /// Finds the text of a setting: in the variable with its name, in the file that its `_FILE`
    /// variable names, or in the variables with its former names. If the program does not obey the
    /// setting, `refused` is the reason. `default` returns the setting's default.
    pub(super) fn find(
        &mut self,
        setting: &dyn AnySetting,
        refused: Option<&'static str>,
        default: impl FnOnce() -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Found>, SettingsError> {
        let about = setting.about();
        let direct = self.take(about.name, setting)?;
        let file = match about.file_variable() {
            Some(name) => self.take(&name, setting)?.map(|path| (name, path)),
            None => None,
        };
        let mut former = Vec::new();
        for name in about.former.into_iter().flat_map(|former| former.names()) {
            former.extend(self.take(name, setting)?.map(|text| (name, text)));
        }
        let refused = if about.built {
            refused
        } else {
            Some(NOT_BUILT)
        };
        if let Some(why) = refused {
            let direct = direct.iter().map(|text| (about.name, text));
            let file = file.iter().map(|(name, path)| (name.as_str(), path));
            let former = former.iter().map(|(name, text)| (*name, text));
            return refuse_all(about, why, direct.chain(file).chain(former)).map(|()| None);
        }
        let found = match (direct, file) {
            (Some(_), Some((second, _))) => {
                return Err(SettingsError::Both {
                    first: about.name.into(),
                    second,
                    conflict: "are both set",
                    keep: "one of them".into(),
                });
            }
            (Some(text), None) => Some(Found::in_env(about.name, text)),
            (None, Some((variable, path))) => Some(Found::in_file(variable, &path)?),
            (None, None) => None,
        };
        match about.former {
            Some(names) if !former.is_empty() => {
                let default = default().unwrap_or_default();
                names
                    .merge(setting, found, &former, &default, warnings)
                    .map(Some)
            }
            Some(_) | None => Ok(found),
        }
    }
}

impl Found {
    pub(super) fn in_env(variable: &str, text: Zeroizing<String>) -> Self {
        Self {
            variable: variable.into(),
            text: Some(text),
            origin: Origin::Env,
        }
    }

    fn in_file(variable: String, path: &str) -> Result<Self, SettingsError> {
        let path = PathBuf::from(path);
        match read_secret_file(&path) {
            Ok(secret) => {
                let text = secret.map(|secret| Zeroizing::new(secret.expose_secret().into()));
                Ok(Self {
                    variable,
                    text,
                    origin: Origin::File(path),
                })
            }
            Err(source) => Err(SettingsError::File {
                variable,
                path,
                source,
            }),
        }
    }
}

/// Returns an error for the first variable that sets a setting that nothing obeys, unless it sets
/// the default.
fn refuse_all<'a>(
    about: &About,
    why: &'static str,
    mut set: impl Iterator<Item = (&'a str, &'a Zeroizing<String>)>,
) -> Result<(), SettingsError> {
    let default = about.default_text();
    match set.find(|(_, text)| text.as_str() != default) {
        Some((variable, text)) => Err(SettingsError::NotObeyed {
            variable: variable.into(),
            value: about.show(text),
            why,
            default,
        }),
        None => Ok(()),
    }
}

/// Returns the value of a variable that is not known, in the form in which it may be printed.
fn shown(name: &str, value: &str) -> String {
    if may_be_secret(name) {
        "***".into()
    } else {
        on_one_line(value)
    }
}

/// Returns whether the value of a variable that is not known should not be printed.
fn may_be_secret(name: &str) -> bool {
    ["HEADER", "KEY", "PASS", "SECRET", "TOKEN"]
        .iter()
        .any(|word| name.contains(word))
}

/// Returns whether `name` is one of the variables that can hold the setting.
fn is_a_name_of(about: &About, name: &str) -> bool {
    about.name == name
        || about
            .former
            .is_some_and(|former| former.names().any(|former| former == name))
        || (about.has_file_variable && name.strip_suffix("_FILE") == Some(about.name))
}
