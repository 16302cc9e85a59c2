//! Asking a daemon's own admin port how it is: the probe of a container that has no shell and no curl in it.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::admin::reachable;

/// The time for the connection, for the question and for each part of the answer: below the 5 s and more that orchestrators
/// give a probe that they are told to, and far more than a daemon that is alive takes.
const TIME_MAX: Duration = Duration::from_secs(2);

/// The bytes of an answer that are read: all reasons that there may be.
const ANSWER_BYTES_MAX: u64 = 65_536;

/// Why a daemon is not found healthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unhealthy {
    /// It can't be asked.
    #[error("http://{addr}{path}")]
    Unreachable {
        addr: SocketAddr,
        path: &'static str,
        source: io::Error,
    },
    /// It says so itself.
    #[error("http://{addr}{path}: {answer}")]
    Told {
        addr: SocketAddr,
        path: &'static str,
        answer: String,
    },
}

/// Asks for `path` at the admin port that listens on `addr`.
pub(crate) fn ask(addr: SocketAddr, path: &'static str) -> Result<(), Unhealthy> {
    let addr = reachable(addr);
    match exchange(addr, path) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(answer) => {
            let answer = answer.rsplit("\r\n").next().unwrap_or_default().to_owned();
            Err(Unhealthy::Told { addr, path, answer })
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
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
