//! Our own rules, from `prose.toml`: which files are checked, which words are correct although
//! codespell takes them for misspellings, and which phrases we do not use.

use std::fs;

use anyhow::{Context, Result, ensure};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{Finding, passage::Passage};
use crate::command::in_workspace;

/// The data file, from the workspace's root.
pub(super) const FILE: &str = "crates/xtask/prose.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    skip: Vec<String>,
    allowed_words: Vec<String>,
    phrase: Vec<PhraseData>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhraseData {
    find: String,
    write: String,
    example: String,
    #[serde(default)]
    fine: Vec<String>,
}

pub(super) struct Rules {
    skip: Vec<Regex>,
    allowed_words: Vec<String>,
    phrases: Vec<Phrase>,
}

/// A phrase that we do not use.
struct Phrase {
    pattern: Regex,
    /// What to write instead.
    write: String,
}

impl Rules {
    /// Reads the data file. A rule that misses its own example, or finds something in a sentence
    /// that is fine, is an error.
    pub(super) fn load() -> Result<Self> {
        let text = fs::read_to_string(in_workspace(FILE)).context(FILE)?;
        Self::parse(&text).context(FILE)
    }

    fn parse(text: &str) -> Result<Self> {
        let data: Data = toml::from_str(text)?;
        let skip = data.skip.iter().map(|pattern| Ok(Regex::new(pattern)?));
        let phrases = data.phrase.iter().map(Phrase::new);
        Ok(Self {
            skip: skip.collect::<Result<_>>()?,
            allowed_words: data.allowed_words,
            phrases: phrases.collect::<Result<_>>()?,
        })
    }

    /// Returns those of `paths` that are checked.
    pub(super) fn select(&self, mut paths: Vec<String>) -> Vec<String> {
        paths.retain(|path| !self.skip.iter().any(|pattern| pattern.is_match(path)));
        paths
    }

    pub(super) fn allowed_words(&self) -> &[String] {
        &self.allowed_words
    }

    pub(super) fn findings(&self, passage: &Passage) -> Vec<Finding> {
        let matches = self.phrases.iter().flat_map(|phrase| {
            let matches = phrase.pattern.find_iter(&passage.text);
            matches.map(move |found| (phrase, found))
        });
        matches
            .map(|(phrase, found)| Finding {
                line: passage.line(found.start()),
                text: format!("\"{}\": write {}", found.as_str().trim(), phrase.write),
            })
            .collect()
    }
}

impl Phrase {
    fn new(data: &PhraseData) -> Result<Self> {
        let pattern = RegexBuilder::new(&format!(r"\b(?:{})", data.find))
            .case_insensitive(true)
            .build()?;
        ensure!(
            pattern.is_match(&data.example),
            "the rule {:?} misses its example {:?}",
            data.find,
            data.example
        );
        for fine in &data.fine {
            ensure!(
                !pattern.is_match(fine),
                "the rule {:?} finds something in {fine:?}",
                data.find
            );
        }
        Ok(Self {
            pattern,
            write: data.write.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "skip = ['\\.svg$']\nallowed_words = []\n[[phrase]]\n";

    #[test]
    fn a_rule_must_find_its_example_and_nothing_in_what_is_fine() {
        let parse = |rule: &str| Rules::parse(&format!("{RULE}{rule}")).map(|_| ());
        parse("find = 'mend'\nwrite = 'fix'\nexample = 'He mends it.'").unwrap();
        let error = parse("find = 'mend'\nwrite = 'fix'\nexample = 'He fixes it.'").unwrap_err();
        assert!(error.to_string().contains("misses its example"), "{error}");
        let rule = "find = 'mend'\nwrite = 'fix'\nexample = 'He mends it.'\nfine = ['mending']";
        let error = parse(rule).unwrap_err();
        assert!(error.to_string().contains("finds something"), "{error}");
    }

    #[test]
    fn the_rules_in_use_hold_for_their_own_examples_and_skip_drawings() {
        let rules = Rules::load().unwrap();
        let paths = ["docs/charts/a.svg", "README.md"].map(str::to_owned);
        assert_eq!(rules.select(paths.into()), ["README.md"]);
    }
}
