//! The id that this host's name gives.

use super::value::is_id_byte;

/// The host's name as an id: what can't stand in one becomes `-`.
#[must_use]
pub fn host_id() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    id_from(&name.to_string_lossy())
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
    use super::id_from;

    #[test]
    fn a_host_name_always_makes_an_id() {
        assert_eq!(id_from("edge-1.example.org"), "edge-1.example.org");
        assert_eq!(id_from("büro pc"), "b-ro-pc");
        assert_eq!(id_from(""), "localhost");
        assert_eq!(id_from(&"x".repeat(100)).len(), 64);
    }
}
