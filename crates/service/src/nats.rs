//! A daemon's connection to NATS: its settings, and what the bus is told of them. Clock and edge have the same, and the bus reads no
//! environment, so both stand here.

use std::path::PathBuf;

use secrecy::SecretString;
use tickstorm_bus::NatsOptions;
use url::Url;

use crate::env::{Findings, Setting, Settings, Text};

/// Subjects are made of tokens separated by dots; `*` and `>` are wildcards.
const SUBJECT: Text = Text::new(
    "1 to 64 characters of A-Z a-z 0-9 . _ -, no dot at either end",
    |text| {
        Text::ID.allows(text)
            && !text.starts_with('.')
            && !text.ends_with('.')
            && !text.contains("..")
    },
);

const URLS: Text = Text::new(
    "nats:// or tls:// URLs of a host and a port, such as nats://127.0.0.1:4222, separated by commas",
    |text| text.split(',').all(|url| is_server(url.trim())),
);

/// Whether a connection could ever be made to `url`.
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

crate::settings! {
    /// Settings of the connection to NATS.
    NATS, checked by check;
    /// The NATS servers, separated by commas.
    NATS_URL: String = Setting::new(URLS, "nats://127.0.0.1:4222", "a server on this host, on its own default port")
        .url();
    /// The user towards NATS.
    NATS_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").or_file();
    /// The password towards NATS.
    NATS_PASSWORD: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").secret().or_file();
    /// The token towards NATS.
    NATS_TOKEN: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").secret().or_file();
    /// The file with a NATS user's JWT and key.
    NATS_CREDS_FILE: Option<PathBuf> =
        Setting::unset((), "NATS without authentication needs none");
    /// The file with the authorities that sign NATS servers' certificates.
    NATS_CA_FILE: Option<PathBuf> = Setting::unset((), "the system's own authorities");
    /// The file with the certificate shown to NATS.
    NATS_CERT_FILE: Option<PathBuf> = Setting::unset((), "most NATS servers ask for none");
    /// The file with the key of NATS_CERT_FILE.
    NATS_KEY_FILE: Option<PathBuf> = Setting::unset((), "most NATS servers ask for none");
    /// What all subjects on NATS begin with.
    NATS_SUBJECT_PREFIX: String = Setting::new(SUBJECT, "tickstorm", "one system a NATS account");
}

/// A login or a certificate that is not whole, or more than one.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("NATS_USER and NATS_PASSWORD go together: set both or none")]
    HalfUser,
    /// NATS takes one login: of two it would be a guess which one is meant.
    #[error("NATS_USER, NATS_TOKEN and NATS_CREDS_FILE are three ways to log in: set one of them")]
    Several,
    #[error("NATS_CERT_FILE and NATS_KEY_FILE go together: set both or none")]
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

/// What the bus is told, with the name by which servers know this connection.
///
/// # Panics
/// If [`NATS`] was not loaded.
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
