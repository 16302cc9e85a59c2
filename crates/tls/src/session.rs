//! [`Session`]: an established connection. It seals what the caller sends, opens what the peer
//! sends, and takes care of key updates, alerts and the peer's close_notify. It keeps keys and
//! counters; the caller keeps the bytes of records that are incomplete or unsent.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ExtractedSecrets, SupportedCipherSuite};

use crate::alert::Alert;
use crate::incoming::{Incoming, KEY_UPDATE, NOT_REQUESTED, OpenError, Opened, REQUESTED};
#[cfg(feature = "bench")]
use crate::keys::BareSealing;
use crate::keys::{KeyFailure, OpeningKey, SealingKey, TAG};
use crate::record::{CONTENT_MAX, ContentType, HEADER, PROTECTED_MAX};

/// An established TLS connection: that of a server, unless `D` says otherwise.
pub struct Session<D = ServerConnectionData> {
    sealing: SealingKey,
    /// Whether a KeyUpdate is due for a reason that lies in the received records.
    must_answer: bool,
    incoming: Box<Incoming<D>>,
}

/// An established TLS connection of a client.
pub type ClientSession = Session<ClientConnectionData>;

/// Sealing failed, and the connection must be closed.
#[derive(Debug, thiserror::Error)]
#[error("the keys could not be used")]
pub struct SealError;

impl From<KeyFailure> for SealError {
    fn from(_: KeyFailure) -> Self {
        Self
    }
}

impl Session {
    /// The bytes that sealing adds to the content of each record.
    pub const OVERHEAD: usize = HEADER + 1 + TAG;
    /// The longest content of one record.
    pub const CONTENT_MAX: usize = CONTENT_MAX;
    /// The longest record.
    pub const RECORD_MAX: usize = HEADER + PROTECTED_MAX;
}

impl<D> Session<D> {
    pub(crate) fn new(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<D>,
        records_max: u64,
    ) -> Result<Self, rustls::Error> {
        let suite_limit = confidentiality_limit(kernel.negotiated_cipher_suite());
        let records_max = records_max.min(suite_limit);
        let failed = |_| rustls::Error::General("the traffic secrets cannot be used".into());
        let ExtractedSecrets { tx, rx } = secrets;
        Ok(Self {
            sealing: SealingKey::new((tx.0, &tx.1), records_max).map_err(failed)?,
            must_answer: false,
            incoming: Box::new(Incoming::new(
                OpeningKey::new(rx).map_err(failed)?,
                kernel,
                records_max,
            )),
        })
    }

    /// Appends `data` to `output`, sealed in as many records as it takes. If the key is due for an
    /// update, or the peer has requested one, it is updated first.
    ///
    /// What is appended must be sent, in order and once.
    ///
    /// # Errors
    /// The keys could not be used. The connection must be closed.
    pub fn seal(&mut self, data: &[u8], output: &mut Vec<u8>) -> Result<(), SealError> {
        for content in data.chunks(CONTENT_MAX) {
            if self.has_control() {
                self.seal_control(output)?;
            }
            self.sealing
                .seal(ContentType::ApplicationData, content, output)?;
        }
        Ok(())
    }

    /// Returns whether a KeyUpdate is due. [`seal`](Self::seal) sends it before the next data, and
    /// [`seal_control`](Self::seal_control) without any data.
    #[must_use]
    pub fn has_control(&self) -> bool {
        self.must_answer || self.sealing.is_worn()
    }

    /// Appends a KeyUpdate to `output`, sealed with the present key, and replaces that key.
    ///
    /// # Errors
    /// The keys could not be used. The connection must be closed.
    pub fn seal_control(&mut self, output: &mut Vec<u8>) -> Result<(), SealError> {
        let incoming = &mut *self.incoming;
        let requests = incoming.should_request_key_update();
        let request = if requests { REQUESTED } else { NOT_REQUESTED };
        let message = [KEY_UPDATE, 0, 0, 1, request];
        self.sealing
            .seal(ContentType::Handshake, &message, output)?;
        let (count, secrets) = incoming.kernel.update_tx_secret().map_err(|_| SealError)?;
        self.sealing = SealingKey::new((count, &secrets), incoming.records_max)?;
        incoming.owes_key_update = false;
        incoming.awaits_key_update |= requests;
        self.must_answer = false;
        Ok(())
    }

    /// Returns the name of the cipher suite.
    #[must_use]
    pub fn cipher_suite(&self) -> &'static str {
        let suite = self.incoming.kernel.negotiated_cipher_suite().suite();
        suite.as_str().unwrap_or("unknown")
    }

    /// Lends the key with which records are sealed. See [`BareSealing`].
    #[cfg(feature = "bench")]
    pub fn bare_sealing(&mut self) -> BareSealing<'_> {
        self.sealing.bare()
    }

    /// Appends an alert to `output`. After it, nothing more may be sealed.
    ///
    /// # Errors
    /// The keys could not be used. The connection must be closed.
    pub fn seal_alert(&mut self, alert: Alert, output: &mut Vec<u8>) -> Result<(), SealError> {
        let message = alert.encode();
        Ok(self.sealing.seal(ContentType::Alert, &message, output)?)
    }

    /// Opens the record at the start of `input`, in place.
    ///
    /// # Errors
    /// The reason for which the connection must be closed.
    pub fn open(&mut self, input: &mut [u8]) -> Result<Opened, OpenError> {
        let outcome = self.incoming.open(input);
        self.must_answer =
            self.incoming.owes_key_update || self.incoming.should_request_key_update();
        outcome
    }

    /// Frees the memory that opening has allocated, more than half a kilobyte. The next record
    /// allocates it again, which costs about as much as opening a short record.
    pub fn finish_opening(&mut self) {
        self.incoming.free_context();
    }
}

fn confidentiality_limit(suite: SupportedCipherSuite) -> u64 {
    match suite.tls13() {
        Some(suite) => suite.common.confidentiality_limit,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An edge holds 100,000 sessions in memory, most of each being rustls' type.
    #[test]
    fn a_session_is_small() {
        let (sending, receiving) = (
            size_of::<Session>(),
            size_of::<Incoming<ServerConnectionData>>(),
        );
        assert!(sending <= 72, "the sending half takes {sending} bytes");
        assert!(
            receiving <= 688,
            "the receiving half takes {receiving} bytes"
        );
    }
}
