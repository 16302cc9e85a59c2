//! As whom this program's own clients authenticate: by the same settings that an edge takes, and a token of their own.

use tickstorm_client::Options;
use tickstorm_service::env::{Secret, Settings, table};
use tickstorm_service::lifecycle::exit;

use crate::Failure;

/// Whom the edge of `dev` lets in where nothing else is set, and whom `tail` then tries to be.
pub const DEFAULTS: [(&str, &str); 2] = [
    ("STREAM_USER", "stream_user"),
    ("STREAM_PASS", "stream_pass"),
];

/// What a client shows an edge.
#[derive(Clone, Debug)]
pub enum ClientCredentials {
    /// A token, which goes before all else that is set.
    Token(Secret),
    /// A user's name and password.
    Password(String, Secret),
}

impl ClientCredentials {
    /// Those that `settings` hold; `user` goes before the name in them.
    pub fn from_settings(settings: &Settings, user: Option<&str>) -> Result<Self, Failure> {
        if let Some(token) = settings.get(&table::STREAM_TOKEN) {
            return Ok(Self::Token(token));
        }
        let user = user
            .map(str::to_owned)
            .or_else(|| settings.get(&table::STREAM_USER));
        match (user, settings.get(&table::STREAM_PASS)) {
            (Some(user), Some(password)) => Ok(Self::Password(user, password)),
            (_, _) => Err(Failure::said(
                exit::CONFIG,
                "STREAM_TOKENS_FILE is set without STREAM_USER and STREAM_PASS: set STREAM_TOKEN, to a token \
                 that the file knows, for the client that shows the ticks"
                    .into(),
            )),
        }
    }

    /// `options` with these credentials.
    pub fn put_into(&self, options: Options) -> Options {
        match self {
            Self::Token(token) => options.token(token.expose()),
            Self::Password(user, password) => options.credentials(user, password.expose()),
        }
    }
}
