//! Logs.

/// Which log events are written: those at this level and the graver ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A defect, or something that ends the process.
    Error,
    /// What someone should look at.
    Warn,
    /// States of the process.
    Info,
    /// Also each connection's end.
    Debug,
    /// Also each frame.
    Trace,
}

/// How log events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// One text a line, for people.
    Text,
}

crate::env::choices!(Level:
    "error" => Self::Error, "warn" => Self::Warn, "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace);
crate::env::choices!(Format: "json" => Self::Json, "text" => Self::Text);
