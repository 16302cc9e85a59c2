//! [`PrivateDir`]: a temporary directory for the keys and tokens of one run. It is removed when it
//! is dropped, and, after [`remove_at_signals`], when a signal ends the process.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use tickstorm_service::signals::Signals;

/// The directories of this process. A thread that changes a directory holds the lock, so that
/// nothing is written while [`remove_at_signals`] removes them.
static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn directories() -> MutexGuard<'static, Vec<PathBuf>> {
    DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary directory that only this user can read. It is removed with its files when this is
/// dropped.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
}

impl PrivateDir {
    /// Creates an empty directory whose name starts with `prefix`.
    ///
    /// # Errors
    /// The system's directory for temporary files is not writable.
    pub fn new(prefix: &str) -> io::Result<Self> {
        let mut directories = directories();
        let path = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?
            .keep();
        directories.push(path.clone());
        Ok(Self { path })
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new file that only this user can read, and returns its path.
    ///
    /// # Errors
    /// The file exists or can't be written.
    pub fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let _directories = directories();
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path)?.write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let mut directories = directories();
        // If that fails, nobody can be told, and there is nothing else to try.
        let _ = fs::remove_dir_all(&self.path);
        directories.retain(|path| *path != self.path);
    }
}

/// Makes SIGINT, SIGTERM and SIGHUP remove all directories of this process before they end it. This
/// is for a command that does not handle these signals itself.
///
/// # Errors
/// The system does not let a handler be installed or a thread be started.
pub fn remove_at_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::catch_at_terminal()?
    };
    let wait = move || {
        let signal = runtime.block_on(signals.next());
        // The lock is held until the process has ended.
        let directories = directories();
        for path in directories.iter() {
            let _ = fs::remove_dir_all(path);
        }
        process::exit(signal.exit_code().into());
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_private_and_vanish_with_the_value() {
        let made = PrivateDir::new("tickstorm-private-").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(made.path()), 0o700);
        let file = made.write("key", "secret").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read_to_string(&file).unwrap(), "secret");
        assert!(made.write("key", "another").is_err(), "replaced a file");
        let path = made.path().to_owned();
        drop(made);
        assert!(!path.exists());
        assert!(!directories().contains(&path));
    }
}
