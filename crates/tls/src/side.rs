//! [`Side`]: what a server's handshake and a client's have in common. rustls has a type for each.

use rustls::ExtractedSecrets;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::UnbufferedStatus;

/// One side of a handshake.
pub trait Side: Sized {
    /// The type by which rustls tells the sides apart.
    type Data;

    /// Processes complete records.
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Returns whether something has to be encoded.
    fn wants_write(&self) -> bool;

    /// Returns the certificate that the peer has presented.
    fn peer_certificate(&self) -> Option<CertificateDer<'static>>;

    /// Hands over the secrets of a complete handshake.
    ///
    /// # Errors
    /// The handshake is not complete, or the configuration does not allow it.
    fn into_kernel(self)
    -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }

    fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        first(self.peer_certificates())
    }

    fn into_kernel(
        self,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }

    fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        first(self.peer_certificates())
    }

    fn into_kernel(
        self,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

fn first(chain: Option<&[CertificateDer<'static>]>) -> Option<CertificateDer<'static>> {
    let first = chain?.first()?;
    Some(first.clone().into_owned())
}
