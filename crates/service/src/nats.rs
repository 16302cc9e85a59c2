//! A daemon's connection to NATS: its settings, and the options that they become for the bus. They
//! are here because clock and edge have the same settings, and the bus does not read the
//! environment.

use std::path::PathBuf;

use secrecy::SecretString;
use tickstorm_bus::NatsOptions;
use url::Url;

use crate::env::{Findings, Setting, Settings, Text};

/// Subjects are made of tokens separated by dots; `*` and `>` are wildcards.
const SUBJECT: Text = Text::new(
    "1 to 64 characters (A-Z a-z 0-9 . _ -), with no dot at either end and no two adjacent dots",
    |text| {
        Text::ID.allows(text)
            && !text.starts_with('.')
            && !text.ends_with('.')
            && !text.contains("..")
    },
);

const URLS: Text = Text::new(
    "nats:// or tls:// URLs of a host and an optional port, such as nats://127.0.0.1:4222, \
     separated by commas",
    |text| text.split(',').all(|url| is_server(url.trim())),
);

/// Returns whether `url` can be the URL of a NATS server.
fn is_server(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        matches!(url.scheme(), "nats" | "tls")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.port() != Some(0)
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

const NO_LOGIN: &str = "A NATS server without authentication needs none";
const NO_CERTIFICATE: &str = "Most NATS servers do not ask for a client certificate";

crate::settings! {
    /// Settings of the connection to NATS.
    NATS, checked by check;
    /// The URLs of the NATS servers, separated by commas.
    NATS_URL: String = Setting::new(
        URLS,
        "nats://127.0.0.1:4222",
        "A NATS server on this host, on its default port",
    )
    .url();
    /// The user name for NATS.
    NATS_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, NO_LOGIN).or_file();
    /// The password for NATS.
    NATS_PASSWORD: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, NO_LOGIN).secret().or_file();
    /// The token for NATS.
    NATS_TOKEN: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, NO_LOGIN).secret().or_file();
    /// The credentials file with the JWT and key of a NATS user.
    NATS_CREDS_FILE: Option<PathBuf> = Setting::unset((), NO_LOGIN);
    /// The file with the certificate authorities that sign the certificates of NATS servers.
    NATS_CA_FILE: Option<PathBuf> = Setting::unset(
        (),
        "The system's certificate authorities apply if it is not set",
    );
    /// The file with the client certificate that is presented to NATS servers.
    NATS_CERT_FILE: Option<PathBuf> = Setting::unset((), NO_CERTIFICATE);
    /// The file with the private key for NATS_CERT_FILE.
    NATS_KEY_FILE: Option<PathBuf> = Setting::unset((), NO_CERTIFICATE);
    /// The prefix of all NATS subjects.
    NATS_SUBJECT_PREFIX: String = Setting::new(
        SUBJECT,
        "tickstorm",
        "One TickStorm system per NATS account",
    );
}

/// An incomplete login or certificate, or more than one login.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("NATS_USER and NATS_PASSWORD go together: set both or neither")]
    HalfUser,
    /// NATS accepts one login only, and choosing one of several would be a guess.
    #[error("NATS_USER, NATS_TOKEN and NATS_CREDS_FILE are alternatives: set only one of them")]
    Several,
    #[error("NATS_CERT_FILE and NATS_KEY_FILE go together: set both or neither")]
    HalfCertificate,
}

fn check(settings: &Settings, findings: &mut Findings) {
    let errors = [login_error(settings), certificate_error(settings)];
    for error in errors.into_iter().flatten() {
        findings.refuse(error);
    }
    for file in [
        &NATS_CREDS_FILE,
        &NATS_CA_FILE,
        &NATS_CERT_FILE,
        &NATS_KEY_FILE,
    ] {
        findings.refuse_unreadable(settings, file);
    }
}

fn login_error(settings: &Settings) -> Option<LoginError> {
    let user = settings.look_up(&NATS_USER)?;
    let password = settings.look_up(&NATS_PASSWORD)?;
    let token = settings.look_up(&NATS_TOKEN)?;
    let file = settings.look_up(&NATS_CREDS_FILE)?;
    if user.is_some() != password.is_some() {
        return Some(LoginError::HalfUser);
    }
    let logins = [user.is_some(), token.is_some(), file.is_some()];
    (logins.into_iter().filter(|set| *set).count() > 1).then_some(LoginError::Several)
}

fn certificate_error(settings: &Settings) -> Option<LoginError> {
    let certificate = settings.look_up(&NATS_CERT_FILE)?;
    let key = settings.look_up(&NATS_KEY_FILE)?;
    (certificate.is_some() != key.is_some()).then_some(LoginError::HalfCertificate)
}

/// Returns the options for the bus. `name` identifies the connection on the NATS servers.
///
/// # Panics
/// Panics if [`NATS`] was not loaded.
#[must_use]
pub fn options(settings: &Settings, name: String) -> NatsOptions {
    NatsOptions {
        urls: settings.get(&NATS_URL),
        user: settings.get(&NATS_USER),
        password: settings.get(&NATS_PASSWORD),
        token: settings.get(&NATS_TOKEN),
        credentials_file: settings.get(&NATS_CREDS_FILE),
        ca_file: settings.get(&NATS_CA_FILE),
        certificate_file: settings.get(&NATS_CERT_FILE),
        key_file: settings.get(&NATS_KEY_FILE),
        subject_prefix: settings.get(&NATS_SUBJECT_PREFIX),
        name,
    }
}
