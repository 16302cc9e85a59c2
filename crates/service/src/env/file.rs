//! Reading a value from a file, as Docker and Kubernetes hand out secrets. The edge reads the same files again when they
//! change, so the rules stand here alone.

use std::{fs::File, io, io::Read, path::Path};

use secrecy::SecretString;
use zeroize::Zeroizing;

/// The most bytes a file with a secret may have: a wrong path (a disk image, `/dev/zero`) must not be read to its end.
pub const SECRET_FILE_BYTES_MAX: usize = 65_536;

/// Why a file gave no value.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system did not let it be read.
    #[error("the file can't be read")]
    Unreadable(#[from] io::Error),
    /// It is longer than [`SECRET_FILE_BYTES_MAX`].
    #[error("the file is longer than {SECRET_FILE_BYTES_MAX} bytes")]
    TooLong,
    /// It holds bytes that are no text.
    #[error("the file is not UTF-8 text")]
    NotUtf8,
}

/// Reads the value in `path`: one newline at its end (`\n` or `\r\n`) is cut, and nothing left counts as unset.
///
/// # Errors
/// Where the file can't be read, is too long, or is no text.
pub fn read_secret_file(path: &Path) -> Result<Option<SecretString>, FileError> {
    // One buffer of the final size: growing would leave copies of the secret behind.
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
