//! Measures how punctually this machine wakes a thread that does nothing else: the baseline against
//! which to judge an edge's own lateness. Each thread, one per core, waits the way a shard waits
//! for its tick: on a timerfd until 150 µs before the moment, then spinning.
//!
//! `cargo run --release -p tickstorm-edge --example timer_noise [WAITS]`
//!
//! WAITS is the number of waits per thread, 100 ms each; the default is 400.

use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use tickstorm_timebase::{Clock, Mono, SystemClock};
use tickstorm_timer::{TimerFd, Wait};

const PERIOD: Duration = Duration::from_millis(100);

fn main() -> anyhow::Result<()> {
    let waits = std::env::args()
        .nth(1)
        .map_or(Ok(400), |text| text.parse::<u32>());
    let waits = waits.context("usage: timer_noise [WAITS]")?.max(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let start = SystemClock.now() + PERIOD;
    let threads: Vec<_> = (0..cores)
        .map(|_| std::thread::spawn(move || wait(start, waits)))
        .collect();
    let mut late = Vec::new();
    for thread in threads {
        late.extend(thread.join().expect("a waiting thread does not panic")?);
    }
    late.sort_unstable();
    let percentile_us = |percent: usize| late[(late.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    let [p50, p95, p99, max] = [50, 95, 99, 100].map(percentile_us);
    println!(
        "{} waits, lateness in µs: p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}, max {max:.1}",
        late.len()
    );
    Ok(())
}

/// Waits for `waits` moments, one per period from `start` on, and returns the lateness of each.
fn wait(start: Mono, waits: u32) -> anyhow::Result<Vec<Duration>> {
    let timer = TimerFd::new()?;
    let moments = (0..waits).map(|n| start + PERIOD * n);
    moments
        .map(|due| {
            while let Wait::Sleep(sleep) = Wait::plan(due.since(SystemClock.now()), true) {
                timer.set(sleep)?;
                poll(&mut [PollFd::new(&timer, PollFlags::IN)], None)?;
            }
            while SystemClock.now() < due {
                std::hint::spin_loop();
            }
            Ok(SystemClock.now().since(due))
        })
        .collect()
}
