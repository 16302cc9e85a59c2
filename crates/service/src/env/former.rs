//! Names under which earlier programs took their settings. A [`Former`] is translated, and a
//! [`GoneName`] has no counterpart. Nobody who relies on an old name should find out from the
//! behaviour of a program that it is ignored.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use super::{
    SettingsError,
    raw::Found,
    setting::{AnySetting, on_one_line},
};
use crate::duration;

/// The variables in which an earlier program expected the value of a setting.
#[derive(Clone, Copy, Debug)]
pub(super) enum Former {
    /// One with the same values.
    Same(&'static str),
    /// One with a plain number of milliseconds, although the setting itself needs a unit.
    Millis(&'static str),
    /// One with a duration and its unit, although the setting is a plain number of milliseconds.
    Units(&'static str),
    /// Two with the parts of an address. Either may be missing.
    HostAndPort {
        host: &'static str,
        port: &'static str,
    },
}

/// A variable in which an earlier program expected a setting that no longer exists.
#[derive(Clone, Copy, Debug)]
pub struct GoneName {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
    pub(super) effect: GoneEffect,
}

/// What happens if a variable without a counterpart is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneEffect {
    /// It is refused, unless its value is this one, which asks for what happens anyway.
    Refused {
        /// The value that is accepted; empty if there is none.
        unless: &'static str,
    },
    /// It causes a warning. Meant for names that other programs use as well.
    Warning,
}

impl GoneName {
    /// Creates a name that is refused. `why` completes "is not supported: ", and says what to do
    /// instead.
    #[must_use]
    pub const fn refused(name: &'static str, why: &'static str) -> Self {
        Self::refused_unless("", name, why)
    }

    /// Creates a name that is refused unless its value is `accepted`.
    #[must_use]
    pub const fn refused_unless(
        accepted: &'static str,
        name: &'static str,
        why: &'static str,
    ) -> Self {
        let effect = GoneEffect::Refused { unless: accepted };
        Self { name, why, effect }
    }

    /// Creates a name that causes a warning only. `why` completes "has no effect: ".
    #[must_use]
    pub const fn warned_of(name: &'static str, why: &'static str) -> Self {
        let effect = GoneEffect::Warning;
        Self { name, why, effect }
    }

    /// Returns the name of the variable.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the reason, and what to do instead.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        self.why
    }

    /// Returns what happens if it is set.
    #[must_use]
    pub const fn effect(&self) -> GoneEffect {
        self.effect
    }
}

impl Former {
    /// Returns the names of the variables.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let (first, second) = match self {
            Self::Same(name) | Self::Millis(name) | Self::Units(name) => (name, None),
            Self::HostAndPort { host, port } => (host, Some(port)),
        };
        [Some(first), second].into_iter().flatten()
    }

    /// Returns the value that the variables in `texts`, of which there is at least one, set. It is
    /// an error if `current` sets another one. `default` is the setting's default, from which a
    /// missing part of an address is taken.
    pub(super) fn merge(
        self,
        setting: &dyn AnySetting,
        current: Option<Found>,
        texts: &[(&'static str, Zeroizing<String>)],
        default: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Found, SettingsError> {
        let about = setting.about();
        let names: Vec<_> = texts.iter().map(|(name, _)| *name).collect();
        let base = current.as_ref().and_then(|current| current.text.as_ref());
        let base = base.map_or(default, |text| text);
        let translated = self.translate(setting, texts, base);
        let instead = match (self, &translated) {
            (Self::Units(_) | Self::HostAndPort { .. }, Ok(text)) if current.is_none() => {
                format!("{}={}", about.name, about.show(text))
            }
            (_, _) => about.name.to_owned(),
        };
        let are = if names.len() == 1 { "is" } else { "are" };
        let names = names.join(" and ");
        warnings.push(format!("{names} {are} deprecated; use {instead} instead"));
        let text = translated?;
        let Some(current) = current else {
            let (variable, _) = &texts[0];
            return Ok(Found::in_env(variable, text));
        };
        let is_same = current.text.as_ref().is_some_and(|current| {
            **current == *text
                || (matches!(self, Self::Millis(_))
                    && duration::parse(current) == duration::parse(&text))
        });
        if is_same {
            return Ok(current);
        }
        Err(SettingsError::Both {
            first: current.variable,
            second: names,
            conflict: "are set to different values",
            keep: about.name.into(),
        })
    }

    /// Returns the setting's text that the variables in `texts` stand for.
    fn translate(
        self,
        setting: &dyn AnySetting,
        texts: &[(&'static str, Zeroizing<String>)],
        base: &str,
    ) -> Result<Zeroizing<String>, SettingsError> {
        let (name, text) = &texts[0];
        let about = setting.about();
        let (translated, form) = match self {
            Self::Same(_) => return Ok(text.clone()),
            Self::HostAndPort { host, .. } => return address(host, texts, base),
            Self::Millis(_) => (
                Some(format!("{}ms", **text)),
                "a plain number of milliseconds",
            ),
            Self::Units(_) => (
                duration::parse(text)
                    .ok()
                    .map(|it| it.as_millis().to_string()),
                "a duration with a unit, such as 5ms",
            ),
        };
        let translated = translated.map(Zeroizing::new);
        match translated.filter(|text| setting.accepts(Some(text))) {
            Some(translated) => Ok(translated),
            None => Err(SettingsError::Invalid {
                variable: (*name).into(),
                value: about.show(text),
                allowed: format!("{form}; {} expects {}", about.name, setting.allowed()),
            }),
        }
    }
}

/// Joins a host and a port, of which a missing one is taken from `base`.
fn address(
    host_name: &str,
    parts: &[(&'static str, Zeroizing<String>)],
    base: &str,
) -> Result<Zeroizing<String>, SettingsError> {
    let mut address: SocketAddr = base
        .parse()
        .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    for (name, text) in parts {
        let invalid = |allowed: &str| SettingsError::Invalid {
            variable: (*name).into(),
            value: on_one_line(text),
            allowed: allowed.into(),
        };
        if *name == host_name {
            let host: Result<IpAddr, _> = text.parse();
            address.set_ip(host.map_err(|_| {
                invalid("an IP address, such as 0.0.0.0, 127.0.0.1 or ::1 (not a host name)")
            })?);
        } else {
            let port = text.parse().ok().filter(|_| !text.starts_with('+'));
            address.set_port(port.ok_or_else(|| invalid("a port number from 0 to 65535"))?);
        }
    }
    let mut text = Zeroizing::new(String::new());
    write!(text, "{address}").expect("a String grows as needed");
    Ok(text)
}
