//! Settings of every daemon: its admin port and its logs.

use std::net::SocketAddr;

use crate::{
    env::{Setting, Text},
    logging::{Level, LogFormat},
};

const URL: Text = Text::new("a URL such as http://127.0.0.1:4317", |text| {
    text.contains("://")
});

crate::settings! {
    /// Settings of every daemon. The default of ADMIN_ADDR is the program's own.
    COMMON;
    /// The address of the admin port: /metrics, /health, /health/live, /health/ready, /status.
    ADMIN_ADDR: SocketAddr = Setting::unset(
        (),
        "loopback: it tells more than a stranger should know, and both daemons may run on one host",
    );
    /// Which log events are written: those at this level and the graver ones.
    LOG_LEVEL: Level = Setting::new((), "info", "states of the process, and nothing for each connection");
    /// How log events are written: a JSON object or a text a line, on standard error.
    LOG_FORMAT: LogFormat = Setting::new((), "json", "logs of daemons are read by machines first");
    /// Where traces are sent by OTLP. No traces where it is empty.
    OTEL_EXPORTER_OTLP_ENDPOINT: Option<String> =
        Setting::unset(URL, "traces are for those who have a collector").url().not_built();
}
