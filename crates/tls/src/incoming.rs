//! [`Incoming`]: the receiving half of a session. It is kept apart from the sending half, so that
//! sealing a frame for very many sessions touches little memory of each.

use rustls::kernel::KernelConnection;

use crate::alert::Alert;
use crate::keys::{KeyFailure, OpeningKey};
use crate::record::{self, CONTENT_MAX, ContentType, HEADER, PROTECTED_MAX};

/// The number of consecutive records without application data that a peer may send. Such records
/// cost more to open than to send, and a well-behaved peer sends one at a time.
const IDLE_RECORDS_MAX: u8 = 32;

/// The number of KeyUpdates that a peer may send in a row. A key lasts for millions of records, so
/// no peer needs more, and each costs some microseconds.
const KEY_UPDATES_MAX: u8 = 64;
/// The number of records with data after which a peer may send one more.
const RECORDS_PER_KEY_UPDATE: u8 = 16;

/// The handshake message type of KeyUpdate.
pub(crate) const KEY_UPDATE: u8 = 24;
/// The length of a KeyUpdate, including its header of four bytes.
const KEY_UPDATE_LEN: usize = 5;
pub(crate) const NOT_REQUESTED: u8 = 0;
pub(crate) const REQUESTED: u8 = 1;

/// The result of opening the record at the start of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The record at the start of the input is not complete.
    Incomplete,
    /// `record` bytes of input have been consumed. The application data is at
    /// `content` within them, decrypted in place; it may be empty.
    Record {
        /// The length of the record.
        record: usize,
        /// The application data.
        content: std::ops::Range<usize>,
    },
    /// The peer will send nothing more. Input after this record must be ignored.
    Closed,
}

/// The connection must be closed, after sending the alert if there is one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer broke the protocol.
    #[error("the peer sent {what}")]
    Peer {
        /// The violation.
        what: &'static str,
        /// The alert to send.
        alert: Alert,
    },
    /// The peer ended the connection with an alert.
    #[error("the peer sent alert {0}")]
    Alert(u8),
    /// Keys could not be derived or used.
    #[error("the keys could not be used")]
    Keys,
    /// Nothing more may be opened.
    #[error("the connection is closed for reading")]
    Closed,
}

impl OpenError {
    /// Returns the alert to send before closing.
    #[must_use]
    pub fn alert(&self) -> Option<Alert> {
        match self {
            Self::Peer { alert, .. } => Some(*alert),
            Self::Keys => Some(Alert::InternalError),
            Self::Alert(_) | Self::Closed => None,
        }
    }
}

impl From<KeyFailure> for OpenError {
    fn from(_: KeyFailure) -> Self {
        Self::Keys
    }
}

fn violation(what: &'static str, alert: Alert) -> OpenError {
    OpenError::Peer { what, alert }
}

/// What a session keeps to open records, and to replace keys of either direction.
pub(crate) struct Incoming<D> {
    /// rustls' state, from which the next keys are derived.
    pub(crate) kernel: KernelConnection<D>,
    opening: OpeningKey,
    /// The number of records that a key may protect.
    pub(crate) records_max: u64,
    /// The start of a KeyUpdate that the peer has split over several records.
    key_update: [u8; KEY_UPDATE_LEN],
    key_update_len: u8,
    /// Consecutive records without application data.
    idle_records: u8,
    /// Records with application data, modulo 2^8.
    data_records: u8,
    /// The number of KeyUpdates that the peer may send now.
    key_updates_left: u8,
    /// Whether the peer has requested a KeyUpdate that has not been sent.
    pub(crate) owes_key_update: bool,
    /// Whether this side has requested a KeyUpdate that has not arrived.
    pub(crate) awaits_key_update: bool,
    /// Whether nothing more may be opened: the peer has closed its side, or an error has occurred.
    is_closed: bool,
}

impl<D> Incoming<D> {
    pub(crate) fn new(opening: OpeningKey, kernel: KernelConnection<D>, records_max: u64) -> Self {
        Self {
            kernel,
            opening,
            records_max,
            key_update: [0; KEY_UPDATE_LEN],
            key_update_len: 0,
            idle_records: 0,
            data_records: 0,
            key_updates_left: KEY_UPDATES_MAX,
            owes_key_update: false,
            awaits_key_update: false,
            is_closed: false,
        }
    }

    pub(crate) fn should_request_key_update(&self) -> bool {
        self.opening.is_worn(self.records_max) && !self.awaits_key_update
    }

    /// Opens the record at the start of `input`, in place.
    pub(crate) fn open(&mut self, input: &mut [u8]) -> Result<Opened, OpenError> {
        if self.is_closed {
            return Err(OpenError::Closed);
        }
        let outcome = self.open_record(input);
        if matches!(outcome, Err(_) | Ok(Opened::Closed)) {
            self.is_closed = true;
        }
        outcome
    }

    pub(crate) fn free_context(&mut self) {
        self.opening.free_context();
    }

    fn open_record(&mut self, input: &mut [u8]) -> Result<Opened, OpenError> {
        let Some(header) = record::header(input) else {
            return Ok(Opened::Incomplete);
        };
        if header[0] != ContentType::ApplicationData as u8 {
            let what = "a record that is not protected";
            return Err(violation(what, Alert::UnexpectedMessage));
        }
        let length = record::length(header);
        if length > PROTECTED_MAX {
            let what = "a record that is too long";
            return Err(violation(what, Alert::RecordOverflow));
        }
        let record = HEADER + length;
        let Some(protected) = input.get_mut(HEADER..record) else {
            return Ok(Opened::Incomplete);
        };
        let Some(inner) = self.opening.open(header, protected)? else {
            let what = "a record that does not authenticate";
            return Err(violation(what, Alert::BadRecordMac));
        };
        if inner.len() > CONTENT_MAX + 1 {
            let what = "a record with too much content and padding";
            return Err(violation(what, Alert::RecordOverflow));
        }
        // Padding follows the content type, which is never 0.
        let Some(type_at) = inner.iter().rposition(|byte| *byte != 0) else {
            let what = "a record without a content type";
            return Err(violation(what, Alert::UnexpectedMessage));
        };
        let (content, rest) = inner.split_at_mut(type_at);
        self.process(ContentType::from_byte(rest[0]), content, record)
    }

    fn process(
        &mut self,
        content_type: Option<ContentType>,
        content: &[u8],
        record: usize,
    ) -> Result<Opened, OpenError> {
        let is_data = content_type == Some(ContentType::ApplicationData);
        if self.key_update_len > 0 && content_type != Some(ContentType::Handshake) {
            let what = "another record in the middle of a KeyUpdate";
            return Err(violation(what, Alert::UnexpectedMessage));
        }
        if is_data && !content.is_empty() {
            self.idle_records = 0;
            self.data_records = self.data_records.wrapping_add(1);
            if self.data_records.is_multiple_of(RECORDS_PER_KEY_UPDATE) {
                self.key_updates_left = KEY_UPDATES_MAX.min(self.key_updates_left + 1);
            }
        } else if self.idle_records == IDLE_RECORDS_MAX {
            let what = "too many records without data";
            return Err(violation(what, Alert::UnexpectedMessage));
        } else {
            self.idle_records += 1;
        }
        let nothing = HEADER..HEADER;
        match content_type {
            Some(ContentType::ApplicationData) => Ok(Opened::Record {
                record,
                content: HEADER..HEADER + content.len(),
            }),
            Some(ContentType::Handshake) => {
                self.take_key_update(content)?;
                Ok(Opened::Record {
                    record,
                    content: nothing,
                })
            }
            Some(ContentType::Alert) => match *content {
                [_, CLOSE_NOTIFY] => Ok(Opened::Closed),
                [_, USER_CANCELED] => Ok(Opened::Record {
                    record,
                    content: nothing,
                }),
                [_, description] => Err(OpenError::Alert(description)),
                _ => Err(violation("a malformed alert", Alert::DecodeError)),
            },
            Some(ContentType::ChangeCipherSpec) | None => {
                let what = "a record of a type that is not allowed";
                Err(violation(what, Alert::UnexpectedMessage))
            }
        }
    }

    /// Handles handshake data. After the handshake, a client may only send KeyUpdate, and so may a
    /// server of this crate, which sends no tickets. Data under the new key begins with the next
    /// record.
    fn take_key_update(&mut self, content: &[u8]) -> Result<(), OpenError> {
        if content.is_empty() {
            let what = "an empty handshake record";
            return Err(violation(what, Alert::UnexpectedMessage));
        }
        let start = usize::from(self.key_update_len);
        let taken = content.len().min(KEY_UPDATE_LEN - start);
        self.key_update[start..start + taken].copy_from_slice(&content[..taken]);
        if self.key_update[0] != KEY_UPDATE {
            let what = "a handshake message other than KeyUpdate";
            return Err(violation(what, Alert::UnexpectedMessage));
        }
        let end = start + taken;
        self.key_update_len = u8::try_from(end).expect("at most five bytes");
        if end >= 4 && self.key_update[1..4] != [0, 0, 1] {
            let what = "a KeyUpdate of a wrong length";
            return Err(violation(what, Alert::DecodeError));
        }
        if end < KEY_UPDATE_LEN {
            return Ok(());
        }
        if content.len() > taken {
            let what = "more data after a KeyUpdate in the same record";
            return Err(violation(what, Alert::UnexpectedMessage));
        }
        self.key_update_len = 0;
        self.key_updates_left = self.key_updates_left.checked_sub(1).ok_or_else(|| {
            let what = "too many KeyUpdates";
            violation(what, Alert::UnexpectedMessage)
        })?;
        match self.key_update[4] {
            NOT_REQUESTED => {}
            // Several requests that arrive before the answer is sent need one answer.
            REQUESTED => self.owes_key_update = true,
            _ => {
                let what = "a KeyUpdate with an unknown request";
                return Err(violation(what, Alert::IllegalParameter));
            }
        }
        let secrets = self
            .kernel
            .update_rx_secret()
            .map_err(|_| OpenError::Keys)?;
        self.opening = OpeningKey::new(secrets)?;
        self.awaits_key_update = false;
        Ok(())
    }
}

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
