//! What a kubelet hands to a container: its environment and the files of its volumes, as Kubernetes documents it. A reference
//! to something that is not there is a panic, as it is a pod that never starts.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, KeyToPath, PodSpec, Volume};

use crate::manifests::{Manifests, name};

/// The mode of files from volumes that name none.
const MODE: i32 = 0o644;

/// A file in a container.
#[derive(Debug)]
pub struct GivenFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub content: Vec<u8>,
    /// Who may read it.
    pub mode: u32,
}

/// Variables and their values, in the order in which they are defined.
pub type Environment = Vec<(String, String)>;

/// The environment of a container in the pod of that name, besides what its image brings.
///
/// # Panics
/// Where it refers to what is not there.
#[must_use]
pub fn environment(manifests: &Manifests, container: &Container, pod: &str) -> Environment {
    let mut environment = Environment::new();
    for source in container.env_from.iter().flatten() {
        assert!(
            source.prefix.is_none() && source.secret_ref.is_none(),
            "not built here: {source:?}"
        );
        let wanted = source
            .config_map_ref
            .as_ref()
            .expect("a ConfigMap")
            .name
            .as_str();
        for (key, value) in config_map(manifests, wanted) {
            set(
                &mut environment,
                key,
                String::from_utf8(value).expect("text"),
            );
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match variable {
            EnvVar {
                value: Some(value), ..
            } => expand(value, &environment),
            EnvVar {
                value_from: Some(source),
                ..
            } => referred(manifests, source, pod),
            EnvVar { .. } => String::new(),
        };
        set(&mut environment, variable.name.clone(), value);
    }
    environment
}

/// The files that a container finds in its volumes.
///
/// # Panics
/// Where they refer to what is not there.
#[must_use]
pub fn files(manifests: &Manifests, pod: &PodSpec, container: &Container) -> Vec<GivenFile> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .flat_map(|mount| {
            assert!(mount.sub_path.is_none(), "not built here: {mount:?}");
            let mut volumes = pod.volumes.iter().flatten();
            let volume = volumes.find(|volume| volume.name == mount.name);
            let volume = volume.unwrap_or_else(|| panic!("no volume {}", mount.name));
            volume_files(manifests, volume, Path::new(&mount.mount_path))
        })
        .collect()
}

fn volume_files(manifests: &Manifests, volume: &Volume, at: &Path) -> Vec<GivenFile> {
    let (all, items, mode) = match volume {
        Volume {
            secret: Some(source),
            ..
        } => {
            let wanted = source.secret_name.as_deref().expect("a Secret's name");
            (
                secret(manifests, wanted),
                &source.items,
                source.default_mode,
            )
        }
        Volume {
            config_map: Some(source),
            ..
        } => (
            config_map(manifests, &source.name),
            &source.items,
            source.default_mode,
        ),
        Volume { .. } => panic!("not built here: {volume:?}"),
    };
    let mode = mode.unwrap_or(MODE).try_into().expect("a mode");
    let file = |name: &str, content| GivenFile {
        path: at.join(name),
        content,
        mode,
    };
    match items {
        None => all
            .into_iter()
            .map(|(key, value)| file(&key, value))
            .collect(),
        Some(items) => items
            .iter()
            .map(|KeyToPath { key, path, .. }| file(path, value(&all, key, &volume.name)))
            .collect(),
    }
}

/// `$(NAME)` stands for a variable that was defined before, `$$` for a dollar sign; what is not defined yet stays as it is.
fn expand(text: &str, environment: &Environment) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let known = reference.and_then(|(name, after)| Some((known(environment, name)?, after)));
        match known {
            Some((value, after)) => {
                expanded.push_str(value);
                rest = after;
            }
            None => expanded.push('$'),
        }
    }
    expanded + rest
}

fn referred(manifests: &Manifests, source: &EnvVarSource, pod: &str) -> String {
    if let Some(field) = &source.field_ref {
        return match field.field_path.as_str() {
            "metadata.name" => pod.to_owned(),
            "metadata.namespace" => manifests.namespace().to_owned(),
            path => panic!("not built here: {path}"),
        };
    }
    let reference = source.secret_key_ref.as_ref();
    let reference = reference.unwrap_or_else(|| panic!("not built here: {source:?}"));
    let all = secret(manifests, &reference.name);
    String::from_utf8(value(&all, &reference.key, &reference.name)).expect("text")
}

type Entries = Vec<(String, Vec<u8>)>;

fn config_map(manifests: &Manifests, wanted: &str) -> Entries {
    let found = manifests
        .config_maps
        .iter()
        .find(|one| name(&one.metadata) == wanted);
    let found = found.unwrap_or_else(|| panic!("no ConfigMap is named {wanted}"));
    let entries = found.data.iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), value.clone().into_bytes()))
        .collect()
}

fn secret(manifests: &Manifests, wanted: &str) -> Entries {
    let found = manifests
        .secrets
        .iter()
        .find(|one| name(&one.metadata) == wanted);
    let found = found.unwrap_or_else(|| panic!("no Secret is named {wanted}"));
    let entries = found.data.iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), value.0.clone()))
        .collect()
}

fn value(entries: &Entries, key: &str, of: &str) -> Vec<u8> {
    let found = entries.iter().find(|(name, _)| name == key);
    found
        .unwrap_or_else(|| panic!("{of} has no {key}"))
        .1
        .clone()
}

fn known<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    let found = environment.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// Defines a variable, in the place of one of that name.
fn set(environment: &mut Environment, name: String, value: String) {
    environment.retain(|(known, _)| *known != name);
    environment.push((name, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_stands_only_for_what_was_defined_before() {
        let environment = vec![("A".to_owned(), "a".to_owned())];
        for (text, expanded) in [
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &environment), expanded);
        }
    }
}
