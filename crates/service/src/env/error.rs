//! Errors in settings. Each names the variable, shows its value unless that is secret, and states
//! which values are allowed.

use std::{error::Error, fmt, path::PathBuf};

use super::{FileError, setting::show_path};
use crate::error_chain::ErrorChain;

/// One error in the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The setting does not allow this value.
    #[error("{variable}={value} is invalid: expected {allowed}")]
    Invalid {
        /// The variable that was set, possibly under a former name.
        variable: String,
        /// Its value, masked if it is secret; the path of the file if it came from one.
        value: String,
        /// The values that are allowed, and the part of the value that is wrong if it is known.
        allowed: String,
    },
    /// The value is not text.
    #[error("{variable} is not UTF-8 text: expected {allowed}")]
    NotUtf8 {
        /// The variable.
        variable: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// The code that would obey the setting does not exist yet, or not in this program.
    #[error("{variable}={value} is not supported: {why}; leave it unset{}", or_set_it_to(.default))]
    NotObeyed {
        /// The variable.
        variable: String,
        /// Its value, masked if it is secret.
        value: String,
        /// The reason that nothing obeys it.
        why: &'static str,
        /// The one value that is accepted; empty if there is none.
        default: &'static str,
    },
    /// The variable belongs to a family of which a program obeys only some.
    #[error("{variable}={value} is not supported: unset it, or use one of {known}")]
    Unknown {
        /// The variable.
        variable: String,
        /// Its value, masked if it may be secret.
        value: String,
        /// The variables of the family that have an effect.
        known: String,
    },
    /// Two variables for the same setting are both set.
    #[error("{first} and {second} {conflict}; set only {keep}")]
    Both {
        /// One of the variables.
        first: String,
        /// The other one.
        second: String,
        /// The reason that they cannot both be set.
        conflict: &'static str,
        /// The variable to keep.
        keep: String,
    },
    /// The value could not be read from its file.
    #[error("{variable}={}", show_path(path))]
    File {
        /// The variable that names the file.
        variable: String,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: FileError,
    },
    /// Settings that are valid on their own contradict each other.
    #[error(transparent)]
    Together(Box<dyn Error + Send + Sync>),
}

fn or_set_it_to(default: &str) -> String {
    if default.is_empty() {
        String::new()
    } else {
        format!(" or set it to {default}")
    }
}

/// All errors in the settings, at least one. Prints one error per line, followed by the warnings.
#[derive(Debug)]
pub struct SettingsErrors {
    pub(super) errors: Vec<SettingsError>,
    pub(super) warnings: Vec<String>,
}

impl SettingsErrors {
    /// Returns the errors, in the order of the table of settings.
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
