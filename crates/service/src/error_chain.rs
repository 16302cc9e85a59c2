//! [`ErrorChain`]: an error with everything that caused it, on one line. The text of our own errors does not repeat their source, so
//! whoever shows one to people prints the chain.

use std::{error::Error, fmt};

/// Prints an error and its sources, separated by colons. Errors of libraries often end with their source's text, which is then not
/// printed again.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            (last, source) = (text, cause.source());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Caused(&'static str, #[source] Option<Box<Caused>>);

    #[test]
    fn every_cause_stands_once_in_its_order() {
        let error = Caused(
            "a",
            Some(Box::new(Caused("b", Some(Box::new(Caused("c", None)))))),
        );
        assert_eq!(ErrorChain(&error).to_string(), "a: b: c");
        let repeating = Caused("a: b", Some(Box::new(Caused("b", None))));
        assert_eq!(ErrorChain(&repeating).to_string(), "a: b");
        let alone = io::Error::other("alone");
        assert_eq!(ErrorChain(&alone).to_string(), "alone");
    }
}
