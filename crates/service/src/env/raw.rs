//! The raw strings of the environment: finds the variable or file that holds a setting's text.
//! Other modules decide what the text means.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    path::PathBuf,
};

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{
    Origin, SettingsError, read_secret_file,
    setting::{About, AnySetting, FormerName, on_one_line},
    value::one_of,
};
use crate::duration;

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
        prefixes: &[&str],
        warnings: &mut Vec<String>,
    ) -> Self {
        let (mut ours, mut not_utf8, mut foreign) = (Vec::new(), HashSet::new(), Vec::new());
        for (name, value) in vars {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            if !settings
                .iter()
                .any(|setting| is_a_name_of(setting.about(), &name))
            {
                warnings.extend(misspelling_warning(&name, settings));
                if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
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
        }
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
            value: if may_be_secret(name) {
                "***".into()
            } else {
                on_one_line(value)
            },
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
    /// variable names, or in the variable with its former name. If the program does not obey the
    /// setting, `refused` is the reason.
    pub(super) fn find(
        &mut self,
        setting: &dyn AnySetting,
        refused: Option<&'static str>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Found>, SettingsError> {
        let about = setting.about();
        let direct = self.take(about.name, setting)?;
        let file = match about.file_variable() {
            Some(name) => self.take(&name, setting)?.map(|path| (name, path)),
            None => None,
        };
        let former = match about.former {
            Some(former) => self.take(former.name, setting)?.map(|text| (former, text)),
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
            let former = former.iter().map(|(former, text)| (former.name, text));
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
        match former {
            Some((former, text)) => {
                warnings.push(format!(
                    "{} is deprecated; use {} instead",
                    former.name, about.name
                ));
                merge_former(setting, found, former, text).map(Some)
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

/// Returns the value that was set under the former name. It is an error if another value is set
/// under the current name.
fn merge_former(
    setting: &dyn AnySetting,
    current: Option<Found>,
    former: FormerName,
    mut text: Zeroizing<String>,
) -> Result<Found, SettingsError> {
    let about = setting.about();
    if former.is_millis {
        let with_unit = Zeroizing::new(format!("{}ms", *text));
        if !setting.accepts(Some(&with_unit)) {
            return Err(SettingsError::Invalid {
                variable: former.name.into(),
                value: about.show(&text),
                allowed: format!(
                    "a plain number of milliseconds; {} expects {}",
                    about.name,
                    setting.allowed()
                ),
            });
        }
        text = with_unit;
    }
    let Some(current) = current else {
        return Ok(Found::in_env(former.name, text));
    };
    let same = current.text.as_ref().is_some_and(|current| {
        **current == *text
            || (former.is_millis && duration::parse(current) == duration::parse(&text))
    });
    if same {
        return Ok(current);
    }
    Err(SettingsError::Both {
        first: current.variable,
        second: former.name.into(),
        conflict: "are set to different values",
        keep: about.name.into(),
    })
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

/// Returns whether the value of a variable that is not known should not be printed.
fn may_be_secret(name: &str) -> bool {
    ["HEADER", "KEY", "PASS", "SECRET", "TOKEN"]
        .iter()
        .any(|word| name.contains(word))
}

/// Returns whether `name` is one of the variables that can hold the setting.
fn is_a_name_of(about: &About, name: &str) -> bool {
    about.name == name
        || about.former.is_some_and(|former| former.name == name)
        || (about.has_file_variable && name.strip_suffix("_FILE") == Some(about.name))
}

/// Returns a warning if `name` is one keystroke away from a setting's name. The settings share no
/// prefix by which every misspelt one could be recognised.
fn misspelling_warning(name: &str, settings: &[&dyn AnySetting]) -> Option<String> {
    let meant = settings
        .iter()
        .map(|setting| setting.about())
        .find(|about| is_one_edit_away(about.name.as_bytes(), name.as_bytes()))?;
    Some(format!(
        "{} is not a setting; did you mean {}?",
        on_one_line(name),
        meant.name
    ))
}

/// Returns whether adding, removing or replacing one byte turns `a` into `b`.
fn is_one_edit_away(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let same = short.iter().zip(long).take_while(|(s, l)| s == l).count();
    match long.len() - short.len() {
        0 => same < short.len() && short[same + 1..] == long[same + 1..],
        1 => short[same..] == long[same + 1..],
        _ => false,
    }
}
