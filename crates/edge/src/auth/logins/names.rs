//! [`FrequentNames`]: the most frequent of the user names with which logins were refused. Anyone
//! can choose them, so they are cut and escaped, and however many there are, memory has a bound.

use std::fmt;

use super::super::label::label;

/// The most names that are counted at the same time.
const COUNTED_MAX: usize = 16;
/// The most names that are shown.
const SHOWN_MAX: usize = 5;

/// The names and how often they were given. A name that has more than one in 17 of all is always
/// among them (the algorithm of Misra and Gries): if there is no room for another one, all counts
/// fall by one, and names without any are forgotten. So a count is never too high.
#[derive(Default)]
pub(super) struct FrequentNames {
    counted: Vec<(Box<str>, u64)>,
}

impl FrequentNames {
    /// Counts a name, which is kept as it will be shown.
    pub(super) fn note(&mut self, name: &str) {
        let name = label(name);
        let known = self.counted.iter_mut().find(|(known, _)| *known == name);
        if let Some((_, count)) = known {
            *count += 1;
        } else if self.counted.len() < COUNTED_MAX {
            self.counted.push((name, 1));
        } else {
            self.counted.retain_mut(|(_, count)| {
                *count -= 1;
                *count > 0
            });
        }
    }
}

impl fmt::Display for FrequentNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.counted.iter().collect();
        names.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        for (at, (name, count)) in names.into_iter().take(SHOWN_MAX).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(formatter, "{separator}'{name}': {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noted<'a>(names: impl IntoIterator<Item = &'a str>) -> FrequentNames {
        let mut frequent = FrequentNames::default();
        names.into_iter().for_each(|name| frequent.note(name));
        frequent
    }

    #[test]
    fn up_to_sixteen_names_are_counted_exactly_and_the_five_most_frequent_are_shown() {
        let names = ["f", "ada", "e", "bob", "ada", "d", "c", "bob", "ada"];
        assert_eq!(
            noted(names).to_string(),
            "'ada': 3, 'bob': 2, 'c': 1, 'd': 1, 'e': 1"
        );
        assert_eq!(noted([]).to_string(), "");
    }

    #[test]
    fn names_are_cut_and_escaped() {
        let long = "x".repeat(5_000);
        let shown = noted(["a'\n\u{1b}[2J", &long, "", "\u{202e}"]).to_string();
        let long = "x".repeat(64);
        let expected = format!("'': 1, 'a\\'\\n\\u{{1b}}[2J': 1, '{long}': 1, '\\u{{202e}}': 1");
        let parts = |text: &str| text.split(", ").map(str::to_owned).collect::<Vec<_>>();
        let (mut shown, mut expected) = (parts(&shown), parts(&expected));
        shown.sort();
        expected.sort();
        assert_eq!(shown, expected);
    }

    #[test]
    fn made_up_names_do_not_hide_a_frequent_one_and_take_no_more_room() {
        let mut frequent = FrequentNames::default();
        for number in 0..10_000 {
            frequent.note(&format!("made-up-{number}"));
            if number % 10 == 0 {
                frequent.note("ada");
            }
        }
        assert!(frequent.counted.len() <= COUNTED_MAX);
        assert!(frequent.to_string().starts_with("'ada': "), "{frequent}");
    }

    proptest! {
        #[test]
        fn no_count_is_too_high_and_every_frequent_name_is_counted(
            names in prop::collection::vec(0_u8..40, 0..500),
        ) {
            let texts: Vec<String> = names.iter().map(u8::to_string).collect();
            let frequent = noted(texts.iter().map(String::as_str));
            for name in 0..40_u8 {
                let true_count = names.iter().filter(|other| **other == name).count() as u64;
                let text = name.to_string();
                let counted = frequent.counted.iter().find(|(known, _)| **known == *text);
                let counted = counted.map_or(0, |(_, count)| *count);
                prop_assert!(counted <= true_count);
                let is_frequent = true_count * 17 > names.len() as u64;
                prop_assert!(!is_frequent || counted > 0);
            }
        }
    }
}
