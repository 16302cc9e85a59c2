//! [`Handshake`]: a connection until it is established. rustls does the work; this feeds it one
//! record at a time, so that rustls never consumes a record that belongs to the [`Session`].

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

use crate::alert::Alert;
use crate::record::{self, HEADER, PROTECTED_MAX};
use crate::session::Session;

/// The most bytes that a client may send before the handshake is complete. A ClientHello takes one
/// or two kilobytes; the rest is room for a chain of client certificates.
const INPUT_MAX: usize = 64 * 1024;

/// The most records of a handshake. A ClientHello of 2 KB in fragments of 32 bytes takes 64, and a
/// chain of certificates some hundreds. rustls looks at incomplete input again for each record.
const RECORDS_MAX: usize = 1_024;

/// A handshake in progress.
pub struct Handshake {
    /// `None` after the handshake has ended.
    connection: Option<UnbufferedServerConnection>,
    /// Input that is not consumed: an incomplete record, and handshake messages that are not
    /// complete.
    input: Vec<u8>,
    /// The length of the part of `input` that rustls has seen.
    seen: usize,
    received: usize,
    /// The number of records that rustls has seen.
    records: usize,
    records_max: u64,
}

/// The state of a handshake after a step.
pub enum HandshakeProgress {
    /// More input is needed.
    InProgress,
    /// The handshake is complete, and has ended.
    Established(Established),
}

/// The result of a complete handshake.
pub struct Established {
    /// The connection.
    pub session: Box<Session>,
    /// Input that arrived after the handshake: the first records of the connection, the last of
    /// them perhaps incomplete.
    pub unread: Vec<u8>,
    /// The client's certificate, if it presented one.
    pub client_certificate: Option<CertificateDer<'static>>,
}

/// The handshake failed. The output may hold an alert to send.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// One of the two sides refused the other.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The client closed the connection in the middle of the handshake.
    #[error("the client closed the connection during the handshake")]
    Closed,
    /// The client sent an empty record, one that is too long, or too many records.
    #[error("the client sent a record that is empty or too long, or too many records")]
    InvalidRecord,
    /// The client sent too much before the handshake was complete.
    #[error("the client sent more than {INPUT_MAX} bytes before the handshake was complete")]
    TooMuchInput,
    /// The handshake has ended already.
    #[error("the handshake has ended")]
    Ended,
}

/// The result of one step of rustls.
enum Step {
    Again,
    NeedsInput,
    Complete,
    Failed(HandshakeError),
}

impl Handshake {
    /// Creates a handshake that has received nothing.
    ///
    /// # Errors
    /// The configuration is not usable.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, HandshakeError> {
        Self::with_records_max(config, u64::MAX)
    }

    /// Does the same as [`new`](Self::new), for a session that replaces each key after at most
    /// `records_max` records, or earlier if the cipher suite requires it.
    ///
    /// # Errors
    /// The configuration is not usable.
    pub fn with_records_max(
        config: Arc<ServerConfig>,
        records_max: u64,
    ) -> Result<Self, HandshakeError> {
        Ok(Self {
            connection: Some(UnbufferedServerConnection::new(config)?),
            input: Vec::new(),
            seen: 0,
            received: 0,
            records: 0,
            records_max,
        })
    }

    /// Consumes input, and appends to `output` what must be sent, in order. This does at most one
    /// key exchange and one signature, or one verification of the client.
    ///
    /// # Errors
    /// The handshake failed. Send the output, which may hold an alert, and close the connection.
    pub fn handle_input(
        &mut self,
        bytes: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<HandshakeProgress, HandshakeError> {
        let mut connection = self.connection.take().ok_or(HandshakeError::Ended)?;
        self.received += bytes.len();
        self.input.extend_from_slice(bytes);
        while let Some(record) = next_record(&self.input[self.seen..]) {
            self.records += 1;
            if record.is_invalid || self.records > RECORDS_MAX {
                let alert = Alert::UnexpectedMessage.encode();
                output.extend_from_slice(&record::plain_alert(alert));
                return Err(HandshakeError::InvalidRecord);
            }
            self.seen += record.len;
            if self.process(&mut connection, output)? {
                return self.finish(connection).map(HandshakeProgress::Established);
            }
        }
        if self.received > INPUT_MAX {
            return Err(HandshakeError::TooMuchInput);
        }
        self.connection = Some(connection);
        Ok(HandshakeProgress::InProgress)
    }

    /// Lets rustls process the records that it may see. Returns whether the handshake is complete.
    fn process(
        &mut self,
        connection: &mut UnbufferedServerConnection,
        output: &mut Vec<u8>,
    ) -> Result<bool, HandshakeError> {
        loop {
            let status = connection.process_tls_records(&mut self.input[..self.seen]);
            let UnbufferedStatus { discard, state, .. } = status;
            let step = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, output)?;
                    Step::Again
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Step::Again
                }
                Ok(ConnectionState::BlockedHandshake) => Step::NeedsInput,
                Ok(ConnectionState::WriteTraffic(_)) => Step::Complete,
                Ok(_) => Step::Failed(HandshakeError::Closed),
                Err(error) => Step::Failed(error.into()),
            };
            self.input.drain(..discard);
            self.seen -= discard;
            match step {
                Step::Again => {}
                Step::NeedsInput => return Ok(false),
                Step::Complete => return Ok(true),
                Step::Failed(error) => {
                    encode_alert(connection, &mut self.input[..self.seen], output)?;
                    return Err(error);
                }
            }
        }
    }

    fn finish(
        &mut self,
        connection: UnbufferedServerConnection,
    ) -> Result<Established, HandshakeError> {
        let certificates = connection.peer_certificates();
        let client_certificate = certificates
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.clone().into_owned());
        let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
        let mut unread = std::mem::take(&mut self.input);
        unread.drain(..self.seen);
        Ok(Established {
            session: Box::new(Session::new(secrets, kernel, self.records_max)?),
            unread,
            client_certificate,
        })
    }
}

/// A record that has arrived completely, or is refused without waiting for the rest of it.
struct CompleteRecord {
    len: usize,
    is_invalid: bool,
}

/// Returns the record at the start of `input`, if it is complete. An empty record is never valid
/// here: refusing it bounds what the records of a handshake cost. If a header is not valid at all,
/// all of the input counts as one record, so that rustls refuses it immediately.
fn next_record(input: &[u8]) -> Option<CompleteRecord> {
    let header = record::header(input)?;
    let length = record::length(header);
    let (len, is_invalid) = if !record::may_be_valid(header) {
        (input.len(), false)
    } else if length == 0 || length > PROTECTED_MAX {
        (input.len(), true)
    } else {
        (HEADER + length, false)
    };
    (input.len() >= len).then_some(CompleteRecord { len, is_invalid })
}

fn encode(
    mut data: EncodeTlsData<'_, ServerConnectionData>,
    output: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    let start = output.len();
    let required = match data.encode(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Err(error @ EncodeError::AlreadyEncoded) => {
            return Err(rustls::Error::General(error.to_string()).into());
        }
    };
    output.resize(start + required, 0);
    let written = data.encode(&mut output[start..]).unwrap_or(0);
    output.truncate(start + written);
    Ok(())
}

/// Encodes the alert that rustls has to send after an error, if it has one. `input` is what rustls
/// has seen and not consumed.
fn encode_alert(
    connection: &mut UnbufferedServerConnection,
    input: &mut [u8],
    output: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    match connection.process_tls_records(input).state {
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, output),
        _ => Ok(()),
    }
}
