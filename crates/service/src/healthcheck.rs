//! Queries a daemon's own admin port for its health: the probe for a container that contains no
//! shell and no curl.

use std::{io, net::SocketAddr};

use crate::admin_client::{AdminPort, Response, Scheme, any_certificate};

/// The reason that a daemon does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unhealthy {
    /// The daemon can't be queried.
    #[error("cannot query {url}")]
    Unreachable { url: String, source: io::Error },
    /// The daemon reports that it is not healthy.
    #[error("{url} returned {response}")]
    Reported { url: String, response: String },
}

/// Requests `path` from the admin port that listens on `addr`. Any answer other than 200 is an
/// error.
///
/// The certificate of the port is not looked at. The probe asks a port of its own host, by an
/// address that certificates rarely contain, and neither sends a secret nor has to trust the
/// answer: a certificate that has expired must not get a daemon restarted.
pub(crate) fn ask(scheme: Scheme, addr: SocketAddr, path: &str) -> Result<(), Unhealthy> {
    let port = AdminPort::on_this_machine(scheme, addr);
    let url = format!("{port}{path}");
    match port.get(path, &any_certificate()) {
        Ok(Response { code: 200, .. }) => Ok(()),
        Ok(Response { body, .. }) => Err(Unhealthy::Reported {
            url,
            response: body,
        }),
        Err(source) => Err(Unhealthy::Unreachable { url, source }),
    }
}
