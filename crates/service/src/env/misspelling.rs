//! Warns of variables whose names are almost those of settings. The settings share no prefix by
//! which every misspelt one could be recognised.

use super::{
    former::{GoneEffect, GoneName},
    setting::{About, AnySetting, on_one_line},
};

/// The most letters that may be added, removed, replaced or swapped with their neighbour.
const EDITS_MAX: usize = 2;

/// The length of a setting's name from which two edits count if the first letter stays. They turn a
/// shorter one into any other word.
const MEDIUM_NAME: usize = 6;

/// The length of a setting's name from which two edits count in any case. A shorter one is hardly
/// misspelt in its first letter, and in another word: `DATA_URL` is no misspelt `NATS_URL`.
const LONG_NAME: usize = 9;

/// Returns a warning if `name` is within [`EDITS_MAX`] edits of a name of one of the `settings`, or
/// of a `gone` one that is refused. The nearest one is named, under its current name. Letters of
/// another case are no edits.
pub(super) fn misspelling_warning(
    name: &str,
    settings: &[&dyn AnySetting],
    gone: &[&GoneName],
) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let meant = settings.iter().map(|setting| setting.about());
    let (_, meant) = meant
        .flat_map(names)
        .chain(gone.iter().filter_map(|gone| refused_name(gone)))
        .filter_map(|(known, meant)| Some((edits(&known, &upper)?, meant)))
        .min_by_key(|(edits, _)| *edits)?;
    Some(format!(
        "{} is not a setting; did you mean {meant}?",
        on_one_line(name)
    ))
}

/// Returns each name of a setting, and the one to use in its place.
fn names(about: &About) -> impl Iterator<Item = (String, String)> {
    let current = about.name.to_owned();
    let former = about.former.into_iter().flat_map(|former| former.names());
    [current.clone()]
        .into_iter()
        .chain(about.file_variable())
        .map(|name| (name.clone(), name))
        .chain(former.map(move |name| (name.to_owned(), current.clone())))
}

/// Returns the name of a refused variable, and what to say of it. Those that are only warned of
/// belong to other programs, as do names that resemble them.
fn refused_name(gone: &GoneName) -> Option<(String, String)> {
    match gone.effect {
        GoneEffect::Refused { .. } => {
            let name = gone.name;
            Some((name.to_owned(), format!("{name}, which is not supported")))
        }
        GoneEffect::Warning => None,
    }
}

/// Returns the number of edits that turn `known` into `name`, if there are few.
fn edits(known: &str, name: &str) -> Option<usize> {
    if known.len().abs_diff(name.len()) > EDITS_MAX {
        return None;
    }
    let edits = strsim::damerau_levenshtein(known, name);
    let starts_alike = known.as_bytes().first() == name.as_bytes().first();
    let is_close = match edits {
        0 | 1 => true,
        EDITS_MAX => known.len() >= LONG_NAME || (known.len() >= MEDIUM_NAME && starts_alike),
        _ => false,
    };
    is_close.then_some(edits)
}

/// Returns whether Kubernetes or Docker set the variable, to tell a container of a service: its
/// name begins with the service's, and may be any.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let is_port_of_service = || {
        let protocols = ["tcp://", "udp://", "sctp://"];
        protocols.iter().any(|protocol| value.starts_with(protocol))
    };
    let is_part = |part: &str| {
        let mut words = part.split('_').skip(1);
        let is_protocol = matches!(words.next(), Some("TCP" | "UDP" | "SCTP"));
        let is_number = part.starts_with(|c: char| c.is_ascii_digit());
        is_number && is_protocol
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_port_of_service())
        || name.split("_PORT_").skip(1).any(is_part)
}
