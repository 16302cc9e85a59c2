//! [`ErrorChain`]: an error and its causes on one line. The text of TickStorm's errors does not
//! repeat that of their source, so code that shows an error to people prints the chain.

use std::{error::Error, fmt};

/// Displays an error and its sources, separated by colons. Errors from libraries often end with the
/// text of their source, which is then not repeated.
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
    fn every_cause_appears_once_and_in_order() {
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
