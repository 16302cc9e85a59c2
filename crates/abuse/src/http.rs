//! A request to an admin port, with a limit on the time for everything together.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tickstorm_timebase::{Clock as _, Mono, SystemClock};

/// The most bytes of an answer: about twice what 10,000 listed connections have.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Requests `path`, and returns the answer.
///
/// # Errors
/// There was no complete answer within `time_max`.
pub(crate) fn get(addr: SocketAddr, path: &str, time_max: Duration) -> io::Result<Answer> {
    get_with(addr, path, "", time_max)
}

/// Does the same with more header lines, each of which ends with CR LF.
///
/// # Errors
/// There was no complete answer within `time_max`.
pub(crate) fn get_with(
    addr: SocketAddr,
    path: &str,
    header: &str,
    time_max: Duration,
) -> io::Result<Answer> {
    let until = SystemClock.now() + time_max;
    let mut stream = TcpStream::connect_timeout(&addr, time_max)?;
    stream.set_write_timeout(Some(left(until)?))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{header}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            len => answer.extend_from_slice(&buffer[..len]),
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
    }
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

/// Returns the time that is left, which is more than none.
fn left(until: Mono) -> io::Result<Duration> {
    let left = until.since(SystemClock.now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Answer {
        status: status.parse().ok()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers one request with these pieces, and returns what was asked.
    fn serve(pieces: &'static [&'static [u8]]) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            for piece in pieces {
                stream.write_all(piece).unwrap();
            }
            String::from_utf8(asked).unwrap()
        });
        (addr, thread)
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let (addr, thread) = serve(&[b"HTTP/1.1 50", b"3 Sorry\r\nA: b\r\n\r\nnot", b" ready"]);
        let answer = get_with(addr, "/health", "X: y\r\n", Duration::from_secs(30)).unwrap();
        assert_eq!((answer.status, &*answer.body), (503, "not ready"));
        let asked = thread.join().unwrap();
        let expected =
            format!("GET /health HTTP/1.1\r\nHost: {addr}\r\nX: y\r\nConnection: close\r\n\r\n");
        assert_eq!(asked, expected);
    }

    #[test]
    fn something_else_is_an_error_and_so_is_silence() {
        let (addr, thread) = serve(&[b"SSH-2.0\r\n\r\n"]);
        let error = get(addr, "/", Duration::from_secs(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        thread.join().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = silent.local_addr().unwrap();
        assert!(get(addr, "/", Duration::from_millis(50)).is_err());
    }
}
