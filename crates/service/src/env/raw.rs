//! The environment's raw strings: which variable gave a setting's text. What the text means is not decided here.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    path::PathBuf,
};

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{
    Origin, SettingsError, read_secret_file,
    setting::{About, AnySetting, Older},
};
use crate::duration;

/// Why a setting is refused for which there is no part yet.
const NOT_BUILT: &str = "not built yet in this version";

/// The variables that a program's settings can use, by name in lower case (envy's doing), without the empty ones.
pub(super) struct Raw {
    text_by_name: HashMap<String, String>,
    not_text: HashSet<String>,
}

/// A setting's text and where it stood. No text: its file is empty.
pub(super) struct Found {
    pub(super) variable: String,
    pub(super) text: Option<Zeroizing<String>>,
    pub(super) origin: Origin,
}

impl Raw {
    /// Keeps what `settings` can use of `vars`. Other variables may hold anything, even what is no text.
    pub(super) fn read(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        settings: &[&dyn AnySetting],
        warnings: &mut Vec<String>,
    ) -> Self {
        let (mut ours, mut not_text) = (Vec::new(), HashSet::new());
        for (name, value) in vars {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            if !settings.iter().any(|setting| names(setting.about(), &name)) {
                warnings.extend(nearly_a_setting(&name, settings));
                continue;
            }
            match value.into_string() {
                Ok(value) => ours.push((name, value)),
                Err(_) => {
                    not_text.insert(name);
                }
            }
        }
        let text_by_name = envy::from_iter(ours).expect("envy gives any text as a String");
        Self {
            text_by_name,
            not_text,
        }
    }

    fn take(
        &mut self,
        name: &str,
        setting: &dyn AnySetting,
    ) -> Result<Option<Zeroizing<String>>, SettingsError> {
        if self.not_text.contains(name) {
            let (variable, allowed) = (name.into(), setting.allowed());
            return Err(SettingsError::NotUtf8 { variable, allowed });
        }
        Ok(self
            .text_by_name
            .remove(&name.to_ascii_lowercase())
            .map(Zeroizing::new))
    }

    /// Finds the text of a setting under its name, in the file that its twin names, or under its older name. A program that does not
    /// obey it says why by `refused`.
    pub(super) fn find(
        &mut self,
        setting: &dyn AnySetting,
        refused: Option<&'static str>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Found>, SettingsError> {
        let about = setting.about();
        let direct = self.take(about.name, setting)?;
        let file = match about.file_name() {
            Some(name) => self.take(&name, setting)?.map(|path| (name, path)),
            None => None,
        };
        let older = match about.older {
            Some(older) => self.take(older.name, setting)?.map(|text| (older, text)),
            None => None,
        };
        let refused = if about.built {
            refused
        } else {
            Some(NOT_BUILT)
        };
        if let Some(why) = refused {
            let direct = direct.iter().map(|text| (about.name, text));
            let file = file.iter().map(|(name, path)| (name.as_str(), path));
            let older = older.iter().map(|(older, text)| (older.name, text));
            return refuse_all(about, why, direct.chain(file).chain(older)).map(|()| None);
        }
        let found = match (direct, file) {
            (Some(_), Some((second, _))) => {
                return Err(SettingsError::Both {
                    first: about.name.into(),
                    second,
                    how: "",
                    keep: "one of them".into(),
                });
            }
            (Some(text), None) => Some(Found::in_env(about.name, text)),
            (None, Some((variable, path))) => Some(Found::in_file(variable, &path)?),
            (None, None) => None,
        };
        match older {
            Some((older, text)) => {
                warnings.push(format!(
                    "{} is an older name: use {}",
                    older.name, about.name
                ));
                take_older(setting, found, older, text).map(Some)
            }
            None => Ok(found),
        }
    }
}

impl Found {
    fn in_env(variable: &str, text: Zeroizing<String>) -> Self {
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

/// Takes the value under the older name, unless the newer one says something else.
fn take_older(
    setting: &dyn AnySetting,
    newer: Option<Found>,
    older: Older,
    mut text: Zeroizing<String>,
) -> Result<Found, SettingsError> {
    let about = setting.about();
    if older.is_millis {
        let with_unit = Zeroizing::new(format!("{}ms", *text));
        if !setting.accepts(Some(&with_unit)) {
            return Err(SettingsError::Invalid {
                variable: older.name.into(),
                value: about.show(&text),
                allowed: format!(
                    "a plain number of milliseconds; {} takes {}",
                    about.name,
                    setting.allowed()
                ),
            });
        }
        text = with_unit;
    }
    let Some(newer) = newer else {
        return Ok(Found::in_env(older.name, text));
    };
    let same = newer.text.as_ref().is_some_and(|newer| {
        **newer == *text || (older.is_millis && duration::parse(newer) == duration::parse(&text))
    });
    if same {
        return Ok(newer);
    }
    Err(SettingsError::Both {
        first: newer.variable,
        second: older.name.into(),
        how: ", and differ",
        keep: about.name.into(),
    })
}

/// Refuses the first variable that asks for anything but the default of a setting which nothing here obeys.
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

/// Whether `name` is one of a setting's names.
fn names(about: &About, name: &str) -> bool {
    about.name == name
        || about.older.is_some_and(|older| older.name == name)
        || (about.file_twin && name.strip_suffix("_FILE") == Some(about.name))
}

/// A warning where `name` is one keystroke away from a setting: there is no prefix by which a misspelt one could be known.
fn nearly_a_setting(name: &str, settings: &[&dyn AnySetting]) -> Option<String> {
    let meant = settings
        .iter()
        .map(|setting| setting.about())
        .find(|about| is_one_edit_away(about.name.as_bytes(), name.as_bytes()))?;
    Some(format!("{name} is no setting: is {} meant?", meant.name))
}

/// Whether one byte added, left out or exchanged makes `a` of `b`.
fn is_one_edit_away(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let same = short.iter().zip(long).take_while(|(s, l)| s == l).count();
    match long.len() - short.len() {
        0 => same < short.len() && short[same + 1..] == long[same + 1..],
        1 => short[same..] == long[same + 1..],
        _ => false,
    }
}
