//! The PEM files of TLS that settings name: reads them whole, so that a change can be noticed, and
//! parses them. Whether certificates and keys fit together is decided by the code that uses them.
//! No error contains anything of a file, which may hold a private key.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, public_key::PublicKey};
use zeroize::Zeroizing;

use crate::env::file::{BYTE_ORDER_MARK, read_start};

/// The largest file that is read. A bundle of certificate authorities takes some 200 KB.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest RSA key that signs well within the 3 ms before a tick in which no step of a client's
/// handshake starts. On an AMD EPYC, a signature takes 0.3 ms with 2,048 bits, 1.8 ms with 3,072
/// bits and 3.9 ms with 4,096 bits.
const RSA_BITS_MAX: usize = 2_048;

/// A file of TLS can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// The file can't be read.
    #[error("{setting}={}: the file can't be read", path.display())]
    Unreadable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The error from the system.
        source: io::Error,
    },
    /// The file does not contain what it should.
    #[error("{setting}={}: the file contains no {expected} in PEM format", path.display())]
    Content {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the file should contain.
        expected: &'static str,
        /// What is wrong with the file, unless it contains none at all.
        source: Option<PemFlaw>,
    },
}

/// The reason that a file is not valid PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemFlaw {
    /// A section does not end.
    #[error("a section has no END line, or the wrong one")]
    NoEnd,
    /// A section does not start as it should.
    #[error("a BEGIN line is malformed")]
    MalformedBegin,
    /// A section is not Base64.
    #[error("a section is not valid Base64")]
    NotBase64,
    /// The first line would not be recognised.
    #[error("it starts with a byte-order mark: save it without one")]
    ByteOrderMark,
    /// Any other flaw.
    #[error("it is not valid PEM")]
    Other,
}

impl PemFlaw {
    /// Returns what is wrong; `None` if there is nothing of the kind that was looked for. The
    /// parser's own text would show the line that it could not parse, which may be a whole key.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what is not named here is rare, and rustls may add to it"
    )]
    const fn of(error: &pem::Error) -> Option<Self> {
        match error {
            pem::Error::NoItemsFound => None,
            pem::Error::MissingSectionEnd { .. } => Some(Self::NoEnd),
            pem::Error::IllegalSectionStart { .. } => Some(Self::MalformedBegin),
            pem::Error::Base64Decode(_) => Some(Self::NotBase64),
            _ => Some(Self::Other),
        }
    }
}

/// A PEM file, and the setting that names it.
#[derive(Clone, Copy, Debug)]
pub struct TlsFile<'a> {
    setting: &'static str,
    path: &'a Path,
}

impl<'a> TlsFile<'a> {
    /// Creates the file at `path`, which `setting` names.
    #[must_use]
    pub const fn new(setting: &'static str, path: &'a Path) -> Self {
        Self { setting, path }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Returns an error if the file can't be read or is too large.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, TlsFileError> {
        let read = read_start(self.path, FILE_BYTES_MAX).and_then(|content| {
            if content.len() > FILE_BYTES_MAX {
                let what = format!("it is larger than {FILE_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
            Ok(content)
        });
        read.map_err(|source| TlsFileError::Unreadable {
            setting: self.setting,
            path: self.path.to_owned(),
            source,
        })
    }

    /// Parses all certificates in `content`, which was read from the file.
    ///
    /// # Errors
    /// Returns an error if there is none, or one that is not valid.
    pub fn certificates(
        &self,
        content: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
        self.parse(content, "certificate")
    }

    /// Parses the private key in `content`, which was read from the file.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn private_key(&self, content: &[u8]) -> Result<PrivateKeyDer<'static>, TlsFileError> {
        let expected = "private key";
        self.refuse_byte_order_mark(content, expected)?;
        PrivateKeyDer::from_pem_slice(content)
            .map_err(|error| self.content_error(expected, PemFlaw::of(&error)))
    }

    /// Parses all PEM blocks of a kind in `content`, which was read from the file. `expected` names
    /// the kind.
    ///
    /// # Errors
    /// Returns an error if there is none, or one that is not valid.
    pub fn parse<T: PemObject>(
        &self,
        content: &[u8],
        expected: &'static str,
    ) -> Result<Vec<T>, TlsFileError> {
        self.refuse_byte_order_mark(content, expected)?;
        let parsed: Result<Vec<T>, _> = T::pem_slice_iter(content).collect();
        let parsed = parsed.map_err(|error| self.content_error(expected, PemFlaw::of(&error)))?;
        if parsed.is_empty() {
            return Err(self.content_error(expected, None));
        }
        Ok(parsed)
    }

    /// Warns if the key of the first certificate, with which this host signs, is so long that a
    /// handshake may delay a tick.
    pub fn warn_of_slow_key(&self, chain: &[CertificateDer<'_>]) {
        if let Some(bits) = slow_rsa_bits(chain) {
            tracing::warn!(
                bits,
                "{} has a long RSA key, with which a handshake takes milliseconds and can delay \
                 ticks; use an ECDSA P-256 key, or an RSA key of 2,048 bits",
                self.setting
            );
        }
    }

    /// The parser would skip the first section, since its line does not start with hyphens.
    fn refuse_byte_order_mark(
        &self,
        content: &[u8],
        expected: &'static str,
    ) -> Result<(), TlsFileError> {
        if content.starts_with(BYTE_ORDER_MARK) {
            return Err(self.content_error(expected, Some(PemFlaw::ByteOrderMark)));
        }
        Ok(())
    }

    fn content_error(&self, expected: &'static str, source: Option<PemFlaw>) -> TlsFileError {
        TlsFileError::Content {
            setting: self.setting,
            path: self.path.to_owned(),
            expected,
            source,
        }
    }
}

/// Returns the length of the first certificate's RSA key, if it is so long that signatures may
/// delay ticks.
fn slow_rsa_bits(chain: &[CertificateDer<'_>]) -> Option<usize> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()).filter(|bits| *bits > RSA_BITS_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_testkit::CertificateAuthority;

    use super::*;
    use crate::error_chain::ErrorChain;

    fn file() -> TlsFile<'static> {
        TlsFile::new("TLS_KEY_FILE", Path::new("edge.key"))
    }

    #[test]
    fn a_long_rsa_key_is_noticed() {
        for (pem, slow) in [
            (include_str!("tls_file/testdata/rsa-2048.pem"), None),
            (include_str!("tls_file/testdata/rsa-3072.pem"), Some(3_072)),
        ] {
            let chain = file().certificates(pem.as_bytes()).unwrap();
            assert_eq!(slow_rsa_bits(&chain), slow);
        }
    }

    /// Returns a key file that was damaged in every way that the parser tells apart.
    fn damaged(key: &str) -> Vec<String> {
        let one_line = key.replace('\n', "");
        vec![
            // Lines joined by a tool or by a shell without quotes.
            one_line.clone(),
            one_line.trim_end_matches('-').to_owned(),
            key.replace('\n', " "),
            key.replace('\n', "\\n"),
            key.replace("KEY-----\n", "KEY "),
            // Cut off.
            key[..key.len() / 2].to_owned(),
            // Not Base64.
            key.replacen('A', "*", 1),
            key.replacen('\n', "\n*", 1),
            // No sections.
            key.lines().nth(1).unwrap().to_owned(),
            String::new(),
        ]
    }

    #[test]
    fn no_error_shows_anything_of_a_key() {
        let key = CertificateAuthority::new().issue("edge.test").key;
        let secret: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        let secret = secret.as_bytes();
        for damaged in damaged(&key) {
            let as_key = file().private_key(damaged.as_bytes()).unwrap_err();
            let as_certificate = file().certificates(damaged.as_bytes()).unwrap_err();
            for error in [as_key, as_certificate] {
                for shown in [ErrorChain(&error).to_string(), format!("{error:?}")] {
                    assert!(shown.contains("TLS_KEY_FILE"), "{shown}");
                    for part in secret.windows(8) {
                        let (text, bytes) = (String::from_utf8_lossy(part), format!("{part:?}"));
                        let bytes = bytes.trim_matches(['[', ']']);
                        assert!(!shown.contains(&*text), "{shown}");
                        assert!(!shown.contains(bytes), "{shown}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_with_a_file() {
        let key = CertificateAuthority::new().issue("edge.test").key;
        for (content, flaw) in [
            (String::new(), None),
            (
                key.replace('\n', " ").replace("KEY-----", "KEY"),
                Some(PemFlaw::MalformedBegin),
            ),
            (key[..key.len() / 2].to_owned(), Some(PemFlaw::NoEnd)),
            (key.replacen('\n', "\n*", 1), Some(PemFlaw::NotBase64)),
            (format!("\u{feff}{key}"), Some(PemFlaw::ByteOrderMark)),
        ] {
            let error = file().private_key(content.as_bytes()).unwrap_err();
            let TlsFileError::Content { source, .. } = error else {
                panic!("{error}");
            };
            assert_eq!(source, flaw);
        }
    }
}
