//! As whom this program's own clients authenticate: by the same settings that an edge takes, and a token of their own.

use secrecy::{ExposeSecret, SecretString};
use tickstorm_client::Options;
use tickstorm_edge::settings::{LOGIN, STREAM_PASS, STREAM_USER};
use tickstorm_service::env::{Section, Setting, Settings, Text};
use tickstorm_service::exit;

use crate::Failure;

tickstorm_service::settings! {
    /// Settings of who a client is, beside those that the edge has as well.
    CLIENT;
    /// The token to log in with, instead of user and password.
    STREAM_TOKEN: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "only edges with tokens take one").secret().or_file();
}

/// What a client by itself takes.
pub const SECTIONS: [Section; 2] = [LOGIN, CLIENT];

/// Whom the edge of `dev` lets in where nothing else is set, and whom `tail` then tries to be.
pub const DEFAULTS: [(&str, &str); 2] = [
    ("STREAM_USER", "stream_user"),
    ("STREAM_PASS", "stream_pass"),
];

/// What a client shows an edge.
#[derive(Clone, Debug)]
pub enum ClientCredentials {
    /// A token, which goes before all else that is set.
    Token(SecretString),
    /// A user's name and password.
    Password(String, SecretString),
}

impl ClientCredentials {
    /// Those that `settings` hold; `user` goes before the name in them.
    pub fn from_settings(settings: &Settings, user: Option<&str>) -> Result<Self, Failure> {
        if let Some(token) = settings.get(&STREAM_TOKEN) {
            return Ok(Self::Token(token));
        }
        let user = user
            .map(str::to_owned)
            .or_else(|| settings.get(&STREAM_USER));
        match (user, settings.get(&STREAM_PASS)) {
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
            Self::Token(token) => options.token(token.expose_secret()),
            Self::Password(user, password) => options.credentials(user, password.expose_secret()),
        }
    }
}
