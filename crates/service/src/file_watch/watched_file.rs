//! [`WatchedFile`]: a file that is looked at again and again. A [`Look`] tells whether its content
//! has changed and how many entries it has, but does not keep the content, which may be secret.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;

use crate::env::file::{read_start, without_newline};

/// The maximum number of bytes that are looked at: as many as the largest file may have.
const LOOK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A file, the setting that names it, and the meaning of its entries.
#[derive(Clone, Debug)]
pub struct WatchedFile {
    /// The setting.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    layout: Layout,
    /// What the entries are, in the plural.
    noun: &'static str,
    /// What follows if entries are gone: a sentence without its full stop.
    loss: &'static str,
}

/// The way in which the entries of a file are told apart.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// The whole file is one value, or none if it is empty.
    Value,
    /// Each line is an entry, unless it is empty or a comment.
    Lines,
    /// Each PEM section of this kind is an entry.
    Sections(&'static str),
}

impl WatchedFile {
    /// Creates a file that holds one value. `loss` says what follows if it is emptied.
    #[must_use]
    pub fn value(setting: &'static str, path: &Path, loss: &'static str) -> Self {
        Self::new(setting, path, Layout::Value, "values", loss)
    }

    /// Creates a file that holds one entry on each line, except for empty lines and those that
    /// start with `#`. `noun` names the entries, and `loss` says what follows if some are gone.
    #[must_use]
    pub fn lines(
        setting: &'static str,
        path: &Path,
        noun: &'static str,
        loss: &'static str,
    ) -> Self {
        Self::new(setting, path, Layout::Lines, noun, loss)
    }

    /// Creates a file of certificates in PEM format.
    #[must_use]
    pub fn certificates(setting: &'static str, path: &Path, loss: &'static str) -> Self {
        let layout = Layout::Sections("-----BEGIN CERTIFICATE-----");
        Self::new(setting, path, layout, "certificates", loss)
    }

    /// Creates a file of revocation lists in PEM format.
    #[must_use]
    pub fn revocation_lists(setting: &'static str, path: &Path, loss: &'static str) -> Self {
        let layout = Layout::Sections("-----BEGIN X509 CRL-----");
        Self::new(setting, path, layout, "revocation lists", loss)
    }

    fn new(
        setting: &'static str,
        path: &Path,
        layout: Layout,
        noun: &'static str,
        loss: &'static str,
    ) -> Self {
        Self {
            setting,
            path: path.to_owned(),
            layout,
            noun,
            loss,
        }
    }

    pub(super) fn look(&self) -> Look {
        match read_start(&self.path, LOOK_BYTES_MAX) {
            Ok(content) => {
                let mut sha256 = [0; 32];
                // AWS-LC wipes its state, which contains a short secret completely.
                let digest = digest::digest(&digest::SHA256, &content);
                sha256.copy_from_slice(digest.as_ref());
                Look::Content {
                    sha256,
                    entries: self.layout.count(&content),
                }
            }
            Err(error) => Look::Unreadable(error.kind()),
        }
    }

    /// Returns the entries that are gone, if there are fewer now.
    pub(super) fn missing(&self, before: &Look, now: &Look) -> Option<MissingEntries> {
        let (before, now) = (before.entries()?, now.entries()?);
        (now < before).then(|| MissingEntries {
            gone: before - now,
            of: before,
            noun: self.noun,
            loss: self.loss,
        })
    }
}

impl fmt::Display for WatchedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.setting, self.path.display())
    }
}

impl Layout {
    /// Counts the entries, whether or not they are valid.
    fn count(self, content: &[u8]) -> usize {
        // What is not UTF-8 is not valid either.
        let text = str::from_utf8(content).unwrap_or_default();
        match self {
            Self::Value => usize::from(!without_newline(text).is_empty()),
            Self::Lines => {
                let lines = text.lines().map(str::trim);
                let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                entries.count()
            }
            // Text between sections need not be UTF-8.
            Self::Sections(begin) => {
                let lines = content.split(|byte| *byte == b'\n');
                lines
                    .filter(|line| line.starts_with(begin.as_bytes()))
                    .count()
            }
        }
    }
}

/// What a file looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Content { sha256: [u8; 32], entries: usize },
    Unreadable(io::ErrorKind),
}

impl Look {
    const fn entries(&self) -> Option<usize> {
        match self {
            Self::Content { entries, .. } => Some(*entries),
            Self::Unreadable(_) => None,
        }
    }
}

/// Entries that were in a file and are no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingEntries {
    /// The number of them.
    pub gone: usize,
    /// The number of entries that the file had.
    pub of: usize,
    noun: &'static str,
    loss: &'static str,
}

impl MissingEntries {
    /// Says what follows.
    #[must_use]
    pub const fn loss(&self) -> &'static str {
        self.loss
    }
}

impl fmt::Display for MissingEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gone, of, noun, .. } = self;
        write!(f, "{gone} of {of} {noun} gone")
    }
}
