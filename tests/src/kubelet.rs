//! The environment variables and volume files that a kubelet gives to a container, as documented by
//! Kubernetes. A reference to an object that does not exist panics here; with Kubernetes, the pod
//! would never start.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, KeyToPath, PodSpec, Volume, VolumeProjection,
};

use crate::manifests::{Manifests, name};

/// The mode of files from volumes that set no mode.
const MODE: i32 = 0o644;

/// A file in a container that comes from a volume.
#[derive(Debug)]
pub struct VolumeFile {
    /// The absolute path in the container.
    pub path: PathBuf,
    /// The content.
    pub content: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
}

/// Variables and their values, in the order in which they are defined.
pub type Environment = Vec<(String, String)>;

/// Returns the environment of a container in the pod named `pod`, without the variables of its
/// image.
///
/// # Panics
/// Panics if the environment refers to an object that does not exist, or uses a feature that is not
/// implemented here.
#[must_use]
pub fn environment(manifests: &Manifests, container: &Container, pod: &str) -> Environment {
    let mut environment = Environment::new();
    for source in container.env_from.iter().flatten() {
        assert!(
            source.prefix.is_none() && source.secret_ref.is_none(),
            "not implemented: {source:?}"
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

/// Returns the files in a container's volumes.
///
/// # Panics
/// Panics if a volume refers to an object that does not exist, or uses a feature that is not
/// implemented here.
#[must_use]
pub fn files(manifests: &Manifests, pod: &PodSpec, container: &Container) -> Vec<VolumeFile> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .flat_map(|mount| {
            assert!(mount.sub_path.is_none(), "not implemented: {mount:?}");
            let mut volumes = pod.volumes.iter().flatten();
            let volume = volumes.find(|volume| volume.name == mount.name);
            let volume = volume.unwrap_or_else(|| panic!("no volume is named {}", mount.name));
            volume_files(manifests, volume, Path::new(&mount.mount_path))
        })
        .collect()
}

fn volume_files(manifests: &Manifests, volume: &Volume, at: &Path) -> Vec<VolumeFile> {
    let (entries, mode) = match volume {
        Volume {
            secret: Some(source),
            ..
        } => {
            let wanted = source.secret_name.as_deref().expect("a Secret's name");
            let entries = chosen(secret(manifests, wanted), source.items.as_ref(), wanted);
            (entries, source.default_mode)
        }
        Volume {
            config_map: Some(source),
            ..
        } => {
            let all = config_map(manifests, &source.name);
            let entries = chosen(all, source.items.as_ref(), &source.name);
            (entries, source.default_mode)
        }
        Volume {
            projected: Some(projected),
            ..
        } => {
            let sources = projected.sources.iter().flatten();
            let entries = sources.flat_map(|source| projected_entries(manifests, source));
            (entries.collect(), projected.default_mode)
        }
        Volume { .. } => panic!("not implemented: {volume:?}"),
    };
    let mode = mode.unwrap_or(MODE).try_into().expect("a mode");
    let files = entries.into_iter().map(|(name, content)| VolumeFile {
        path: at.join(name),
        content,
        mode,
    });
    files.collect()
}

fn projected_entries(manifests: &Manifests, source: &VolumeProjection) -> Entries {
    match source {
        VolumeProjection {
            secret: Some(source),
            ..
        } => {
            let all = secret(manifests, &source.name);
            chosen(all, source.items.as_ref(), &source.name)
        }
        VolumeProjection {
            config_map: Some(source),
            ..
        } => {
            let all = config_map(manifests, &source.name);
            chosen(all, source.items.as_ref(), &source.name)
        }
        VolumeProjection { .. } => panic!("not implemented: {source:?}"),
    }
}

/// Returns the entries that become files, by the files' names: those in `items`, or all of them.
fn chosen(all: Entries, items: Option<&Vec<KeyToPath>>, of: &str) -> Entries {
    let Some(items) = items else { return all };
    let items = items.iter();
    items
        .map(|KeyToPath { key, path, .. }| (path.clone(), value(&all, key, of)))
        .collect()
}

/// Expands `$(NAME)` to the value of a variable that was defined before, and `$$` to a dollar sign.
/// A reference to a variable that is not defined yet stays unchanged.
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
            path => panic!("not implemented: {path}"),
        };
    }
    let reference = source.secret_key_ref.as_ref();
    let reference = reference.unwrap_or_else(|| panic!("not implemented: {source:?}"));
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

/// Defines a variable, and replaces an earlier one of the same name.
fn set(environment: &mut Environment, name: String, value: String) {
    environment.retain(|(known, _)| *known != name);
    environment.push((name, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_that_were_defined_before_are_expanded() {
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
