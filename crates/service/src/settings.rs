//! The settings that every daemon has: its admin port and its logs.

use std::net::SocketAddr;

use crate::{
    env::{Setting, Text},
    logging::{Level, LogFormat},
};

const URL: Text = Text::new("a URL such as http://127.0.0.1:4317", |text| {
    text.contains("://")
});

crate::settings! {
    /// Settings of every daemon. Each program supplies its own default for ADMIN_ADDR.
    COMMON;
    /// The address of the admin port, which serves /metrics, /health, /health/live, /health/ready
    /// and /status.
    ADMIN_ADDR: SocketAddr = Setting::unset(
        (),
        "Loopback, since it reveals more than outsiders should know; the defaults of the two \
         daemons differ so that both can run on one host",
    );
    /// The level of the logs: events at this level and at more severe ones are written.
    LOG_LEVEL: Level = Setting::new(
        (),
        "info",
        "Shows changes in the state of the process, and nothing per connection",
    );
    /// The format of the logs on standard error: one JSON object or one line of text per event.
    LOG_FORMAT: LogFormat = Setting::new((), "json", "Logs of daemons are mostly read by machines");
    /// The OTLP endpoint to send traces to. If it is empty, no traces are sent.
    OTEL_EXPORTER_OTLP_ENDPOINT: Option<String> =
        Setting::unset(URL, "Traces need a collector").url().not_built();
}
