//! Runs work that takes longer than a fraction of a millisecond, such as encoding metrics, at low
//! priority, so that it gives way to threads that have to be on time, above all an edge's shards.

use std::{io, thread};

use tokio::sync::oneshot;

/// How much nicer the work's thread is than others. It gets about a tenth of a core that another
/// thread also wants, so the work is still done on a busy machine.
const NICENESS: i32 = 10;

/// Runs `work` on a thread of its own at low priority, and returns its result. A thread can lower
/// its priority but not raise it again, so none is used twice; starting one takes about 50 µs.
///
/// While it waits for its turn, another thread of the same core must wait for up to 3 ms. Long work
/// should therefore call [`thread::yield_now`] every tenth of a millisecond or so.
///
/// # Errors
/// Returns an error if the system has no thread left, or if `work` panics.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (reply, result) = oneshot::channel();
    thread::Builder::new()
        .name("low-priority".into())
        .spawn(move || {
            lower();
            // The caller may have gone away meanwhile.
            let _ = reply.send(work());
        })?;
    result
        .await
        .map_err(|_| io::Error::other("work at low priority panicked"))
}

/// Lowers the priority of this thread, which can't be raised again.
pub(crate) fn lower() {
    // On Linux, this concerns the calling thread only. If the system refuses, the work is done all
    // the same.
    let _ = rustix::process::nice(NICENESS);
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn only_the_thread_of_the_work_has_a_low_priority() {
        let before = getpriority_process(None).unwrap();
        let during = run(|| getpriority_process(None).unwrap()).await.unwrap();
        assert_eq!(during, (before + NICENESS).min(19));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
