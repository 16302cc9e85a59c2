//! The name of a mode on the command line.

use clap::ValueEnum;
use tickstorm_client::Mode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeName {
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
