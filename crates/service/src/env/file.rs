//! Reads a value from a file, the way Docker and Kubernetes provide secrets. The edge reads the
//! same files again when they change, so the rules for them are kept in this one place.

use std::{fs::File, io, io::Read, path::Path};

use secrecy::SecretString;
use zeroize::Zeroizing;

/// The maximum size of a secret file in bytes: a wrong path (a disk image, `/dev/zero`) must not be
/// read to its end.
pub const SECRET_FILE_BYTES_MAX: usize = 65_536;

/// The reason that no value could be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system could not read it.
    #[error("the file can't be read")]
    Unreadable(#[from] io::Error),
    /// It is longer than [`SECRET_FILE_BYTES_MAX`].
    #[error("the file is longer than {SECRET_FILE_BYTES_MAX} bytes")]
    TooLong,
    /// Its bytes are not text.
    #[error("the file is not UTF-8 text")]
    NotUtf8,
}

/// Reads the value in the file at `path`. One trailing newline (`\n` or `\r\n`) is removed; if
/// nothing is left, the value counts as unset.
///
/// # Errors
/// Returns an error if the file can't be read, is too long, or is not UTF-8 text.
pub fn read_secret_file(path: &Path) -> Result<Option<SecretString>, FileError> {
    // The buffer has its final size from the start: growing it would leave copies of the secret in
    // memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_FILE_BYTES_MAX + 1));
    let limit = u64::try_from(SECRET_FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > SECRET_FILE_BYTES_MAX {
        return Err(FileError::TooLong);
    }
    let text = str::from_utf8(&bytes).map_err(|_| FileError::NotUtf8)?;
    let text = text
        .strip_suffix('\n')
        .map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok((!text.is_empty()).then(|| text.into()))
}
