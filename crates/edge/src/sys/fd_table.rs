//! A table of open files of a thread's own, by which one process holds more sockets than the limit
//! of open files lets it.
//!
//! What was opened before [`separate`] stands in both tables under the same number: so do the
//! eventfds by which threads wake each other, and so must every shard's. What is opened after it
//! has a number in its own thread's table only, where another thread's number names a stranger: no
//! descriptor may cross threads from then on.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::close;

/// Gives this thread a table of its own. Of what it shared with others it keeps all but their
/// connections and listeners: a copy left here would keep those open when their owner closes them.
/// None is this thread's, since it makes its first one after this.
pub(crate) fn separate() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FILES)?;
    let inherited: Vec<RawFd> = numbers(&FdTable::of_this_thread()?.0)?;
    for fd in inherited.into_iter().filter(|fd| is_of_the_network(*fd)) {
        close(fd)?;
    }
    Ok(())
}

/// A thread's table of open files, as any other thread may look at it.
#[derive(Clone, Debug)]
pub(crate) struct FdTable(PathBuf);

impl FdTable {
    /// The table of the thread that asks.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let thread = fs::read_link("/proc/thread-self")?;
        Ok(Self(Path::new("/proc").join(thread).join("fd")))
    }

    /// The table of the process's first thread, and of all others that have none of their own.
    pub(crate) fn of_process() -> Self {
        Self("/proc/self/fd".into())
    }

    /// How many open files stand in it.
    pub(crate) fn len(&self) -> io::Result<usize> {
        let told = usize::try_from(fs::metadata(&self.0)?.len()).unwrap_or(usize::MAX);
        if told > 0 {
            return Ok(told);
        }
        // A kernel before 6.2 does not say: they are counted.
        Ok(numbers(&self.0)?.len())
    }
}

/// The descriptors in a table, but for the one by which they are listed.
fn numbers(table: &Path) -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(table)? {
        let entry = entry?;
        // A name that is no number there would be: the kernel gives none.
        numbers.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<RawFd>().ok()),
        );
    }
    Ok(numbers)
}

/// Whether `fd` is a socket of IP. Others stay: by such a pair tokio hears of signals in every
/// runtime.
fn is_of_the_network(fd: RawFd) -> bool {
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
    fn a_table_of_its_own_holds_what_is_opened_after_it_and_no_other_threads_connections() {
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
            "the connection ends with its owner, while the other table is there"
        );
        go.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn counting_says_what_the_kernel_says() {
        thread::spawn(|| {
            separate().unwrap();
            let table = FdTable::of_this_thread().unwrap();
            // The list is one open file itself.
            assert_eq!(numbers(&table.0).unwrap().len(), table.len().unwrap() + 1);
        })
        .join()
        .unwrap();
    }
}
