//! Settings from the environment.
//!
//! A [`Section`] declares settings, [`Settings`] holds the values that were found, and
//! [`SettingsErrors`] holds every error in them. This module does not know which settings exist or
//! what they do: each crate declares the settings that it obeys, with
//! [`settings!`](crate::settings!), and a program lists the sections that it takes.

mod error;
pub(crate) mod file;
mod former;
mod host;
mod misspelling;
mod raw;
mod section;
mod setting;
mod settings;
mod value;

pub use error::{SettingsError, SettingsErrors};
pub use file::{
    FileError, SECRET_FILE_BYTES_MAX, read_credential_file, read_secret_file, read_text_file,
};
pub use former::{GoneEffect, GoneName};
pub use host::{host_id, host_label};
pub use section::{Findings, Section};
pub(crate) use setting::on_one_line;
pub use setting::{Row, Setting};
pub use settings::{Origin, Settings};
pub use value::{Span, Text, Value, one_of};

/// Declares a section: its name, an optional check across settings, and one constant per setting.
/// The doc comment of a setting is also its help text, so a setting can neither be declared without
/// being listed nor listed without being explained.
///
/// ```
/// use tickstorm_service::env::{Setting, Text};
///
/// tickstorm_service::settings! {
///     /// Settings of a greeter.
///     GREETER;
///     /// The name of the person to greet.
///     GREETING_NAME: String = Setting::new(Text::ID, "world", "The world is always there");
/// }
/// assert_eq!(GREETER.rows().count(), 1);
/// assert_eq!(GREETING_NAME.name(), "GREETING_NAME");
/// ```
#[macro_export]
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $section:ident $(, checked by $check:path)?;
        $($(#[doc = $help:literal])+ $name:ident: $type:ty = $setting:expr;)+
    ) => {
        $(
            $(#[doc = $help])+
            pub const $name: $crate::env::Setting<$type> =
                <$crate::env::Setting<$type>>::named(
                    $setting,
                    stringify!($name),
                    concat!($($help),+),
                );
        )+

        $(#[doc = $about])+
        pub const $section: $crate::env::Section =
            $crate::env::Section::new(&[$(&$name),+])$(.checked($check))?;
    };
}
