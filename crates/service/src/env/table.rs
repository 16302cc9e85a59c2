//! The one table of all settings, a constant each: name, type, what is allowed, default and its reason, and what it is for (the
//! constant's own documentation). Documents are compared with it, so nothing is said about a setting that isn't here.

use super::{Row, setting::AnySetting};

mod clock;
mod common;
mod credentials;
mod edge;
mod edge_later;
mod nats;

pub use self::{clock::*, common::*, credentials::*, edge::*, edge_later::*, nats::*};

/// Declares the settings of one group and lists them, so that none can be declared and not listed. A setting's
/// documentation is its help.
macro_rules! settings {
    ($list:ident of $groups:expr; $($(#[doc = $help:literal])+ $name:ident: $type:ty = $setting:expr;)+) => {
        $(
            $(#[doc = $help])+
            pub const $name: $crate::env::Setting<$type> =
                <$crate::env::Setting<$type>>::named($setting, stringify!($name), &$groups, concat!($($help),+));
        )+
        pub(super) const $list: &[&dyn $crate::env::setting::AnySetting] = &[$(&$name),+];
    };
}
use settings;

const LISTS: [&[&dyn AnySetting]; 9] = [
    COMMON,
    NATS,
    CLOCK,
    EDGE,
    STREAM_OF_BOTH,
    STREAM_OF_EDGE,
    STREAM_OF_CLIENT,
    EDGE_LIMITS,
    EDGE_LATER,
];

/// All settings. Those that a default is derived from stand before it.
pub(super) fn all() -> impl Iterator<Item = &'static dyn AnySetting> {
    LISTS.into_iter().flatten().copied()
}

/// The table as documents and `--help` show it.
pub fn rows() -> impl Iterator<Item = Row> {
    all().map(Row::of)
}

#[cfg(test)]
mod tests;
