//! Someone who has stolen a login of NATS: a client that speaks the protocol by hand, so that it
//! can also send what no library sends.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tickstorm_testkit::Nats;
use tickstorm_timebase::{Clock as _, SystemClock};

/// The number of messages that are sent at once in a flood.
const BATCH: usize = 200;

/// A message that the intruder has received.
#[derive(Clone, Debug)]
pub(crate) struct Overheard {
    pub(crate) subject: String,
    pub(crate) reply_to: Option<String>,
    pub(crate) payload: Vec<u8>,
}

/// What the server has sent to the intruder.
#[derive(Debug, Default)]
struct Received {
    messages: Vec<Overheard>,
    errors: Vec<String>,
}

/// A connection with a stolen login.
pub(crate) struct Intruder {
    stream: TcpStream,
    subscriptions: u32,
    received: Arc<Mutex<Received>>,
}

impl Intruder {
    /// Connects with this login, or without one.
    pub(crate) fn connect(nats: &Nats, login: Option<(&str, &str)>) -> Self {
        let mut stream = TcpStream::connect(nats.address()).unwrap();
        let login = login.map_or(String::new(), |(user, password)| {
            format!(r#","user":"{user}","pass":"{password}""#)
        });
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"protocol\":1{login}}}\r\nPING\r\n"
        );
        stream.write_all(connect.as_bytes()).unwrap();
        let received = Arc::new(Mutex::new(Received::default()));
        let (input, output, record) = (
            stream.try_clone().unwrap(),
            stream.try_clone().unwrap(),
            Arc::clone(&received),
        );
        // It ends with the connection.
        thread::spawn(move || read(BufReader::new(input), output, &record));
        Self {
            stream,
            subscriptions: 0,
            received,
        }
    }

    /// Subscribes to a subject.
    pub(crate) fn subscribe(&mut self, subject: &str) {
        self.subscriptions += 1;
        let line = format!("SUB {subject} {}\r\n", self.subscriptions);
        self.stream.write_all(line.as_bytes()).unwrap();
    }

    /// Publishes a message.
    pub(crate) fn publish(&mut self, subject: &str, reply_to: Option<&[u8]>, payload: &[u8]) {
        let message = publication(subject, reply_to, payload);
        self.stream.write_all(&message).unwrap();
    }

    /// Sends messages for `time`, at most `per_second` of them. `message` returns the bytes of one.
    pub(crate) fn flood(
        &mut self,
        time: Duration,
        per_second: u32,
        mut message: impl FnMut() -> Vec<u8>,
    ) {
        let start = SystemClock.now();
        let elapsed = || SystemClock.now().since(start);
        let mut sent = 0;
        while elapsed() < time {
            let batch: Vec<u8> = (0..BATCH).flat_map(|_| message()).collect();
            self.stream.write_all(&batch).unwrap();
            sent += BATCH;
            let due = Duration::from_secs(1) * u32::try_from(sent).unwrap() / per_second;
            thread::sleep(due.saturating_sub(elapsed()));
        }
    }

    /// Takes the messages received since the last call.
    pub(crate) fn take_messages(&self) -> Vec<Overheard> {
        std::mem::take(&mut self.received().messages)
    }

    /// Returns the errors that the server has sent.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.received().errors.clone()
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        // The server may have closed the connection.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Returns the bytes of a message.
pub(crate) fn publication(subject: &str, reply_to: Option<&[u8]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("PUB {subject} ").into_bytes();
    if let Some(reply_to) = reply_to {
        bytes.extend_from_slice(reply_to);
        bytes.push(b' ');
    }
    bytes.extend_from_slice(format!("{}\r\n", payload.len()).as_bytes());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Records what arrives until the connection ends.
fn read(mut input: BufReader<TcpStream>, mut output: TcpStream, received: &Mutex<Received>) {
    let mut line = String::new();
    while input.read_line(&mut line).is_ok_and(|length| length > 0) {
        let words: Vec<_> = line.split_whitespace().collect();
        let outcome = match words.as_slice() {
            ["MSG", subject, _, between @ .., length] => {
                message(&mut input, subject, between, length).map(|message| {
                    received.lock().unwrap().messages.push(message);
                })
            }
            ["PING"] => output.write_all(b"PONG\r\n"),
            ["-ERR", ..] => {
                let error = line.trim().to_owned();
                received.lock().unwrap().errors.push(error);
                Ok(())
            }
            _ => Ok(()),
        };
        if outcome.is_err() {
            return;
        }
        line.clear();
    }
}

fn message(
    input: &mut impl io::Read,
    subject: &str,
    between: &[&str],
    length: &str,
) -> io::Result<Overheard> {
    let mut payload = vec![0; length.parse::<usize>().unwrap() + 2];
    input.read_exact(&mut payload)?;
    payload.truncate(payload.len() - 2);
    Ok(Overheard {
        subject: subject.to_owned(),
        reply_to: between.first().map(ToString::to_string),
        payload,
    })
}
