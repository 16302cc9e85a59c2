//! [`label`]: makes strings that come from clients fit for a log line and for operators' eyes.

/// The number of characters that are kept, counted before escaping.
const LEN_MAX: usize = 64;

/// Truncates a string and escapes control characters, quotes and backslashes.
pub(crate) fn label(text: &str) -> Box<str> {
    let is_plain = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
    if text.len() <= LEN_MAX && text.bytes().all(is_plain) {
        return text.into();
    }
    let truncated = text.chars().take(LEN_MAX);
    truncated
        .flat_map(char::escape_debug)
        .collect::<String>()
        .into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_from_clients_are_truncated_and_escaped() {
        assert_eq!(&*label("a\n\u{1b}[2J"), "a\\n\\u{1b}[2J");
        assert_eq!(label(&"ä".repeat(100)).chars().count(), 64);
        assert_eq!(label(&"a".repeat(65)).len(), 64);
        assert_eq!(&*label("it's \"1.0\" \\"), r#"it\'s \"1.0\" \\"#);
        assert_eq!(&*label("tickstorm bench/1.0"), "tickstorm bench/1.0");
    }
}
