//! Values as text: durations, offsets, and what comes from daemons, which may contain anything.

/// Returns `text` without control characters and those that change the direction of writing, which
/// could change what a terminal shows elsewhere.
pub(super) fn clean(text: &str) -> String {
    let is_invisible = |char: char| {
        char.is_control()
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(char, '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars()
        .map(|char| if is_invisible(char) { '?' } else { char })
        .collect()
}

/// Returns JSON in ASCII without control characters: others stand only in strings, where they can
/// be escaped.
pub(super) fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        if char.is_ascii() && !char.is_control() {
            escaped.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    escaped
}

/// Returns `text` with at most `width` characters. The middle is cut out, since both the beginning
/// and the end of a name tell it from others.
pub(super) fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let end = kept / 2;
    let start = text.chars().take(kept - end);
    start
        .chain(['…'])
        .chain(text.chars().skip(length - end))
        .collect()
}

/// Breaks `text` into lines of at most `width` characters. A longer word gets a line of its own.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let fits = |line: &String| line.chars().count() + 1 + word.chars().count() <= width;
        match lines.last_mut().filter(|line| fits(line)) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Returns an offset in microseconds, with its sign.
pub(super) fn offset(us: i64) -> String {
    let sign = if us < 0 { '-' } else { '+' };
    format!("{sign}{}", span(us.unsigned_abs()))
}

/// Returns an error bound in microseconds.
pub(super) fn bound(us: u64) -> String {
    format!("±{}", span(us))
}

/// Returns a number of microseconds in a unit that suits it, with three digits or more.
pub(super) fn span(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is shown with few digits")]
    let ms = us as f64 / 1_000.0;
    match us {
        0..10_000 => format!("{ms:.2} ms"),
        10_000..100_000 => format!("{ms:.1} ms"),
        100_000..1_000_000 => format!("{ms:.0} ms"),
        1_000_000..10_000_000 => format!("{:.2} s", ms / 1_000.0),
        10_000_000.. => format!("{:.0} s", ms / 1_000.0),
    }
}

/// Returns a duration in seconds, with its one or two largest units.
pub(super) fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m"),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        86_400.. if days < 100 => format!("{days}d{:02}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// Returns `number` and `noun`, with the plural of the noun if it is needed.
pub(super) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_in_the_middle_and_short_ones_are_not() {
        assert_eq!(cut("edge-0", 6), "edge-0");
        assert_eq!(cut("edge-7f8b9c-x2k9p", 10), "edge-…2k9p");
        assert_eq!(cut("ééééé", 4), "éé…é");
        assert_eq!(cut("ab", 1), "…");
    }

    #[test]
    fn nothing_from_a_daemon_controls_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\nc\u{202e}d\u{9b}"), "a?[2Jb??c?d?");
        assert_eq!(clean("clock-0 é"), "clock-0 é");
    }

    #[test]
    fn json_is_escaped_as_json_itself_does() {
        let json = escape_json("{\"é\":\"a\u{9b}\u{7f}\u{202e}\u{1f600}\"}");
        assert_eq!(json, r#"{"\u00e9":"a\u009b\u007f\u202e\ud83d\ude00"}"#);
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("unbreakable a", 4), ["unbreakable", "a"]);
        assert!(wrap("  ", 4).is_empty());
    }

    #[test]
    fn values_have_the_digits_that_matter() {
        assert_eq!(offset(12), "+0.01 ms");
        assert_eq!(offset(-4_567), "-4.57 ms");
        assert_eq!(offset(86_400_000_000), "+86400 s");
        assert_eq!(bound(250_000), "±250 ms");
        assert_eq!(bound(12_345), "±12.3 ms");
        assert_eq!(bound(1_500_000), "±1.50 s");
        assert_eq!(offset(i64::MIN), "-9223372036855 s");
    }

    #[test]
    fn an_uptime_has_its_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (3_599, "59m"),
            (3_661, "1h01m"),
            (86_400 * 3 + 3_600 * 4, "3d04h"),
            (86_400 * 400, "400d"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn nouns_are_counted() {
        assert_eq!(counted(1, "edge"), "1 edge");
        assert_eq!(counted(0, "alarm"), "0 alarms");
    }
}
