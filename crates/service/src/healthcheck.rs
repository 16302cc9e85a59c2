//! Queries a daemon's own admin port for its health: the probe for a container that contains no
//! shell and no curl.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::admin::reachable;

/// The time limit for connecting, for sending the request, and for each read of the response. It is
/// below the timeout of a probe, for which orchestrators can be configured to 5 s or more, and far
/// above the time in which a live daemon responds.
const TIME_MAX: Duration = Duration::from_secs(2);

/// The maximum number of bytes of a response that are read, enough for all possible reasons.
const RESPONSE_BYTES_MAX: u64 = 65_536;

/// The reason that a daemon does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unhealthy {
    /// The daemon can't be queried.
    #[error("cannot query http://{addr}{path}")]
    Unreachable {
        addr: SocketAddr,
        path: &'static str,
        source: io::Error,
    },
    /// The daemon reports that it is not healthy.
    #[error("http://{addr}{path} returned {response}")]
    Reported {
        addr: SocketAddr,
        path: &'static str,
        response: String,
    },
}

/// Requests `path` from the admin port that listens on `addr`. Any answer other than 200 is an
/// error.
pub(crate) fn ask(addr: SocketAddr, path: &'static str) -> Result<(), Unhealthy> {
    let addr = reachable(addr);
    match exchange(addr, path) {
        Ok(response) if response.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(response) => {
            let body = response.rsplit("\r\n").next().unwrap_or_default();
            Err(Unhealthy::Reported {
                addr,
                path,
                response: body.to_owned(),
            })
        }
        Err(source) => Err(Unhealthy::Unreachable { addr, path, source }),
    }
}

fn exchange(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, TIME_MAX)?;
    stream.set_read_timeout(Some(TIME_MAX))?;
    stream.set_write_timeout(Some(TIME_MAX))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}
