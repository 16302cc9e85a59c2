//! Log lines that are lost: [`CountingWriter`] counts those that can't be written, for example
//! because the disk is full, and [`LossReporter`] keeps the metric up to date and logs the loss
//! once there is room again.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus::IntCounter;
use tracing_appender::non_blocking::ErrorCounter;

/// The message of the event about lost lines. The event is also the attempt that shows whether
/// there is room again, so it does not count if it is lost.
const REPORT: &str = "log lines were dropped: standard error was not read fast enough, or could \
    not be written to";

/// What became of the lines that left the queue.
#[derive(Debug, Default)]
struct Written {
    lost: AtomicU64,
    reports: AtomicU64,
    reports_lost: AtomicU64,
    /// The reason of the latest loss.
    error: Mutex<Option<io::Error>>,
}

/// Passes lines on to a writer, and counts those that it does not take.
pub(super) struct CountingWriter<W> {
    writer: W,
    /// Whether the writer has taken only the beginning of the last line.
    is_torn: bool,
    written: Arc<Written>,
}

impl<W: Write> CountingWriter<W> {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.writer.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.is_torn = !rest.is_empty();
        }
        Ok(())
    }
}

impl<W: Write> Write for CountingWriter<W> {
    /// Writes a line. An error is counted and not returned, because the caller can do no more.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_report = line
            .windows(REPORT.len())
            .any(|part| part == REPORT.as_bytes());
        let written = &Arc::clone(&self.written);
        let counter = match (self.write_line(line), is_report) {
            (Ok(()), false) => return Ok(line.len()),
            (Ok(()), true) => &written.reports,
            (Err(_), true) => &written.reports_lost,
            (Err(error), false) => {
                let mut last = written.error.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some(error);
                &written.lost
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Counts the lines that are lost.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    /// Counts the lines for which the queue has no room.
    dropped: Option<ErrorCounter>,
    written: Arc<Written>,
}

impl Losses {
    /// Returns a writer that passes lines on to `writer`, and its losses.
    pub(super) fn counted<W: Write>(writer: W) -> (CountingWriter<W>, Self) {
        let losses = Self {
            dropped: None,
            written: Arc::default(),
        };
        let writer = CountingWriter {
            writer,
            is_torn: false,
            written: Arc::clone(&losses.written),
        };
        (writer, losses)
    }

    /// Adds the lines for which the queue has no room.
    pub(super) fn with_queue(mut self, dropped: ErrorCounter) -> Self {
        self.dropped = Some(dropped);
        self
    }

    fn dropped(&self) -> u64 {
        let dropped = self.dropped.as_ref().map(ErrorCounter::dropped_lines);
        u64::try_from(dropped.unwrap_or_default()).unwrap_or(u64::MAX)
    }

    fn total(&self) -> u64 {
        let lost = self.written.lost.load(Ordering::Relaxed);
        self.dropped().saturating_add(lost)
    }

    fn last_error(&self) -> Option<String> {
        let error = self.written.error.lock();
        let error = error.unwrap_or_else(PoisonError::into_inner);
        error.as_ref().map(ToString::to_string)
    }

    fn reports(&self) -> u64 {
        self.written.reports.load(Ordering::Relaxed)
    }

    fn reports_lost(&self) -> u64 {
        self.written.reports_lost.load(Ordering::Relaxed)
    }
}

/// Keeps the metric at the number of lost lines, and logs the loss.
pub(super) struct LossReporter {
    losses: Losses,
    counter: IntCounter,
    /// The number of lost lines that has been logged.
    reported: u64,
    /// The report that is on its way.
    pending: Option<Report>,
}

/// A report that was logged, and the counts before it was.
struct Report {
    total: u64,
    written: u64,
    lost: u64,
}

impl LossReporter {
    pub(super) const fn new(losses: Losses, counter: IntCounter) -> Self {
        Self {
            losses,
            counter,
            reported: 0,
            pending: None,
        }
    }

    /// Updates the metric, and logs lines that were lost since the last report. A report that is
    /// lost itself is repeated by the next call.
    pub(super) fn update(&mut self) {
        let losses = &self.losses;
        let total = losses.total();
        self.counter
            .inc_by(total.saturating_sub(self.counter.get()));
        if let Some(report) = &self.pending {
            if losses.reports() > report.written {
                self.reported = report.total;
            } else if losses.reports_lost() == report.lost {
                return;
            }
            self.pending = None;
        }
        if total <= self.reported {
            return;
        }
        let report = Report {
            total,
            written: losses.reports(),
            lost: losses.reports_lost(),
        };
        let dropped = losses.dropped();
        tracing::warn!(
            error = losses.last_error(),
            lines = total - self.reported,
            "{REPORT}"
        );
        // If the queue has dropped a line meanwhile, it may have been this one.
        if losses.dropped() == dropped {
            self.pending = Some(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::dispatcher::set_default;

    use super::*;
    use crate::logging::{Level, LogFormat, dispatch};

    /// A file on a disk with little room.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (content, room) = &mut *self.0.lock().unwrap();
            let count = bytes.len().min(*room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.extend_from_slice(&bytes[..count]);
            *room -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk {
        fn set_room(&self, bytes: usize) {
            self.0.lock().unwrap().1 = bytes;
        }

        fn lines(&self) -> Vec<String> {
            let content = self.0.lock().unwrap().0.clone();
            let text = String::from_utf8(content).unwrap();
            text.lines().map(Into::into).collect()
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_reported_once_there_is_room() {
        let disk = Disk::default();
        let (writer, losses) = Losses::counted(disk.clone());
        let counter = IntCounter::new("dropped", "Counted.").unwrap();
        let mut reporter = LossReporter::new(losses, counter.clone());
        let writer = Mutex::new(writer);
        let (dispatch, _) = dispatch(Level::Info, LogFormat::Text, writer);
        let _guard = set_default(&dispatch);
        let log = |numbers: std::ops::Range<u32>| {
            numbers.for_each(|number| tracing::info!(number, "event"));
        };

        disk.set_room(1_000);
        log(0..1);
        let line = disk.lines()[0].len();
        // Room for one more line and a half.
        disk.set_room(line + 1 + line / 2);
        log(1..5);
        for _ in 0..10 {
            reporter.update();
            assert_eq!(counter.get(), 3, "reports do not count");
        }
        // The report does not fit either, but its beginning does.
        disk.set_room(10);
        reporter.update();
        reporter.update();
        disk.set_room(10_000);
        log(5..6);
        for _ in 0..3 {
            reporter.update();
        }
        assert_eq!(counter.get(), 3);
        let lines = disk.lines();
        let whole = |text: &str| lines.iter().filter(|line| line.ends_with(text)).count();
        for number in [0, 1, 5] {
            assert_eq!(whole(&format!("event number={number}")), 1, "{lines:#?}");
        }
        let reports: Vec<_> = lines.iter().filter(|line| line.contains(REPORT)).collect();
        let [report] = &reports[..] else {
            panic!("{lines:#?}");
        };
        assert!(report.ends_with(" lines=3"), "{report}");
        assert!(report.contains("no storage space"), "{report}");

        disk.set_room(0);
        log(6..8);
        disk.set_room(10_000);
        for _ in 0..3 {
            reporter.update();
        }
        assert_eq!(counter.get(), 5);
        assert!(disk.lines().last().unwrap().ends_with(" lines=2"));
    }
}
