//! Reads values and lists from files. Daemons read most of these files again while they run, and
//! what a file may contain is decided here alone, so it is the same then as at the start.

use std::{fs::File, io, io::Read, path::Path};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::Text;

/// The maximum size of a secret file in bytes: a wrong path (a disk image, `/dev/zero`) must not be
/// read to its end.
pub const SECRET_FILE_BYTES_MAX: usize = 65_536;

/// The mark that some editors write at the start of UTF-8 text.
pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The reason that nothing could be read from a file. It never shows what the file contains.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system could not read it.
    #[error("the file can't be read")]
    Unreadable(#[from] io::Error),
    /// It is too long.
    #[error("the file is longer than {bytes_max} bytes")]
    TooLong {
        /// The maximum size in bytes.
        bytes_max: usize,
    },
    /// Its bytes are not text.
    #[error("the file is not UTF-8 text")]
    NotUtf8,
    /// It starts with a byte-order mark.
    #[error(
        "the file starts with a byte-order mark, which would be part of its first value: save it \
         as UTF-8 without a byte-order mark"
    )]
    ByteOrderMark,
    /// It contains a control character.
    #[error("line {line} of the file contains a control character; allowed is only {allowed}")]
    ControlCharacter {
        /// The number of the line; the first line is 1.
        line: usize,
        /// The control characters that are allowed.
        allowed: &'static str,
    },
    /// Its text is not a valid value.
    #[error("the text in the file is invalid: expected {allowed}")]
    Invalid {
        /// The values that are allowed.
        allowed: &'static str,
    },
}

/// Reads the value in the file at `path`, the way Docker and Kubernetes provide secrets. One
/// trailing newline (`\n` or `\r\n`) is removed; if nothing is left, the value counts as unset.
///
/// # Errors
/// Returns an error if the file can't be read, is too long, is not UTF-8 text, starts with a
/// byte-order mark, or contains any other control character.
pub fn read_secret_file(path: &Path) -> Result<Option<SecretString>, FileError> {
    let bytes = read(path, SECRET_FILE_BYTES_MAX)?;
    let text = text(&bytes)?;
    let text = without_newline(text);
    refuse_control_characters(text, &[], "one newline at its end")?;
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Reads a user name, password or token like [`read_secret_file`]. Its length must be one that a
/// setting allows.
///
/// # Errors
/// Returns an error if the file can't be read or its text is invalid.
pub fn read_credential_file(path: &Path) -> Result<Option<SecretString>, FileError> {
    let secret = read_secret_file(path)?;
    let is_allowed = |secret: &SecretString| Text::CREDENTIAL.allows(secret.expose_secret());
    if !secret.as_ref().is_none_or(is_allowed) {
        let allowed = Text::CREDENTIAL.allowed();
        return Err(FileError::Invalid { allowed });
    }
    Ok(secret)
}

/// Reads the text of a file with one entry on each line, whole.
///
/// # Errors
/// Returns an error if the file can't be read, has more than `bytes_max` bytes, is not UTF-8 text,
/// starts with a byte-order mark, or contains control characters other than tabs and newlines.
pub fn read_text_file(path: &Path, bytes_max: usize) -> Result<String, FileError> {
    let bytes = read(path, bytes_max)?;
    let text = text(&bytes)?;
    refuse_control_characters(text, &['\t', '\r', '\n'], "tabs and newlines")?;
    Ok(text.to_owned())
}

/// Reads the first `bytes_max` bytes of a file and one more, if there are as many.
pub(crate) fn read_start(path: &Path, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    // The buffer has room from the start: growing it would leave copies of a secret in memory. The
    // files in /proc, and pipes, have no length.
    let expected = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let room = expected.max(4_096).min(bytes_max) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let bytes = read_start(path, bytes_max)?;
    if bytes.len() > bytes_max {
        return Err(FileError::TooLong { bytes_max });
    }
    Ok(bytes)
}

fn text(bytes: &[u8]) -> Result<&str, FileError> {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Err(FileError::ByteOrderMark);
    }
    str::from_utf8(bytes).map_err(|_| FileError::NotUtf8)
}

pub(crate) fn without_newline(text: &str) -> &str {
    text.strip_suffix('\n')
        .map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
}

fn refuse_control_characters(
    text: &str,
    except: &[char],
    allowed: &'static str,
) -> Result<(), FileError> {
    let refused = |c: char| c.is_control() && !except.contains(&c);
    let Some(at) = text.find(refused) else {
        return Ok(());
    };
    let line = text[..at].matches('\n').count() + 1;
    Err(FileError::ControlCharacter { line, allowed })
}
