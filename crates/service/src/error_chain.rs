//! [`ErrorChain`]: an error with everything that caused it, on one line. An error's own text does not repeat its source, so whoever
//! shows one to people prints the chain.

use std::{error::Error, fmt};

/// Prints an error and its sources, separated by colons.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
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
        let alone = io::Error::other("alone");
        assert_eq!(ErrorChain(&alone).to_string(), "alone");
    }
}
