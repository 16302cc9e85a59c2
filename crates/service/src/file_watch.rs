//! Rereads files that may change while a daemon runs.

use std::{error::Error, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::error_chain::ErrorChain;

/// The interval at which files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Files that take effect together, such as a certificate and its key.
pub trait FileSet: Send + 'static {
    /// What is read from the files; a difference shows that they have changed.
    type Contents: PartialEq + Send + 'static;
    /// What is made of the contents.
    type Loaded: Send + 'static;
    /// The reason that the files can't be used.
    type Error: Error + Send + 'static;

    /// Reads the files.
    ///
    /// # Errors
    /// Returns an error if a file can't be read.
    fn read(&self) -> Result<Self::Contents, Self::Error>;

    /// Makes of the contents what they are for.
    ///
    /// # Errors
    /// Returns an error if the contents can't be used, or do not fit together.
    fn load(&self, contents: &Self::Contents) -> Result<Self::Loaded, Self::Error>;
}

/// The files in use. Contents that can't be used never take effect.
#[derive(Debug)]
pub struct FilesInUse<S: FileSet> {
    files: S,
    contents: S::Contents,
}

impl<S: FileSet> FilesInUse<S> {
    /// Reads the files for the first time, and returns what was made of them.
    ///
    /// # Errors
    /// Returns an error if the files can't be used.
    pub fn load(files: S) -> Result<(Self, S::Loaded), S::Error> {
        let contents = files.read()?;
        let loaded = files.load(&contents)?;
        Ok((Self { files, contents }, loaded))
    }

    /// Rereads the files every second. `publish` is called each time that they can be used, with
    /// what was made of them if they have changed. `refuse` and `name` are those of [`watch`].
    pub async fn watch(
        self,
        name: &'static str,
        publish: impl FnMut(Option<S::Loaded>),
        refuse: impl FnMut(&str),
    ) {
        let Self {
            files,
            mut contents,
        } = self;
        let reload = move || {
            let new = files.read()?;
            if new == contents {
                return Ok::<_, S::Error>(None);
            }
            let loaded = files.load(&new)?;
            contents = new;
            Ok(Some(loaded))
        };
        watch(name, reload, publish, refuse).await;
    }
}

/// Calls `load` every second, and passes what it returns to `publish`. If it fails, `refuse` is
/// called with the reason, once for each distinct reason in a row. `files` names the files in the
/// log.
pub async fn watch<T, E>(
    files: &'static str,
    mut load: impl FnMut() -> Result<T, E> + Send + 'static,
    mut publish: impl FnMut(T),
    mut refuse: impl FnMut(&str),
) where
    T: Send + 'static,
    E: Error + Send + 'static,
{
    let mut interval = interval(CHECK_INTERVAL);
    // After a file system has hung, one check is enough.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = String::new();
    loop {
        interval.tick().await;
        // Use a thread of the blocking pool, so that a file system that hangs delays only this
        // task.
        let loading = tokio::task::spawn_blocking(move || {
            let loaded = load();
            (load, loaded)
        });
        let loaded = match loading.await {
            Ok((returned, loaded)) => {
                load = returned;
                loaded
            }
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "{files} are no longer checked for changes");
                return;
            }
            // The runtime is shutting down.
            Err(_) => return,
        };
        match loaded {
            Ok(new) => {
                complaint.clear();
                publish(new);
            }
            Err(error) => {
                let text = ErrorChain(&error).to_string();
                if text != complaint {
                    refuse(&text);
                    complaint = text;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::mpsc};

    use tokio::{
        sync::mpsc::unbounded_channel,
        time::{Instant, advance, timeout},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_load_that_hung_the_checks_are_a_second_apart_again() {
        let (started, mut has_started) = unbounded_channel();
        let (release, released) = mpsc::channel::<()>();
        let load = move || {
            let _ = started.send(());
            // Only the first load waits: after it, the sender is gone.
            let _ = released.recv();
            Ok::<_, Infallible>(())
        };
        let (published, mut at) = unbounded_channel();
        let publish = move |()| published.send(Instant::now()).unwrap();
        let watching = tokio::spawn(watch("files", load, publish, |_| ()));
        has_started.recv().await.unwrap();
        advance(Duration::from_secs(10)).await;
        drop(release);
        let mut published = Vec::new();
        for _ in 0..5 {
            let next = timeout(Duration::from_secs(60), at.recv()).await;
            published.push(next.unwrap().unwrap());
        }
        watching.abort();
        // The check that is due comes at once.
        for pair in published[1..].windows(2) {
            assert!(pair[1] - pair[0] >= CHECK_INTERVAL, "{published:?}");
        }
    }
}
