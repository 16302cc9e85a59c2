//! Settings of every daemon.

use std::net::SocketAddr;

use super::settings;
use crate::{
    env::{Group, Setting, Text},
    logging::{Format, Level},
};

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
}
