//! The load generator: threads that each have an epoll and their own clients, and the sum of their
//! results.

pub(crate) mod account;
mod arrivals;
mod channel;
mod client;
mod clients;
mod command;
mod connection_end;
mod frame_ticks;
mod harvest;
mod known;
mod meter;
mod setup;
mod sources;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use anyhow::Context as _;

use super::machine;
use sources::CLIENTS_PER_SOURCE;
use worker::Worker;

pub(crate) use arrivals::{FrameSeen, histogram};
pub use client::Greeting;
pub(crate) use client::Pace;
pub(crate) use command::{ArrivingClients, GeneratorCommand};
pub use connection_end::EndKind;
#[cfg(test)]
pub(crate) use frame_ticks::FrameTicks;
pub use harvest::Harvest;
pub use setup::{ClientSetup, GeneratorShared};
pub use sources::ClientSources;

/// The number of open files of a thread's table that are not sockets of clients.
const FILES_RESERVED: u64 = 512;

/// The threads of the load generator.
pub struct Generator {
    /// The state that its threads share.
    pub shared: Arc<GeneratorShared>,
    threads: Vec<GeneratorThread>,
    /// The number of clients started so far, modulo [`SOURCES_MAX`]. Source addresses are derived
    /// from it.
    next_client: u32,
    by_source: bool,
}

struct GeneratorThread {
    commands: Sender<GeneratorCommand>,
    handle: JoinHandle<std::io::Result<()>>,
}

impl Generator {
    /// Starts threads for up to `clients` clients at a time. With `learns_time`, they learn
    /// authority time from PONGs; otherwise the caller sets it in `shared`.
    ///
    /// # Errors
    /// A thread could not be started, or the system refuses it a CPU, a priority or files.
    pub fn start(
        setup: ClientSetup,
        shared: Arc<GeneratorShared>,
        clients: u32,
        files_limit: u64,
        learns_time: bool,
    ) -> anyhow::Result<Self> {
        Self::start_beside(setup, shared, clients, clients, files_limit, learns_time)
    }

    /// Does the same as [`Self::start`] if this process holds `total_clients` clients in all.
    /// Starts one thread for each table of open files that is needed.
    pub(crate) fn start_beside(
        setup: ClientSetup,
        shared: Arc<GeneratorShared>,
        clients: u32,
        total_clients: u32,
        files_limit: u64,
        learns_time: bool,
    ) -> anyhow::Result<Self> {
        let by_source = setup.addr.ip().is_loopback() && setup.addr.is_ipv4();
        let room = files_limit.saturating_sub(FILES_RESERVED).max(1);
        let count = u64::from(clients).div_ceil(room).max(1);
        let setup = Arc::new(setup);
        let threads = (0..count).map(|index| {
            let own_files = u64::from(total_clients) > room;
            start(index, own_files, learns_time && index == 0, &setup, &shared)
        });
        Ok(Self {
            threads: threads.collect::<anyhow::Result<_>>()?,
            shared,
            next_client: 0,
            by_source,
        })
    }

    /// Starts `count` more clients, with up to `in_flight` connects in progress over all threads.
    pub fn connect(&mut self, count: u32, greeting: Greeting, in_flight: u32) {
        self.connect_with(count, greeting, in_flight, false);
    }

    /// Does the same as [`Self::connect`], with small receive buffers if `small_buffer` is set.
    pub(crate) fn connect_with(
        &mut self,
        count: u32,
        greeting: Greeting,
        in_flight: u32,
        small_buffer: bool,
    ) {
        let in_flight = in_flight.div_ceil(self.len()).max(1);
        for (thread, share) in shares(count, self.len()) {
            self.command(
                thread,
                GeneratorCommand::Connect(ArrivingClients {
                    count: share,
                    first: self.next_client,
                    greeting,
                    in_flight,
                    small_buffer,
                    by_source: self.by_source,
                }),
            );
            self.next_client = self.next_client.wrapping_add(share) % SOURCES_MAX;
        }
    }

    /// Disconnects the oldest `count` clients, the same number on each thread.
    pub(crate) fn disconnect(&self, count: u32, reset: bool) {
        for (thread, count) in shares(count, self.len()) {
            self.command(thread, GeneratorCommand::Disconnect { count, reset });
        }
    }

    /// Sets the pace at which the oldest `count` clients read.
    pub(crate) fn set_pace(&self, pace: Pace, count: u32) {
        for (thread, count) in shares(count, self.len()) {
            self.command(thread, GeneratorCommand::SetPace { pace, count });
        }
    }

    /// Collects what the threads have seen since the last call. If `until_ms`, the epoch of the
    /// last tick due, is given, ticks up to it that are missing count as lost.
    ///
    /// # Errors
    /// A thread has ended early.
    pub fn harvest(&mut self, until_ms: Option<i64>) -> anyhow::Result<Harvest> {
        let (reply, answers) = mpsc::channel();
        for thread in 0..self.threads.len() {
            let reply = reply.clone();
            self.command(thread, GeneratorCommand::Harvest { until_ms, reply });
        }
        drop(reply);
        let mut all = Harvest::default();
        let mut answered = 0;
        for harvest in answers {
            all.add(harvest);
            answered += 1;
        }
        if answered < self.threads.len() {
            return Err(self.stop());
        }
        Ok(all)
    }

    /// Returns the number of ticks up to `until_ms` that are still missing, over all clients.
    #[must_use]
    pub fn missing_ticks(&self, until_ms: i64) -> u64 {
        let (reply, answers) = mpsc::channel();
        for thread in 0..self.threads.len() {
            let reply = reply.clone();
            self.command(thread, GeneratorCommand::CountMissing { until_ms, reply });
        }
        drop(reply);
        answers.into_iter().sum()
    }

    /// Returns the number of clients that have been served so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.shared.subscribed.load(Ordering::Relaxed)
    }

    /// Returns the number of clients that have been served plus the number of connections that
    /// failed or ended, so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        let GeneratorShared {
            subscribed, ended, ..
        } = &*self.shared;
        subscribed.load(Ordering::Relaxed) + ended.load(Ordering::Relaxed)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.threads.len()).unwrap_or(u32::MAX)
    }

    fn command(&self, thread: usize, command: GeneratorCommand) {
        // If the thread has ended, the next harvest reports it.
        let _ = self.threads[thread].commands.send(command);
    }

    /// Stops all threads and returns why one of them had ended early, with that thread's own error
    /// if there is one.
    fn stop(&mut self) -> anyhow::Error {
        const ENDED: &str = "a thread of the load generator has ended";
        let threads = std::mem::take(&mut self.threads).into_iter();
        // Each thread ends once its command channel has no sender.
        let handles: Vec<_> = threads.map(|thread| thread.handle).collect();
        let mut errors = handles
            .into_iter()
            .filter_map(|handle| handle.join().ok()?.err());
        errors.next().map_or_else(
            || anyhow::Error::msg(ENDED),
            |error| anyhow::Error::new(error).context(ENDED),
        )
    }
}

/// Client numbers wrap around after this many: by then the first clients have disconnected long
/// ago.
const SOURCES_MAX: u32 = 200 * CLIENTS_PER_SOURCE;

/// Divides `count` among `threads`. Yields each thread's index and share.
fn shares(count: u32, threads: u32) -> impl Iterator<Item = (usize, u32)> {
    (0..threads).map(move |thread| {
        let share = count / threads + u32::from(thread < count % threads);
        (thread as usize, share)
    })
}

fn start(
    index: u64,
    own_files: bool,
    learns_time: bool,
    setup: &Arc<ClientSetup>,
    shared: &Arc<GeneratorShared>,
) -> anyhow::Result<GeneratorThread> {
    let (commands, received) = mpsc::channel();
    let (ready_sender, ready) = mpsc::channel();
    let (setup, shared) = (Arc::clone(setup), Arc::clone(shared));
    let handle = std::thread::Builder::new()
        .name(format!("clients-{index}"))
        .spawn(move || {
            let prepare = || {
                if !setup.cpus.is_empty() {
                    machine::pin(&setup.cpus)?;
                }
                if own_files {
                    machine::own_files()?;
                }
                if setup.yields {
                    machine::lower_priority()?;
                }
                Worker::new(setup, shared, received, learns_time)
            };
            match prepare() {
                Ok(worker) => {
                    let _ = ready_sender.send(Ok(()));
                    worker.run()
                }
                Err(error) => {
                    // The caller of `start` receives the error.
                    let _ = ready_sender.send(Err(error));
                    Ok(())
                }
            }
        })?;
    ready
        .recv()
        .context("a thread of the load generator has ended")?
        .context(
            "a thread of the load generator can't be given its own CPU or table of open files",
        )?;
    Ok(GeneratorThread { commands, handle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_thread_that_has_ended_is_reported() {
        let (commands, _) = mpsc::channel();
        let handle = std::thread::spawn(|| Err(std::io::Error::other("the epoll is gone")));
        let mut generator = Generator {
            shared: Arc::default(),
            threads: vec![GeneratorThread { commands, handle }],
            next_client: 0,
            by_source: false,
        };
        let error = generator.harvest(None).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "a thread of the load generator has ended: the epoll is gone"
        );
    }

    #[test]
    fn every_client_is_assigned_and_threads_get_equal_shares() {
        let assigned: Vec<_> = shares(10, 4).collect();
        assert_eq!(assigned, [(0, 3), (1, 3), (2, 2), (3, 2)]);
        assert_eq!(shares(2, 3).map(|(_, share)| share).sum::<u32>(), 2);
    }
}
