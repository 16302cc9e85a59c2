//! Per-thread file descriptor tables, which let one process hold more sockets than the open-file
//! limit.
//!
//! A file opened before [`separate`] has the same descriptor number in both tables. Threads wake
//! each other through eventfds, so every shard's eventfd must be opened before. A file opened
//! afterwards has a number only in its own thread's table. In another thread's table the same
//! number may name an unrelated file, so descriptors must no longer cross threads.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::close;
use tickstorm_service::open_files;

/// Gives this thread its own table. It starts as a copy of the shared table, without connections
/// and listeners: a copy of those would keep them open after their owner closes them. None of them
/// belongs to this thread, since a shard creates its first one after this call.
pub(crate) fn separate() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FILES)?;
    let inherited: Vec<RawFd> = numbers(&FdTable::of_this_thread()?.0)?;
    for fd in inherited.into_iter().filter(|fd| is_ip_socket(*fd)) {
        close(fd)?;
    }
    Ok(())
}

/// A thread's file descriptor table, as seen from any other thread.
#[derive(Clone, Debug)]
pub(crate) struct FdTable(PathBuf);

impl FdTable {
    /// Returns the table of the calling thread.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let thread = fs::read_link("/proc/thread-self")?;
        Ok(Self(Path::new("/proc").join(thread).join("fd")))
    }

    /// Returns the table of the process's first thread. All threads that have not called
    /// [`separate`] share it.
    pub(crate) fn of_process() -> Self {
        Self(open_files::OF_PROCESS.into())
    }

    /// Returns the number of open files in the table.
    pub(crate) fn len(&self) -> io::Result<usize> {
        let count = open_files::count(&self.0)?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

/// Returns the descriptors in a table, including the one that lists the directory if `table` is
/// the caller's own.
fn numbers(table: &Path) -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(table)? {
        let entry = entry?;
        // The kernel gives only numbers as names; anything else is ignored.
        numbers.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<RawFd>().ok()),
        );
    }
    Ok(numbers)
}

/// Returns whether `fd` is an IP socket. Other sockets are kept, since tokio receives signals
/// through a Unix socket pair that all its runtimes share.
fn is_ip_socket(fd: RawFd) -> bool {
    let family = getsockname::<SockaddrStorage>(fd)
        .ok()
        .and_then(|name| name.family());
    matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn a_separate_table_holds_files_opened_later_but_not_other_threads_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mine, _) = listener.accept().unwrap();
        let (pair, _other) = UnixStream::pair().unwrap();
        let (say, separated) = std::sync::mpsc::channel();
        let (go, end) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            separate().unwrap();
            let table = FdTable::of_this_thread().unwrap();
            let before = table.len().unwrap();
            let _files: Vec<_> = (0..5)
                .map(|_| fs::File::open("/dev/null").unwrap())
                .collect();
            assert_eq!(table.len().unwrap(), before + 5);
            assert!(getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&pair)).is_ok());
            say.send(table).unwrap();
            end.recv().unwrap();
        });
        let table = separated.recv().unwrap();
        assert!(table.len().unwrap() >= 5, "seen from another thread");
        drop(mine);
        let ended = theirs.read(&mut [0]).unwrap();
        assert_eq!(
            ended, 0,
            "closing the owner's socket ends the connection while the other table exists"
        );
        go.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn counting_gives_the_same_number_as_the_kernel() {
        thread::spawn(|| {
            separate().unwrap();
            let table = FdTable::of_this_thread().unwrap();
            // Reading the directory takes one more open file.
            assert_eq!(numbers(&table.0).unwrap().len(), table.len().unwrap() + 1);
        })
        .join()
        .unwrap();
    }
}
