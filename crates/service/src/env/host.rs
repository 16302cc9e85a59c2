//! The default ids of clocks and edges, made from the host name.

use super::value::is_id_byte;

/// Returns the host name as an id. Each character that an id cannot contain is replaced by `-`.
#[must_use]
pub fn host_id() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    id_from(&name.to_string_lossy())
}

/// Returns the host name up to its first dot. It may contain any character.
#[must_use]
pub fn host_label() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    label_of(&name.to_string_lossy()).to_owned()
}

fn label_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(label, _)| label)
}

fn id_from(name: &str) -> String {
    let id: String = name
        .chars()
        .map(|c| {
            if u8::try_from(c).is_ok_and(is_id_byte) {
                c
            } else {
                '-'
            }
        })
        .take(64)
        .collect();
    if id.is_empty() {
        "localhost".into()
    } else {
        id
    }
}

#[cfg(test)]
mod tests {
    use super::{id_from, label_of};

    #[test]
    fn a_label_ends_at_the_first_dot() {
        assert_eq!(label_of("clock-1.example.org"), "clock-1");
        assert_eq!(label_of("clock-1"), "clock-1");
        assert_eq!(label_of(".org"), "");
    }

    #[test]
    fn every_host_name_becomes_a_valid_id() {
        assert_eq!(id_from("edge-1.example.org"), "edge-1.example.org");
        assert_eq!(id_from("büro pc"), "b-ro-pc");
        assert_eq!(id_from(""), "localhost");
        assert_eq!(id_from(&"x".repeat(100)).len(), 64);
    }
}
