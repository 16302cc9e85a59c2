//! What can be wrong with settings. Every error names the variable, its value unless that is secret, and what is allowed.

use std::{error::Error, fmt, path::PathBuf};

use super::FileError;
use crate::error_chain::ErrorChain;

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The value is not one that the setting can have.
    #[error("{variable}={value} is not allowed: it takes {allowed}")]
    Invalid {
        /// The variable as it was set, which may be an older name.
        variable: String,
        /// Its value, masked where secret; the file's path where it came from one.
        value: String,
        /// What would be allowed.
        allowed: String,
    },
    /// The value is no text.
    #[error("{variable} is not UTF-8 text: it takes {allowed}")]
    NotUtf8 {
        /// The variable.
        variable: String,
        /// What would be allowed.
        allowed: String,
    },
    /// The part that would obey the setting does not exist yet, or not in this program.
    #[error("{variable}={value}: {why}: leave it unset{}", or_at(.default))]
    NotObeyed {
        /// The variable.
        variable: String,
        /// Its value, masked where secret.
        value: String,
        /// Why nothing obeys it.
        why: &'static str,
        /// The one value that is accepted, empty where there is none.
        default: &'static str,
    },
    /// Two variables that mean the same setting are both set.
    #[error("{first} and {second} are both set{how}: set only {keep}")]
    Both {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// What is wrong with that.
        how: &'static str,
        /// The one that is better kept.
        keep: String,
    },
    /// The file with the value did not give it.
    #[error("{variable}={}", path.display())]
    File {
        /// The variable that names the file.
        variable: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// Settings that are fine alone do not go together.
    #[error(transparent)]
    Together(Box<dyn Error + Send + Sync>),
}

fn or_at(default: &str) -> String {
    if default.is_empty() {
        String::new()
    } else {
        format!(" or at {default}")
    }
}

/// Everything that is wrong with the settings; never empty. Prints one error a line, and then the warnings.
#[derive(Debug)]
pub struct SettingsErrors {
    pub(super) errors: Vec<SettingsError>,
    pub(super) warnings: Vec<String>,
}

impl SettingsErrors {
    /// The errors, in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = &SettingsError> {
        self.errors.iter()
    }
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self
            .errors
            .iter()
            .map(|error| ErrorChain(error).to_string());
        let warnings = self
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}"));
        f.write_str(&errors.chain(warnings).collect::<Vec<_>>().join("\n"))
    }
}

impl Error for SettingsErrors {}
