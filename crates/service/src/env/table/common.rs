//! Settings of every daemon.

use std::{net::SocketAddr, path::PathBuf};

use super::settings;
use crate::{
    env::{Group, Secret, Setting, Text},
    logging::{Format, Level},
};

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
    "URLs such as nats://127.0.0.1:4222, separated by commas",
    |text| text.split(',').all(|url| url.contains("://")),
);

const URL: Text = Text::new("a URL such as http://127.0.0.1:4317", |text| {
    text.contains("://")
});

settings! { COMMON of [Group::Common];
    /// The address of the admin port: /metrics, /health, /health/live, /health/ready, /status.
    ADMIN_ADDR: SocketAddr = Setting::derived(
        (),
        "127.0.0.1:8081 (edge), 127.0.0.1:8082 (clock)",
        |_, groups| {
            let port = if groups.contains(&Group::Edge) { 8_081 } else { 8_082 };
            SocketAddr::from(([127, 0, 0, 1], port)).to_string()
        },
        "loopback: it tells more than a stranger should know, and both daemons may run on one host",
    );
    /// Which log events are written: those at this level and the graver ones.
    LOG_LEVEL: Level = Setting::new((), "info", "states of the process, and nothing for each connection");
    /// How log events are written: a JSON object or a text a line, on standard error.
    LOG_FORMAT: Format = Setting::new((), "json", "logs of daemons are read by machines first");
    /// Where traces are sent by OTLP. No traces where it is empty.
    OTEL_EXPORTER_OTLP_ENDPOINT: Option<String> =
        Setting::unset(URL, "traces are for those who have a collector").url().not_built();
    /// The NATS servers, separated by commas.
    NATS_URL: String = Setting::new(URLS, "nats://127.0.0.1:4222", "a server on this host, on its own default port")
        .url()
        .not_built();
    /// The user towards NATS.
    NATS_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").or_file().not_built();
    /// The password towards NATS.
    NATS_PASSWORD: Option<Secret> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").secret().or_file().not_built();
    /// The token towards NATS.
    NATS_TOKEN: Option<Secret> =
        Setting::unset(Text::CREDENTIAL, "NATS without authentication needs none").secret().or_file().not_built();
    /// The file with a NATS user's JWT and key.
    NATS_CREDS_FILE: Option<PathBuf> =
        Setting::unset((), "NATS without authentication needs none").not_built();
    /// The file with the authorities that sign NATS servers' certificates.
    NATS_CA_FILE: Option<PathBuf> = Setting::unset((), "the system's own authorities").not_built();
    /// The file with the certificate shown to NATS.
    NATS_CERT_FILE: Option<PathBuf> = Setting::unset((), "most NATS servers ask for none").not_built();
    /// The file with the key of NATS_CERT_FILE.
    NATS_KEY_FILE: Option<PathBuf> = Setting::unset((), "most NATS servers ask for none").not_built();
    /// What all subjects on NATS begin with.
    NATS_SUBJECT_PREFIX: String = Setting::new(SUBJECT, "tickstorm", "one system a NATS account").not_built();
}
