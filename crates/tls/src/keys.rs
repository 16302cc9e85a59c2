//! [`SealingKey`] and [`OpeningKey`]: the keys of one direction of a connection, and the record
//! counter that makes each nonce unique. This is the only place where records are encrypted and
//! decrypted.
//!
//! Why it is safe:
//! - **A nonce is never used twice with a key.** It is the key's IV XORed with the record counter,
//!   which starts at 0 with the key and is incremented by every call, before the result is known.
//!   Nothing else sets it, keys are neither cloned nor exported, and a record that could not be
//!   sent is kept as it is instead of being sealed again.
//!   The one exception is [`BareSealing`], which exists only in programs with the feature `bench`:
//!   there, the borrower of a key must count.
//! - **A key never reaches its limit.** `is_worn` is true before the confidentiality limit that
//!   rustls gives for the suite, and the session then replaces the key. At the limit itself
//!   sealing fails.
//! - **Keys do not outlive their use.** rustls' types overwrite their secrets when they are
//!   dropped, and AWS-LC overwrites a context when it frees it.
//! - **An error ends the connection.** After a record that does not authenticate, the session opens
//!   nothing more, so nobody can probe a key with forged records.

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

use crate::record::{ContentType, HEADER, protected_header};

/// The length of the authentication tag of both suites.
pub(crate) const TAG: usize = 16;
/// A key should be replaced when it can protect only this many more records.
const MARGIN: u64 = 1 << 10;

/// Secrets of a suite that this crate does not use, or a failure inside AWS-LC.
#[derive(Debug)]
pub(crate) struct KeyFailure;

/// Counts the records of a key.
struct Records {
    iv: [u8; 12],
    count: u64,
    limit: u64,
}

impl Records {
    /// Returns the next record's nonce, which no other record of this key has.
    fn next_nonce(&mut self) -> Result<Nonce, KeyFailure> {
        if self.count >= self.limit {
            return Err(KeyFailure);
        }
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.count.to_be_bytes()) {
            *byte ^= count;
        }
        self.count += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Returns whether a key for at most `limit` records should be replaced now.
    fn are_close_to(&self, limit: u64) -> bool {
        self.count >= limit - MARGIN.min(limit / 2)
    }
}

/// The key with which records are sealed.
pub(crate) struct SealingKey {
    context: LessSafeKey,
    records: Records,
}

impl SealingKey {
    pub(crate) fn new(
        (count, secrets): (u64, &ConnectionTrafficSecrets),
        limit: u64,
    ) -> Result<Self, KeyFailure> {
        let (context, iv) = context(secrets)?;
        Ok(Self {
            context,
            records: Records { iv, count, limit },
        })
    }

    #[cfg(feature = "bench")]
    pub(crate) fn bare(&mut self) -> BareSealing<'_> {
        BareSealing {
            context: &self.context,
            iv: self.records.iv,
            count: &mut self.records.count,
        }
    }

    /// Returns whether the key should be replaced now.
    pub(crate) fn is_worn(&self) -> bool {
        self.records.are_close_to(self.records.limit)
    }

    /// Appends one record with this content to `output`.
    pub(crate) fn seal(
        &mut self,
        content_type: ContentType,
        content: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), KeyFailure> {
        let nonce = self.records.next_nonce()?;
        let protected = content.len() + 1 + TAG;
        let header = protected_header(protected);
        let start = output.len();
        output.extend_from_slice(&header);
        output.resize(start + HEADER + protected, 0);
        let (sealed, type_and_tag) = output[start + HEADER..].split_at_mut(content.len());
        let sealing = self.context.seal_out_of_place_scatter(
            nonce,
            Aad::from(header),
            content,
            sealed,
            &[content_type as u8],
            type_and_tag,
        );
        sealing.map_err(|_| {
            output.truncate(start);
            KeyFailure
        })
    }
}

/// A sealing key for the bare loop of a benchmark, which must seal without any bookkeeping and yet
/// send what the peer can open. The nonce of a record is `iv` XORed with `count`, as in
/// RFC 8446, section 5.3, and the borrower must add 1 to `count` for each record.
#[cfg(feature = "bench")]
pub struct BareSealing<'a> {
    /// The key.
    pub context: &'a LessSafeKey,
    /// The IV of the key.
    pub iv: [u8; 12],
    /// The number of records that the key has sealed so far.
    pub count: &'a mut u64,
}

/// The key with which records are opened. Its context takes more than half a kilobyte, so it only
/// exists while records are opened.
pub(crate) struct OpeningKey {
    secrets: ConnectionTrafficSecrets,
    context: Option<LessSafeKey>,
    records: Records,
}

impl OpeningKey {
    pub(crate) fn new(
        (count, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, KeyFailure> {
        let iv = Parts::of(&secrets)?.iv;
        // How many records a key may seal is the sealing side's responsibility. A record that does
        // not authenticate ends the connection.
        let limit = u64::MAX;
        Ok(Self {
            secrets,
            context: None,
            records: Records { iv, count, limit },
        })
    }

    /// Returns whether the peer should replace the key now, if a key should protect at most
    /// `records_max` records.
    pub(crate) fn is_worn(&self, records_max: u64) -> bool {
        self.records.are_close_to(records_max)
    }

    /// Decrypts a record in place. Returns its content with the content type and padding, or `None`
    /// if it does not authenticate.
    pub(crate) fn open<'a>(
        &mut self,
        header: [u8; HEADER],
        protected: &'a mut [u8],
    ) -> Result<Option<&'a mut [u8]>, KeyFailure> {
        let nonce = self.records.next_nonce()?;
        let context = match self.context.take() {
            Some(context) => context,
            None => context(&self.secrets)?.0,
        };
        let context = self.context.insert(context);
        Ok(context
            .open_in_place(nonce, Aad::from(header), protected)
            .ok())
    }

    /// Frees the context. The next record makes it again.
    pub(crate) fn free_context(&mut self) {
        self.context = None;
    }
}

fn context(secrets: &ConnectionTrafficSecrets) -> Result<(LessSafeKey, [u8; 12]), KeyFailure> {
    let parts = Parts::of(secrets)?;
    let key = UnboundKey::new(parts.algorithm, parts.key).map_err(|_| KeyFailure)?;
    Ok((LessSafeKey::new(key), parts.iv))
}

/// What a suite's secrets consist of.
struct Parts<'a> {
    algorithm: &'static Algorithm,
    key: &'a [u8],
    iv: [u8; 12],
}

impl<'a> Parts<'a> {
    fn of(secrets: &'a ConnectionTrafficSecrets) -> Result<Self, KeyFailure> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            ConnectionTrafficSecrets::Aes128Gcm { .. } | _ => return Err(KeyFailure),
        };
        Ok(Self {
            algorithm,
            key: key.as_ref(),
            iv: iv.as_ref().try_into().map_err(|_| KeyFailure)?,
        })
    }
}
