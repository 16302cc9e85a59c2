//! The name of a mode on the command line.

use clap::ValueEnum;
use tickstorm_client::Mode;

/// A mode, as written on the command line.
#[expect(
    missing_docs,
    reason = "--help would show the documentation of each variant, but the names say enough"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    Second,
    Minute,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Second => Self::Second,
            ModeName::Minute => Self::Minute,
        }
    }
}
