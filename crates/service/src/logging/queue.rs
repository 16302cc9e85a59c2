//! The queue between those who log and standard error. A thread of its own writes, so that a reader that stands still blocks
//! nobody else: not a shard with its clients, not the process's end, not a panic. Lines beyond the bound are dropped and counted.

use std::{
    backtrace::Backtrace,
    fmt, io,
    io::Write,
    panic, process,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use prometheus::IntCounter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The lines that may wait, some 2 MB of them: seconds of what an edge writes at level debug while a crowd comes and goes.
const LINES_MAX: usize = 8_192;

/// The time that writing has at the end of the process, more than the writing thread's own bound of 1.1 s.
const END_TIME_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether lines were dropped.
const LOOK: Duration = Duration::from_secs(1);

/// The end of the queue that writes. Dropping it writes what waits, within [`END_TIME_MAX`].
#[derive(Debug)]
pub(super) struct Queue {
    writing: Arc<Writing>,
    dropped: ErrorCounter,
}

/// Makes a queue before `writer`: what puts lines into it, and its end.
pub(super) fn before(writer: impl Write + Send + 'static) -> (NonBlocking, Queue) {
    bounded(writer, LINES_MAX)
}

fn bounded(writer: impl Write + Send + 'static, lines_max: usize) -> (NonBlocking, Queue) {
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(lines_max)
        .lossy(true)
        .thread_name("log")
        .finish(writer);
    let queue = Queue {
        writing: Arc::new(Writing(Mutex::new(Some(guard)))),
        dropped: lines.error_counter(),
    };
    (lines, queue)
}

impl Queue {
    /// How many lines were dropped.
    pub(super) fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }

    /// Makes a panic of any thread or task end the process from now on. Its message on standard
    /// error is the usual one, but does not wait long for a reader.
    pub(super) fn end_on_panic(&self) {
        let writing = Arc::clone(&self.writing);
        panic::set_hook(Box::new(move |panic| {
            // What was logged before it is the way that led to it.
            writing.end();
            let thread = thread::current();
            let name = thread.name().unwrap_or("<unnamed>");
            let text = format!("\nthread '{name}' {panic}\n{}\n", Backtrace::capture());
            within(END_TIME_MAX, move || {
                // There is no other place to say it.
                let _ = io::stderr().write_all(text.as_bytes());
            });
            // A build that unwinds would go on without the thread or task.
            process::abort();
        }));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.writing.end();
    }
}

/// What ends the writing thread, once.
struct Writing(Mutex<Option<WorkerGuard>>);

impl Writing {
    fn end(&self) {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(guard) = guard {
            // The guard waits for the writing thread with a bound, but says so on standard output where that is passed, and
            // its reader may be the one who stands still.
            within(END_TIME_MAX, move || drop(guard));
        }
    }
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").finish_non_exhaustive()
    }
}

/// Does `what` in a thread of its own and waits for its end, at most for `time`.
fn within(time: Duration, what: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let started = thread::Builder::new().spawn(move || {
        what();
        // Nobody waits any more where the time is over.
        let _ = done.send(());
    });
    if started.is_ok() {
        let _ = ended.recv_timeout(time);
    }
}

/// Keeps `counter` at what was dropped, and logs it once a line gets through again.
pub(super) async fn count(dropped: ErrorCounter, counter: IntCounter) {
    let total = || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX);
    let mut told = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let before = total();
        counter.inc_by(before.saturating_sub(counter.get()));
        if before > told {
            let lines = before - told;
            tracing::warn!(
                lines,
                "log lines were dropped: standard error is not read as fast as they come"
            );
            // Where this line was dropped too, the next look tells of it again.
            if total() == before {
                told = before;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender};

    use tracing::dispatcher::set_default;

    use super::*;
    use crate::logging::{Level, LogFormat, dispatch};

    /// A writer whose reader takes a line when the test lets it.
    struct Slow {
        lines: Sender<String>,
        taken: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.taken.recv().map_err(io::Error::other)?;
            let line = String::from_utf8(bytes.to_vec()).unwrap();
            self.lines.send(line).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_beyond_the_bound_are_dropped_counted_and_told_once_there_is_room() {
        let (lines, written) = mpsc::channel();
        let (take, taken) = mpsc::channel();
        let (writer, queue) = bounded(Slow { lines, taken }, 3);
        let (dispatch, _) = dispatch(Level::Info, LogFormat::Text, writer);
        let _guard = set_default(&dispatch);
        let counter = IntCounter::new("dropped", "Counted.").unwrap();
        let counting = tokio::spawn(count(queue.dropped(), counter.clone()));

        // Three wait, and the writing thread may have taken one more.
        for number in 0..10 {
            tracing::info!(number, "event");
        }
        tokio::time::sleep(2 * LOOK + LOOK / 2).await;
        let dropped = counter.get();
        assert!((6..=10).contains(&dropped), "{dropped}");

        for _ in 0..10_000 {
            take.send(()).unwrap();
        }
        let patience = Duration::from_secs(30);
        let first = written.recv_timeout(patience).unwrap();
        assert!(first.contains("event number=0"), "{first}");
        let told = loop {
            tokio::time::sleep(LOOK).await;
            let line = written.recv_timeout(patience).unwrap();
            if line.contains("dropped") {
                break line;
            }
        };
        let (_, lines) = told.rsplit_once("lines=").unwrap();
        assert!(lines.trim().parse::<u64>().unwrap() >= dropped, "{told}");
        counting.abort();
        drop(take);
        drop(queue);
    }
}
