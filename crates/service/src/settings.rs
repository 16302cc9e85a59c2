//! The settings that every daemon has: its admin port and its logs.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    env::{Findings, Setting, Settings},
    logging::{Levels, LogFormat},
};

const NO_ADMIN_TLS: &str = "On loopback, the admin port needs no TLS";

crate::settings! {
    /// Settings of every daemon. Each program supplies its own default for ADMIN_ADDR.
    COMMON, checked by check;
    /// The address of the admin port, which serves a page for people at /, /metrics, /health,
    /// /health/live, /health/ready and /status.
    ADMIN_ADDR: SocketAddr = Setting::unset(
        (),
        "Loopback, since it reveals more than outsiders should know; the defaults of the two \
         daemons differ so that both can run on one host",
    );
    /// The file with the admin port's certificate, followed by its intermediate certificates. With
    /// it, the port serves HTTPS only. It is reread when it changes.
    ADMIN_TLS_CERT_FILE: Option<PathBuf> = Setting::unset((), NO_ADMIN_TLS);
    /// The file with the private key of the certificate in ADMIN_TLS_CERT_FILE. It is reread when
    /// it changes.
    ADMIN_TLS_KEY_FILE: Option<PathBuf> = Setting::unset((), NO_ADMIN_TLS);
    /// The file with the admin port's token: 16 to 1024 characters. With it, paths that show
    /// clients or change anything need the token from everywhere, as `Authorization: Bearer
    /// TOKEN`. Without it, they are for programs on the same machine only. It is reread when it
    /// changes.
    ADMIN_TOKEN_FILE: Option<PathBuf> = Setting::unset(
        (),
        "Programs on the same machine need none, and others then have no access to these paths",
    );
    /// The level of the logs: events at this level and at more severe ones are written. A module
    /// may have a level of its own, which includes the modules below it; an event's module is its
    /// target.
    LOG_LEVEL: Levels = Setting::new(
        (),
        "info",
        "Shows changes in the state of the process, and nothing per connection",
    );
    /// The format of the logs on standard error: one JSON object or one line of text per event.
    LOG_FORMAT: LogFormat = Setting::new((), "json", "Logs of daemons are mostly read by machines");
}

/// An incomplete certificate of the admin port.
#[derive(Debug, thiserror::Error)]
#[error("ADMIN_TLS_CERT_FILE and ADMIN_TLS_KEY_FILE go together: set both or neither")]
struct HalfCertificate;

fn check(settings: &Settings, findings: &mut Findings) {
    findings.refuse_unreadable(settings, &ADMIN_TOKEN_FILE);
    let files = [&ADMIN_TLS_CERT_FILE, &ADMIN_TLS_KEY_FILE];
    let [Some(certificate), Some(key)] = files.map(|file| settings.look_up(file)) else {
        return;
    };
    if certificate.is_some() != key.is_some() {
        findings.refuse(HalfCertificate);
    }
    for file in files {
        findings.refuse_unreadable(settings, file);
    }
    let addr = settings.look_up(&ADMIN_ADDR);
    if let Some(addr) = addr.filter(|addr| certificate.is_none() && !addr.ip().is_loopback()) {
        findings.warn(format!(
            "ADMIN_ADDR={addr} serves other machines in plain text: set ADMIN_TLS_CERT_FILE and \
             ADMIN_TLS_KEY_FILE"
        ));
    }
}
