//! The default id of a clock or edge, made from the host name.

use super::value::is_id_byte;

/// Returns the host name as an id. Each character that an id cannot contain is replaced by `-`.
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
    fn every_host_name_becomes_a_valid_id() {
        assert_eq!(id_from("edge-1.example.org"), "edge-1.example.org");
        assert_eq!(id_from("büro pc"), "b-ro-pc");
        assert_eq!(id_from(""), "localhost");
        assert_eq!(id_from(&"x".repeat(100)).len(), 64);
    }
}
