//! What a bus logs, for both binaries of tests.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;

/// The lines that were logged. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct BusLog(Arc<Mutex<Vec<u8>>>);

impl BusLog {
    /// What to log to.
    pub(crate) fn subscriber(&self) -> Dispatch {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(self.clone())
            .finish()
            .into()
    }

    /// All so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl io::Write for BusLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for BusLog {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
