//! [`Handshake`]: a connection until it is established. rustls does the work; this feeds it one
//! record at a time, so that rustls never consumes a record that belongs to the [`Session`].

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};

use crate::alert::Alert;
use crate::record::{self, HEADER, PROTECTED_MAX};
use crate::session::Session;
use crate::side::Side;

/// The most bytes that a peer may send before the handshake is complete. A ClientHello takes one or
/// two kilobytes, but may fill a record; the rest is room for a chain of certificates, of which a
/// server accepts 8 KiB.
const INPUT_MAX: usize = 24 * 1024;
/// The same for a client that presents no certificate: one record of any length, and some more.
const INPUT_MAX_WITHOUT_CERTIFICATE: usize = 18 * 1024;

/// The most records of a handshake. A ClientHello of 2 KB in fragments of 32 bytes takes 64, and a
/// chain of certificates some hundreds. rustls looks at incomplete input again for each record.
const RECORDS_MAX: usize = 1_024;

/// A handshake in progress: that of a server, unless `S` says otherwise.
pub struct Handshake<S = UnbufferedServerConnection> {
    /// `None` after the handshake has ended.
    connection: Option<S>,
    /// Input that is not consumed: an incomplete record, and handshake messages that are not
    /// complete.
    input: Vec<u8>,
    /// The length of the part of `input` that rustls has seen.
    seen: usize,
    received: usize,
    input_max: usize,
    /// How many bytes had been received when something was first encoded for the peer.
    answered_after: Option<usize>,
    /// The number of records that rustls has seen.
    records: usize,
    records_max: u64,
}

/// A client's handshake in progress.
pub type ClientHandshake = Handshake<UnbufferedClientConnection>;

/// The state of a handshake after a step.
pub enum HandshakeProgress<D = ServerConnectionData> {
    /// More input is needed.
    InProgress,
    /// The handshake is complete, and has ended.
    Established(Established<D>),
}

/// The result of a complete handshake.
pub struct Established<D = ServerConnectionData> {
    /// The connection.
    pub session: Box<Session<D>>,
    /// Input that arrived after the handshake: the first records of the connection, the last of
    /// them perhaps incomplete.
    pub unread: Vec<u8>,
    /// The peer's certificate, if it presented one.
    pub peer_certificate: Option<CertificateDer<'static>>,
}

/// The handshake failed. The output may hold an alert to send.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// One of the two sides refused the other.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The peer closed the connection in the middle of the handshake.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer sent an empty record, one that is too long, or too many records.
    #[error("the peer sent a record that is empty or too long, or too many records")]
    InvalidRecord,
    /// The peer sent too much before the handshake was complete.
    #[error("the peer sent more than {max} bytes before the handshake was complete")]
    TooMuchInput {
        /// The most bytes that are allowed.
        max: usize,
    },
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
            ..Self::with_limit(records_max)
        })
    }
}

impl ClientHandshake {
    /// Creates the handshake of a client that expects the server to have a certificate for `name`,
    /// and appends its first message to `output`. `config` must have secret extraction enabled.
    ///
    /// # Errors
    /// The configuration is not usable.
    pub fn start(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        output: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        let mut connection = UnbufferedClientConnection::new(config, name)?;
        let mut this = Self::with_limit(u64::MAX);
        this.process(&mut connection, output)?;
        this.connection = Some(connection);
        Ok(this)
    }
}

impl<S: Side> Handshake<S> {
    fn with_limit(records_max: u64) -> Self {
        Self {
            connection: None,
            input: Vec::new(),
            seen: 0,
            received: 0,
            input_max: INPUT_MAX,
            answered_after: None,
            records: 0,
            records_max,
        }
    }

    /// Lowers the bound on input to what a client needs that presents no certificate, because the
    /// configuration requests none.
    #[must_use]
    pub fn without_client_certificate(self) -> Self {
        Self {
            input_max: INPUT_MAX_WITHOUT_CERTIFICATE,
            ..self
        }
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
    ) -> Result<HandshakeProgress<S::Data>, HandshakeError> {
        let mut connection = self.connection.take().ok_or(HandshakeError::Ended)?;
        self.received += bytes.len();
        self.input.extend_from_slice(bytes);
        while let Some(record) = next_record(&self.input[self.seen..]) {
            self.records += 1;
            let too_many = self.records > RECORDS_MAX;
            let refusal = record
                .refusal
                .or(too_many.then_some(Alert::UnexpectedMessage));
            if let Some(alert) = refusal {
                self.encode_own_alert(alert, output);
                return Err(HandshakeError::InvalidRecord);
            }
            self.seen += record.len;
            if self.process(&mut connection, output)? {
                return self.finish(connection).map(HandshakeProgress::Established);
            }
        }
        if self.received > self.input_max {
            self.encode_own_alert(Alert::DecodeError, output);
            let max = self.input_max;
            return Err(HandshakeError::TooMuchInput { max });
        }
        self.connection = Some(connection);
        Ok(HandshakeProgress::InProgress)
    }

    /// Returns whether the first message of the peer has been answered.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.answered_after.is_some()
    }

    /// Returns the number of bytes that are allocated for input: that which is not consumed, and
    /// the peer's chain of certificates, which is most of what it sends after it was answered.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let received = |after| self.received - after;
        self.input.capacity() + self.answered_after.map_or(0, received)
    }

    /// Encodes an alert that rustls does not know about. After the first answer the peer expects
    /// protected records, which only rustls could make, so the connection then ends without one.
    fn encode_own_alert(&self, alert: Alert, output: &mut Vec<u8>) {
        if !self.has_answered() {
            output.extend_from_slice(&record::plain_alert(alert.encode()));
        }
    }

    /// Lets rustls process the records that it may see. Returns whether the handshake is complete.
    fn process(
        &mut self,
        connection: &mut S,
        output: &mut Vec<u8>,
    ) -> Result<bool, HandshakeError> {
        loop {
            let status = connection.process(&mut self.input[..self.seen]);
            let UnbufferedStatus { discard, state, .. } = status;
            let step = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, output)?;
                    self.answered_after.get_or_insert(self.received);
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

    fn finish(&mut self, connection: S) -> Result<Established<S::Data>, HandshakeError> {
        let peer_certificate = connection.peer_certificate();
        let (secrets, kernel) = connection.into_kernel()?;
        let mut unread = std::mem::take(&mut self.input);
        unread.drain(..self.seen);
        Ok(Established {
            session: Box::new(Session::new(secrets, kernel, self.records_max)?),
            unread,
            peer_certificate,
        })
    }
}

/// A record that has arrived completely, or is refused without waiting for the rest of it.
struct CompleteRecord {
    len: usize,
    /// The alert with which it is refused.
    refusal: Option<Alert>,
}

/// Returns the record at the start of `input`, if it is complete. An empty record is never valid
/// here: refusing it bounds what the records of a handshake cost. If a header is not valid at all,
/// all of the input counts as one record, so that rustls refuses it immediately.
fn next_record(input: &[u8]) -> Option<CompleteRecord> {
    let header = record::header(input)?;
    let length = record::length(header);
    let (len, refusal) = if record::is_heartbeat(header) {
        // rustls knows this type, and would wait for the end of the record to refuse it.
        (input.len(), Some(Alert::UnexpectedMessage))
    } else if !record::may_be_valid(header) {
        (input.len(), None)
    } else if length == 0 {
        (input.len(), Some(Alert::UnexpectedMessage))
    } else if length > PROTECTED_MAX {
        (input.len(), Some(Alert::RecordOverflow))
    } else {
        (HEADER + length, None)
    };
    (input.len() >= len).then_some(CompleteRecord { len, refusal })
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, output: &mut Vec<u8>) -> Result<(), HandshakeError> {
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

/// Encodes what rustls still has to send after an error: the rest of the handshake's messages, if
/// the error occurred between two of them, and the alert. `input` is what rustls has seen and not
/// consumed.
fn encode_alert<S: Side>(
    connection: &mut S,
    input: &mut [u8],
    output: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    // Once nothing is left to encode, rustls would look at the input again, and panic instead of
    // making a second alert.
    while connection.wants_write() {
        match connection.process(input).state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, output)?,
            Ok(_) | Err(_) => break,
        }
    }
    Ok(())
}
