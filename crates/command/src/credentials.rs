//! The credentials of this program's own clients. They come from the same settings that an edge
//! uses, and from an additional one for a token.

use secrecy::{ExposeSecret, SecretString};
use tickstorm_client::Options;
use tickstorm_edge::settings::{
    LISTEN_ADDR, LOGIN, STREAM_PASS, STREAM_PASS_PREVIOUS, STREAM_USER,
};
use tickstorm_service::env::{Section, Setting, Settings, Text};
use tickstorm_service::exit;

use crate::Failure;

tickstorm_service::settings! {
    /// Settings for a client's credentials that the edge does not share.
    CLIENT;
    /// The token to log in with instead of a user name and password.
    STREAM_TOKEN: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "Only an edge with a tokens file accepts tokens")
            .secret()
            .or_file();
}

/// The sections of settings that a client needs if no edge runs in its process. Its environment may
/// be that of an edge.
pub const SECTIONS: [Section; 2] = [LOGIN, CLIENT.beside(&["STREAM_TOKENS_FILE"])];

/// The default login: the edge of `dev` accepts it, and `tail` uses it, unless another is set.
pub const DEFAULTS: [(&str, &str); 2] = [
    ("STREAM_USER", "stream_user"),
    ("STREAM_PASS", "stream_pass"),
];

/// Fails if an edge with these settings would let other machines log in with the password of
/// [`DEFAULTS`], which everybody can read here.
pub fn refuse_known_password(settings: &Settings) -> Result<(), Failure> {
    let addr = settings.get(&LISTEN_ADDR);
    if addr.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let [_, (_, known)] = DEFAULTS;
    for setting in [&STREAM_PASS, &STREAM_PASS_PREVIOUS] {
        let password = settings.get(setting);
        if password.is_some_and(|password| password.expose_secret() == known) {
            let name = setting.name();
            let text = format!(
                "LISTEN_ADDR={addr} lets other machines connect, and {name} is the default, which \
                 everybody knows: set {name} or {name}_FILE to a password of your own, for example \
                 from `openssl rand -hex 16`, or set LISTEN_ADDR to a loopback address, such as \
                 127.0.0.1:8080"
            );
            return Err(Failure::message(exit::CONFIG, text));
        }
    }
    Ok(())
}

/// The credentials that a client presents to an edge.
#[derive(Clone, Debug)]
pub enum ClientCredentials {
    /// A token, which takes precedence over a user name and password.
    Token(SecretString),
    /// A user name and password.
    Password(String, SecretString),
}

impl ClientCredentials {
    /// Returns the credentials from `settings`. `user` takes precedence over the user name in them.
    pub fn from_settings(settings: &Settings, user: Option<&str>) -> Result<Self, Failure> {
        if let Some(token) = settings.get(&STREAM_TOKEN) {
            return Ok(Self::Token(token));
        }
        let user = user
            .map(str::to_owned)
            .or_else(|| settings.get(&STREAM_USER));
        match (user, settings.get(&STREAM_PASS)) {
            (Some(user), Some(password)) => Ok(Self::Password(user, password)),
            (_, _) => Err(Failure::message(
                exit::CONFIG,
                "STREAM_TOKENS_FILE is set without STREAM_USER and STREAM_PASS: set both, \
                 or set STREAM_TOKEN to a token that the file lists, \
                 so that this program's own client can log in"
                    .into(),
            )),
        }
    }

    /// Adds these credentials to `options`.
    pub fn apply_to(&self, options: Options) -> Options {
        match self {
            Self::Token(token) => options.token(token.expose_secret()),
            Self::Password(user, password) => options.credentials(user, password.expose_secret()),
        }
    }
}
