//! Settings from the environment: one table says what there is ([`table`]), [`Settings`] is what was found, [`SettingsErrors`]
//! is everything that is wrong with it at once. What a setting is for, the table says; what it does, its part knows.

mod checks;
mod error;
mod file;
mod host;
mod raw;
mod secret;
mod setting;
mod settings;
pub mod table;
mod value;

pub use error::{SettingsError, SettingsErrors};
pub use file::{FileError, SECRET_FILE_BYTES_MAX, read_secret_file};
pub use secret::Secret;
pub use setting::{Group, Row, Setting};
pub use settings::{Settings, Source};
pub use value::{Span, Text, Value};
pub(crate) use value::{choices, one_of};
