//! The load generator: threads with an epoll and clients each, and what they say all together.

pub(crate) mod account;
mod arrivals;
mod client;
mod clients;
mod command;
mod connection_end;
mod frame_ticks;
mod harvest;
mod known;
mod meter;
mod setup;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use anyhow::Context as _;

use super::machine;
use worker::Worker;

pub(crate) use arrivals::{FrameSeen, histogram};
pub(crate) use client::{CLIENTS_PER_SOURCE, Greeting, Pace};
pub(crate) use command::{ArrivingClients, GeneratorCommand};
#[cfg(test)]
pub(crate) use frame_ticks::FrameTicks;
pub(crate) use harvest::Harvest;
pub(crate) use setup::{ClientSetup, GeneratorShared};

/// Open files of a thread's table that are no clients' sockets.
const FILES_RESERVED: u64 = 512;

/// All threads.
pub(crate) struct Generator {
    pub(crate) shared: Arc<GeneratorShared>,
    threads: Vec<GeneratorThread>,
    /// Clients that were told to come so far, from which source addresses follow.
    told: u32,
    by_source: bool,
}

struct GeneratorThread {
    commands: Sender<GeneratorCommand>,
    handle: JoinHandle<std::io::Result<()>>,
}

impl Generator {
    /// Threads for so many clients at a time.
    pub(crate) fn start(
        setup: ClientSetup,
        shared: Arc<GeneratorShared>,
        clients: u32,
        files_limit: u64,
        tells_time: bool,
    ) -> anyhow::Result<Self> {
        Self::start_beside(setup, shared, clients, clients, files_limit, tells_time)
    }

    /// Threads for so many clients of the `all` that there are in this process: as many as tables of open files are needed.
    pub(crate) fn start_beside(
        setup: ClientSetup,
        shared: Arc<GeneratorShared>,
        clients: u32,
        all: u32,
        files_limit: u64,
        tells_time: bool,
    ) -> anyhow::Result<Self> {
        let by_source = setup.addr.ip().is_loopback() && setup.addr.is_ipv4();
        let room = files_limit.saturating_sub(FILES_RESERVED).max(1);
        let count = u64::from(clients).div_ceil(room).max(1);
        let setup = Arc::new(setup);
        let threads = (0..count).map(|index| {
            let own_files = u64::from(all) > room;
            start(index, own_files, tells_time && index == 0, &setup, &shared)
        });
        Ok(Self {
            threads: threads.collect::<anyhow::Result<_>>()?,
            shared,
            told: 0,
            by_source,
        })
    }

    /// Lets `count` clients more come, `in_flight` at a time over all threads.
    pub(crate) fn connect(&mut self, count: u32, greeting: Greeting, in_flight: u32) {
        self.connect_with(count, greeting, in_flight, false);
    }

    /// The same, with small receive buffers if `small_buffer`.
    pub(crate) fn connect_with(
        &mut self,
        count: u32,
        greeting: Greeting,
        in_flight: u32,
        small_buffer: bool,
    ) {
        let in_flight = in_flight.div_ceil(self.len()).max(1);
        for (thread, share) in shares(count, self.len()) {
            self.tell(
                thread,
                GeneratorCommand::Connect(ArrivingClients {
                    count: share,
                    first: self.told,
                    greeting,
                    in_flight,
                    small_buffer,
                    by_source: self.by_source,
                }),
            );
            self.told = self.told.wrapping_add(share) % SOURCES_MAX;
        }
    }

    /// Lets the oldest clients go, as many of each thread as of any other.
    pub(crate) fn leave(&self, count: u32, reset: bool) {
        for (thread, count) in shares(count, self.len()) {
            self.tell(thread, GeneratorCommand::Leave { count, reset });
        }
    }

    /// Lets the oldest clients read so from now on.
    pub(crate) fn read(&self, pace: Pace, count: u32) {
        for (thread, count) in shares(count, self.len()) {
            self.tell(thread, GeneratorCommand::Read { pace, count });
        }
    }

    /// What has been seen since this was last asked. `until_ms`: the last tick due; what lacks of them is lost.
    pub(crate) fn harvest(&mut self, until_ms: Option<i64>) -> anyhow::Result<Harvest> {
        let (reply, answers) = mpsc::channel();
        for thread in 0..self.threads.len() {
            let reply = reply.clone();
            self.tell(thread, GeneratorCommand::Harvest { until_ms, reply });
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

    /// How many ticks up to `until_ms` have not come yet, over all clients.
    pub(crate) fn lacking(&self, until_ms: i64) -> u64 {
        let (reply, answers) = mpsc::channel();
        for thread in 0..self.threads.len() {
            let reply = reply.clone();
            self.tell(thread, GeneratorCommand::Lacking { until_ms, reply });
        }
        drop(reply);
        answers.into_iter().sum()
    }

    /// Clients that have been served so far.
    pub(crate) fn served(&self) -> u64 {
        self.shared.subscribed.load(Ordering::Relaxed)
    }

    /// Clients that have been served, and connections that failed or ended, so far.
    pub(crate) fn done(&self) -> u64 {
        let GeneratorShared {
            subscribed, ended, ..
        } = &*self.shared;
        subscribed.load(Ordering::Relaxed) + ended.load(Ordering::Relaxed)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.threads.len()).unwrap_or(u32::MAX)
    }

    fn tell(&self, thread: usize, command: GeneratorCommand) {
        // One that has ended says so when it is asked.
        let _ = self.threads[thread].commands.send(command);
    }

    /// Ends all threads and returns why one of them had ended before, with that thread's own error if
    /// there is one.
    fn stop(&mut self) -> anyhow::Error {
        const ENDED: &str = "a thread of the load generator has ended";
        let threads = std::mem::take(&mut self.threads).into_iter();
        // Without a sender of commands each of them ends.
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

/// Numbers of clients begin anew after so many: by then the first have gone long since.
const SOURCES_MAX: u32 = 200 * CLIENTS_PER_SOURCE;

/// How many of `count` each of `threads` has.
fn shares(count: u32, threads: u32) -> impl Iterator<Item = (usize, u32)> {
    (0..threads).map(move |thread| {
        let share = count / threads + u32::from(thread < count % threads);
        (thread as usize, share)
    })
}

fn start(
    index: u64,
    own_files: bool,
    tells_time: bool,
    setup: &Arc<ClientSetup>,
    shared: &Arc<GeneratorShared>,
) -> anyhow::Result<GeneratorThread> {
    let (commands, received) = mpsc::channel();
    let (says_ready, ready) = mpsc::channel();
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
                Worker::new(setup, shared, received, tells_time)
            };
            match prepare() {
                Ok(worker) => {
                    let _ = says_ready.send(Ok(()));
                    worker.run()
                }
                Err(error) => {
                    // Whoever starts it waits for this.
                    let _ = says_ready.send(Err(error));
                    Ok(())
                }
            }
        })?;
    ready
        .recv()
        .context("a thread of the load generator has ended")?
        .context(
            "a thread of the load generator can't have a CPU or a table of open files of its own",
        )?;
    Ok(GeneratorThread { commands, handle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_ended_says_why() {
        let (commands, _) = mpsc::channel();
        let handle = std::thread::spawn(|| Err(std::io::Error::other("the epoll is gone")));
        let mut generator = Generator {
            shared: Arc::default(),
            threads: vec![GeneratorThread { commands, handle }],
            told: 0,
            by_source: false,
        };
        let error = generator.harvest(None).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "a thread of the load generator has ended: the epoll is gone"
        );
    }

    #[test]
    fn clients_are_shared_out_evenly_and_all_of_them() {
        let shared_out: Vec<_> = shares(10, 4).collect();
        assert_eq!(shared_out, [(0, 3), (1, 3), (2, 2), (3, 2)]);
        assert_eq!(shares(2, 3).map(|(_, share)| share).sum::<u32>(), 2);
    }
}
