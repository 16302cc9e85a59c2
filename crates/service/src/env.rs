//! Settings from the environment. [`Section`]s say what there is, [`Settings`] is what was found, [`SettingsErrors`] is everything
//! that is wrong with it at once. Which settings there are, and what they do, the crates that obey them say: each declares its own by
//! [`settings!`](crate::settings!), and a program lists the sections that it takes.

mod error;
mod file;
mod host;
mod raw;
mod section;
mod setting;
mod settings;
mod value;

pub use error::{SettingsError, SettingsErrors};
pub use file::{FileError, SECRET_FILE_BYTES_MAX, read_secret_file};
pub use host::host_id;
pub use section::{Findings, Section};
pub use setting::{Row, Setting};
pub use settings::{Origin, Settings};
pub use value::{Span, Text, Value, one_of};

/// Declares a section: its name, the check of its settings if there is one, and the settings, a constant each. A setting's
/// documentation is its help, so that none can be declared and not listed, or listed and not explained.
///
/// ```
/// use tickstorm_service::env::{Setting, Text};
///
/// tickstorm_service::settings! {
///     /// Settings of a greeter.
///     GREETER;
///     /// Whom it greets.
///     GREETING_NAME: String = Setting::new(Text::ID, "world", "it is always there");
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
                <$crate::env::Setting<$type>>::named($setting, stringify!($name), concat!($($help),+));
        )+

        $(#[doc = $about])+
        pub const $section: $crate::env::Section =
            $crate::env::Section::new(&[$(&$name),+])$(.checked($check))?;
    };
}
