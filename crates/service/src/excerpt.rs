//! [`Excerpt`]: text that anyone may have influenced, at a length that fits in a log.

use std::fmt::{self, Write as _};

/// The maximum length of an excerpt, in bytes.
const BYTES_MAX: usize = 256;

/// Displays the first 256 bytes of a text, and an ellipsis if it is longer. A certificate can fill
/// 64 KB, most of which an error of its verification or its subject may contain, and anyone can
/// present one.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<T>(pub T);

impl<T: fmt::Display> fmt::Display for Excerpt<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = Head {
            text: f,
            room: BYTES_MAX,
            is_cut: false,
        };
        let written = write!(head, "{}", self.0);
        if head.is_cut {
            return f.write_char('…');
        }
        written
    }
}

/// The start of a text. It refuses the rest, so that formatting ends early.
struct Head<'a, 'b> {
    text: &'a mut fmt::Formatter<'b>,
    room: usize,
    is_cut: bool,
}

impl fmt::Write for Head<'_, '_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if part.len() <= self.room {
            self.room -= part.len();
            return self.text.write_str(part);
        }
        let end = part.floor_char_boundary(self.room);
        (self.room, self.is_cut) = (0, true);
        self.text.write_str(&part[..end])?;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Displays its parts one by one, and continues after an error.
    struct Parts<'a>(&'a [String]);

    impl fmt::Display for Parts<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for part in self.0 {
                let _ = f.write_str(part);
            }
            Ok(())
        }
    }

    #[test]
    fn a_text_is_cut_only_if_it_is_longer_than_256_bytes() {
        let text = "x".repeat(256);
        assert_eq!(Excerpt(&text).to_string(), text);
        assert_eq!(Excerpt(text.clone() + "y").to_string(), text + "…");
        let text = "x".repeat(255);
        assert_eq!(Excerpt(text.clone() + "ä").to_string(), text + "…");
    }

    proptest! {
        #[test]
        fn an_excerpt_is_the_start_of_the_text(parts in prop::collection::vec(".{0,90}", 0..8)) {
            let (whole, excerpt) = (parts.concat(), Excerpt(Parts(&parts)).to_string());
            prop_assert!(excerpt.len() <= BYTES_MAX + '…'.len_utf8());
            if whole.len() <= BYTES_MAX {
                prop_assert_eq!(excerpt, whole);
            } else {
                let start = excerpt.strip_suffix('…').unwrap();
                prop_assert!(whole.starts_with(start));
                prop_assert!(start.len() > BYTES_MAX - 4);
            }
        }
    }
}
