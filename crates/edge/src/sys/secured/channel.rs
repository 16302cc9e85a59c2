//! [`Channel`]: an established TLS connection. It opens and seals records, and keeps what is
//! incomplete: the start of a record that has not arrived, and the end of one that has not left.

use std::os::fd::RawFd;

use nix::errno::Errno;
use rustls::pki_types::CertificateDer;
use tickstorm_service::excerpt::Excerpt;
use tickstorm_tls::{Alert, Established, OpenError, Opened, Session};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::super::network::{ClientCertificate, Network};

/// The longest content of a record. It is less than TLS allows, because a client makes progress
/// within its write deadline only if the socket accepts a whole record.
const RECORD_CONTENT_MAX: usize = 4 * 1024;

/// An established connection.
pub(super) struct Channel {
    session: Session,
    pub(super) client_certificate: Option<Box<ClientCertificate>>,
    /// The start of a record that has not arrived completely.
    pub(super) input: Vec<u8>,
    /// The unsent end of a record.
    pub(super) unsent: Vec<u8>,
    /// The last byte of that record's plaintext, which will be offered again.
    owed: Option<u8>,
    /// Whether close_notify has been sent.
    is_closed: bool,
    /// What ended the input, to be returned by the next read.
    pub(super) end: Option<End>,
}

/// What ends the input of a connection.
pub(super) enum End {
    /// The peer has sent close_notify.
    Closed,
    Failed(OpenError),
}

impl Channel {
    /// Creates the channel of a complete handshake, and returns it with the input that follows.
    pub(super) fn new(
        established: Established,
        unsent: Vec<u8>,
    ) -> (Box<Self>, Zeroizing<Vec<u8>>) {
        let this = Self {
            session: *established.session,
            client_certificate: established.peer_certificate.as_ref().map(describe),
            input: Vec::new(),
            unsent,
            owed: None,
            is_closed: false,
            end: None,
        };
        (Box::new(this), established.unread.into())
    }

    /// Opens the complete records of `input` into `output`, keeps the incomplete one, and wipes
    /// `input`. Returns the number of bytes of plaintext. The end of the input is kept, and
    /// returned by the next read.
    pub(super) fn open(&mut self, input: &mut [u8], output: &mut [u8]) -> usize {
        let (mut at, mut written) = (0, 0);
        while self.end.is_none() {
            match self.session.open(&mut input[at..]) {
                Ok(Opened::Incomplete) => break,
                Ok(Opened::Record { record, content }) => {
                    let opened = &input[at..][content];
                    output[written..written + opened.len()].copy_from_slice(opened);
                    written += opened.len();
                    at += record;
                }
                Ok(Opened::Closed) => self.end = Some(End::Closed),
                Err(error) => self.end = Some(End::Failed(error)),
            }
        }
        // A client sends a frame every few seconds: the memory is worth more than the time.
        self.session.finish_opening();
        self.input = match self.end {
            None => input[at..].to_vec(),
            Some(_) => Vec::new(),
        };
        // Records are opened in place, and what a client has sent may be its password. The compiler
        // can't leave this out, because the buffer is used again.
        input.fill(0);
        written
    }

    /// Returns the number of bytes that are allocated for incomplete records.
    pub(super) fn buffered(&self) -> usize {
        self.input.capacity() + self.unsent.capacity()
    }

    /// Sends bytes in records, until the socket is full. `sealed` is a buffer for the records.
    /// Returns how many bytes were accepted.
    pub(super) fn send(
        &mut self,
        fd: RawFd,
        bytes: &[u8],
        plain: &mut impl Network,
        sealed: &mut Vec<u8>,
    ) -> Result<usize, Errno> {
        if !flush(plain, &mut self.unsent, fd)? {
            return Err(Errno::EAGAIN);
        }
        let mut taken = 0;
        if let (Some(owed), Some(offered)) = (self.owed, bytes.first()) {
            // The caller breaks its promise if this fails, and the stream would be corrupt.
            if owed != *offered {
                return Err(Errno::EPROTO);
            }
            self.owed = None;
            taken = 1;
        }
        for content in bytes[taken..].chunks(RECORD_CONTENT_MAX) {
            sealed.clear();
            let sealing = self.session.seal(content, sealed);
            sealing.map_err(|_| Errno::EIO)?;
            let sent = match plain.send(fd, sealed) {
                Ok(sent) => sent,
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(errno) => return Err(errno),
            };
            taken += content.len();
            if sent < sealed.len() {
                self.unsent.extend_from_slice(&sealed[sent..]);
                self.owed = content.last().copied();
                return Ok(taken - 1);
            }
        }
        Ok(taken)
    }

    /// Lends the sealing key, if the stream is at the boundary of a frame.
    #[cfg(feature = "bench")]
    pub(super) fn bare_sealing(&mut self) -> Option<tickstorm_tls::BareSealing<'_>> {
        let is_at_boundary = self.unsent.is_empty() && self.owed.is_none();
        (is_at_boundary && !self.is_closed).then(|| self.session.bare_sealing())
    }

    /// Sends close_notify, once, if the socket accepts it: a peer that is gone needs none.
    pub(super) fn close_notify(
        &mut self,
        plain: &mut impl Network,
        sealed: &mut Vec<u8>,
        fd: RawFd,
    ) {
        if !std::mem::replace(&mut self.is_closed, true) {
            let _ = self.alert(Alert::CloseNotify, plain, sealed, fd);
        }
    }

    /// Sends an alert, if the socket accepts it.
    pub(super) fn alert(
        &mut self,
        alert: Alert,
        plain: &mut impl Network,
        sealed: &mut Vec<u8>,
        fd: RawFd,
    ) -> Result<(), Errno> {
        sealed.clear();
        let sealing = self.session.seal_alert(alert, sealed);
        sealing.map_err(|_| Errno::EIO)?;
        self.unsent.append(sealed);
        flush(plain, &mut self.unsent, fd).map(|_| ())
    }
}

/// Returns what identifies a certificate to an operator. It has been verified, so it can be parsed.
fn describe(certificate: &CertificateDer<'_>) -> Box<ClientCertificate> {
    let parsed = X509Certificate::from_der(certificate);
    let (subject, serial) = parsed.map_or_else(
        |_| Default::default(),
        |(_, parsed)| {
            let subject = Excerpt(parsed.subject()).to_string();
            let serial = Excerpt(parsed.raw_serial_as_string()).to_string();
            (subject, serial)
        },
    );
    Box::new(ClientCertificate { subject, serial })
}

/// Sends kept output. Returns whether all of it has been sent.
pub(super) fn flush(
    plain: &mut impl Network,
    unsent: &mut Vec<u8>,
    fd: RawFd,
) -> Result<bool, Errno> {
    while !unsent.is_empty() {
        match plain.send(fd, unsent) {
            Ok(sent) if sent == unsent.len() => *unsent = Vec::new(),
            Ok(sent) => drop(unsent.drain(..sent)),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}
