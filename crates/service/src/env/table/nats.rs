//! Settings of the connection to NATS.

use std::path::PathBuf;

use url::Url;

use super::settings;
use crate::env::{Group, Secret, Setting, Text};

/// Subjects are made of tokens separated by dots; `*` and `>` are wildcards.
const SUBJECT: Text = Text::new(
    "1 to 64 characters of A-Z a-z 0-9 . _ -, no dot at either end",
    |text| {
        (Text::ID.accepts)(text)
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

settings! { NATS of [Group::Common, Group::Nats];
    /// The NATS servers, separated by commas.
    NATS_URL: String = Setting::new(URLS, "nats://127.0.0.1:4222", "a server on this host, on its own default port")
        .url();
    /// The user towards NATS.
    NATS_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").or_file();
    /// The password towards NATS.
    NATS_PASSWORD: Option<Secret> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").secret().or_file();
    /// The token towards NATS.
    NATS_TOKEN: Option<Secret> =
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
