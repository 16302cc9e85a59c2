//! Runs jobs at given minutes, and neither misses nor doubles a minute across restarts.
//!
//! The results of a minute are appended to a journal by one write, whose last line says that the
//! minute is done. After a crash at any moment, the client resumes after the last minute that is
//! done, so each minute takes effect exactly once. (A job that acts outside the journal may run
//! again; it knows the minute, and can ask whether it is done.)
//!
//!     cargo run -p tickstorm-client --example scheduler -- journal.txt

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write as _};

use tickstorm_client::{Epoch, Event, Mode, Options};

const MINUTE_MS: i64 = 60_000;
/// The jobs. Each runs at each minute since 1970 that is a multiple of its number.
const JOBS: [(i64, &str); 2] = [(1, "report"), (60, "clean up")];

struct Journal(File);

impl Journal {
    /// Opens a journal, without what a crash has left of a minute that is not done. Returns it with
    /// the last minute that is done.
    fn open(path: &str) -> io::Result<(Self, Option<Epoch>)> {
        let file = File::options().create(true).append(true).open(path)?;
        let content = fs::read_to_string(path)?;
        let (mut done, mut kept) = (None, 0);
        for (end, _) in content.match_indices('\n') {
            let last_line = content[..end].lines().last().unwrap_or_default();
            if let Some(ms) = last_line.strip_suffix(" done") {
                done = ms.parse().ok().map(Epoch::from_ms);
                kept = end + 1;
            }
        }
        file.set_len(u64::try_from(kept).map_err(io::Error::other)?)?;
        Ok((Self(file), done))
    }

    /// Runs the jobs that are due at a minute, if any, and records that it is done.
    fn run(&mut self, epoch_ms: i64, jobs: &[(i64, &str)]) -> io::Result<()> {
        let (minute, mut entry) = (epoch_ms / MINUTE_MS, String::new());
        for (_, job) in jobs.iter().filter(|(every, _)| minute % every == 0) {
            entry += &format!("{epoch_ms} {job} for minute {minute}\n");
        }
        entry += &format!("{epoch_ms} done\n");
        self.0.write_all(entry.as_bytes())?;
        self.0.sync_all()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or("journal.txt".into());
    let (mut journal, done) = Journal::open(&path)?;
    let options = Options::from_env()?.mode(Mode::Minute);
    let options = done.into_iter().fold(options, Options::resume_after);
    let mut events = tickstorm_client::connect(options).await?;
    if done.is_none() {
        journal.run(events.start_epoch().as_ms(), &[])?;
    }
    while let Some(event) = events.next().await {
        match event? {
            Event::Tick(tick) => journal.run(tick.epoch.as_ms(), &JOBS)?,
            // After a very long outage, no edge sends these minutes any more. They run anyway.
            Event::Gap { after, before, .. } => {
                let first = Mode::Minute.next_after(after).as_ms();
                for missed_ms in (first..before.as_ms()).step_by(60_000) {
                    journal.run(missed_ms, &JOBS)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
