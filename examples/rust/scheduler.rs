//! Runs jobs at given minutes, and neither misses nor doubles a minute across restarts.
//!
//! The results of a minute are appended to a journal by one write, whose last line says that the
//! minute is done. After a crash, the client resumes after the last minute that is done, so each
//! minute takes effect exactly once. (A job that acts outside the journal may run again; it knows
//! the minute, and can ask whether it is done.)
//!
//!     TICKSTORM_URL=tickstorm://stream_user:stream_pass@127.0.0.1:8080 \
//!         cargo run -p tickstorm-client --example scheduler -- journal.txt

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write as _};

use tickstorm_client::{Epoch, Mode, Options};

const MINUTE_MS: i64 = 60_000;
/// The jobs. Each runs at each minute since 1970 that is a multiple of its number.
const JOBS: [(i64, &str); 2] = [(1, "report"), (60, "clean up")];

struct Journal {
    file: File,
    /// The last minute that is done.
    done: Option<Epoch>,
}

impl Journal {
    /// Opens a journal, without what a crash has left of a minute that is not done.
    fn open(path: &str) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let content = fs::read_to_string(path)?;
        let end = " done\n";
        let kept = content.rfind(end).map_or(0, |at| at + end.len());
        file.set_len(u64::try_from(kept).map_err(io::Error::other)?)?;
        let last_line = content[..kept].lines().last();
        let done_ms = last_line.and_then(|line| line.strip_suffix(" done")?.parse().ok());
        Ok(Self {
            file,
            done: done_ms.map(Epoch::from_ms),
        })
    }

    /// Runs the jobs that are due at a minute, if any, and records that it is done.
    fn run(&mut self, epoch: Epoch, jobs: &[(i64, &str)]) -> io::Result<()> {
        let (epoch_ms, mut entry) = (epoch.as_ms(), String::new());
        let minute = epoch_ms / MINUTE_MS;
        for (_, job) in jobs.iter().filter(|(every, _)| minute % every == 0) {
            entry += &format!("{epoch_ms} {job} for minute {minute}\n");
        }
        entry += &format!("{epoch_ms} done\n");
        self.file.write_all(entry.as_bytes())?;
        self.file.sync_all()?;
        self.done = Some(epoch);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut journal = Journal::open(&std::env::args().nth(1).ok_or("name the journal")?)?;
    let mut options = Options::from_env()?.mode(Mode::Minute);
    if let Some(done) = journal.done {
        options = options.resume_after(done);
    }
    let events = tickstorm_client::connect(options).await?;
    if journal.done.is_none() {
        journal.run(events.start_epoch(), &[])?;
    }
    let mut ticks = events.into_tick_stream();
    while let Some(tick) = ticks.next().await {
        // All minutes up to the tick, even if no edge has sent them because of a long outage; and
        // none again, even if the time was stepped back.
        let next = |done| Mode::Minute.next_after(done);
        while let Some(due) = journal.done.map(next).filter(|&due| due <= tick.epoch) {
            journal.run(due, &JOBS)?;
        }
    }
    Ok(())
}
