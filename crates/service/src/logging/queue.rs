//! The queue between the code that logs and standard error. A separate thread writes the lines, so
//! that a stalled reader of standard error blocks nothing else: not a shard and its clients, not
//! the exit of the process, not a panic. Lines beyond the bound are dropped and counted (`loss`).

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
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::loss::{LossReporter, Losses};

/// The maximum number of queued lines, about 2 MB: what an edge at level debug writes in a few
/// seconds of a reconnect storm.
const LINES_MAX: usize = 8_192;

/// The time limit for writing queued lines at the end of the process. It exceeds the writer
/// thread's own limit of 1.1 s.
const END_TIME_MAX: Duration = Duration::from_secs(2);

/// The interval at which the number of lost lines is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The writing end of the queue. Dropping it writes the queued lines, within [`END_TIME_MAX`].
#[derive(Debug)]
pub(super) struct Queue {
    writer_thread: Arc<WriterThread>,
    losses: Losses,
}

/// Starts a queue in front of `writer`. Returns the end that accepts lines and the end that writes
/// them.
pub(super) fn start(writer: impl Write + Send + 'static) -> (NonBlocking, Queue) {
    start_bounded(writer, LINES_MAX)
}

fn start_bounded(writer: impl Write + Send + 'static, lines_max: usize) -> (NonBlocking, Queue) {
    let (writer, losses) = Losses::counted(writer);
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(lines_max)
        .lossy(true)
        .thread_name("log")
        .finish(writer);
    let queue = Queue {
        writer_thread: Arc::new(WriterThread(Mutex::new(Some(guard)))),
        losses: losses.with_queue(lines.error_counter()),
    };
    (lines, queue)
}

impl Queue {
    /// Returns the count of lost lines.
    pub(super) fn losses(&self) -> Losses {
        self.losses.clone()
    }

    /// Returns a function that writes the queued lines, at most for `limit`.
    pub(super) fn end_within(&self, limit: Duration) -> impl FnOnce() + Send + use<> {
        let writer_thread = Arc::clone(&self.writer_thread);
        move || writer_thread.end(limit)
    }

    /// Installs a panic hook that ends the process if any thread or task panics. The message on
    /// standard error is the usual one, but the hook does not wait long for a reader.
    pub(super) fn end_on_panic(&self) {
        let writer_thread = Arc::clone(&self.writer_thread);
        panic::set_hook(Box::new(move |panic| {
            // The events before the panic show what led to it, so they are written first.
            writer_thread.end(END_TIME_MAX);
            let thread = thread::current();
            let name = thread.name().unwrap_or("<unnamed>");
            let text = format!("\nthread '{name}' {panic}\n{}\n", Backtrace::capture());
            run_with_time_limit(END_TIME_MAX, move || {
                // If this fails, there is nowhere else to report it.
                let _ = io::stderr().write_all(text.as_bytes());
            });
            // A build that unwinds would continue without the thread or task.
            process::abort();
        }));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.writer_thread.end(END_TIME_MAX);
    }
}

/// The thread that writes the lines; it can be ended once.
struct WriterThread(Mutex<Option<WorkerGuard>>);

impl WriterThread {
    fn end(&self, limit: Duration) {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(guard) = guard {
            // The guard waits for the thread with a time limit. When that passes, it prints a
            // message to standard output, whose reader may be the stalled one.
            run_with_time_limit(limit, move || drop(guard));
        }
    }
}

impl fmt::Debug for WriterThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterThread").finish_non_exhaustive()
    }
}

/// Runs `work` in a separate thread and waits until it has finished, at most for `limit`.
fn run_with_time_limit(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let started = thread::Builder::new().spawn(move || {
        work();
        // This fails if the time limit has passed and nothing waits for the end any more.
        let _ = done.send(());
    });
    if started.is_ok() {
        let _ = ended.recv_timeout(limit);
    }
}

/// Keeps `counter` at the number of lost lines, and logs that lines were lost once a line gets
/// through again.
pub(super) async fn count(losses: Losses, counter: IntCounter) {
    let mut reporter = LossReporter::new(losses, counter);
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        reporter.update();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender};

    use tracing::dispatcher::set_default;

    use super::*;
    use crate::logging::{Level, LogFormat, dispatch};

    /// A writer whose reader takes one line each time the test lets it.
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
    async fn lines_beyond_the_bound_are_dropped_counted_and_reported_once_there_is_room() {
        let (lines, written) = mpsc::channel();
        let (take, taken) = mpsc::channel();
        let (writer, queue) = start_bounded(Slow { lines, taken }, 3);
        let (dispatch, _) = dispatch(Level::Info, LogFormat::Text, writer);
        let _guard = set_default(&dispatch);
        let counter = IntCounter::new("dropped", "Counted.").unwrap();
        let counting = tokio::spawn(count(queue.losses(), counter.clone()));

        // Three lines are queued, and the writer thread may have taken one more.
        for number in 0..10 {
            tracing::info!(number, "event");
        }
        tokio::time::sleep(2 * CHECK_INTERVAL + CHECK_INTERVAL / 2).await;
        let dropped = counter.get();
        assert!((6..=10).contains(&dropped), "{dropped}");

        for _ in 0..10_000 {
            take.send(()).unwrap();
        }
        let patience = Duration::from_secs(30);
        let first = written.recv_timeout(patience).unwrap();
        assert!(first.contains("event number=0"), "{first}");
        let report = loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let line = written.recv_timeout(patience).unwrap();
            if line.contains("dropped") {
                break line;
            }
        };
        let (_, lines) = report.rsplit_once("lines=").unwrap();
        assert!(lines.trim().parse::<u64>().unwrap() >= dropped, "{report}");
        counting.abort();
        drop(take);
        drop(queue);
    }
}
