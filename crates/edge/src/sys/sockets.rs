//! Which sockets of a thread are ready: an epoll for them alone, which tokio waits for as for one descriptor. With tokio's own, a socket
//! takes an entry and a task, each an aligned allocation, and newcomers are told of as writable, which nobody waits for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What is asked about at first: input, and its end. Failures are told of without being asked about.
const INPUT: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);
/// Nothing comes after what is there now.
const ENDED: EpollFlags = EpollFlags::EPOLLRDHUP
    .union(EpollFlags::EPOLLHUP)
    .union(EpollFlags::EPOLLERR);
/// Sockets told of by one call.
const EVENTS: usize = 32;

/// The sockets of one thread. Each is told of once when something comes, by the number it was put in with.
#[derive(Debug)]
pub(crate) struct Sockets(Epoll);

/// Those that are ready.
pub(crate) struct Ready {
    events: [EpollEvent; EVENTS],
    told: usize,
}

/// What is told of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) number: u32,
    events: EpollFlags,
}

impl Told {
    /// Whether there is input, or its end, or a failure to be read.
    pub(crate) fn has_input(self) -> bool {
        self.events.intersects(EpollFlags::EPOLLIN | ENDED)
    }

    /// Whether its input has ended or it has failed, of which no other event tells: it is to be read until that is seen.
    pub(crate) fn has_ended(self) -> bool {
        self.events.intersects(ENDED)
    }

    /// Whether it takes output, or has failed.
    pub(crate) fn takes_output(self) -> bool {
        self.events.intersects(EpollFlags::EPOLLOUT | ENDED)
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl Sockets {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Tells of `socket` by `number` from now on; at once, if there is something already.
    pub(crate) fn add(&self, socket: &impl AsFd, number: u32) -> io::Result<()> {
        Ok(self.0.add(socket, EpollEvent::new(INPUT, number.into()))?)
    }

    /// Tells of nothing of it any more.
    pub(crate) fn remove(&self, socket: &impl AsFd) -> io::Result<()> {
        Ok(self.0.delete(socket)?)
    }

    /// Tells of it once more if it has input, or takes output, and from now on when it takes output again, too.
    pub(crate) fn tell_again(&self, socket: &impl AsFd, number: u32) -> io::Result<()> {
        let mut event = EpollEvent::new(INPUT | EpollFlags::EPOLLOUT, number.into());
        Ok(self.0.modify(socket, &mut event)?)
    }

    /// Looks which are ready, without waiting.
    pub(crate) fn look(&self, ready: &mut Ready) -> io::Result<()> {
        ready.told = 0;
        ready.told = self.0.wait(&mut ready.events, EpollTimeout::ZERO)?;
        Ok(())
    }
}

impl Ready {
    pub(crate) fn new() -> Self {
        Self {
            events: [EpollEvent::empty(); EVENTS],
            told: 0,
        }
    }

    /// Whether there may be others.
    pub(crate) fn is_full(&self) -> bool {
        self.told == EVENTS
    }

    /// What is told of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Told> {
        self.events[..self.told].iter().filter_map(|event| {
            Some(Told {
                // What was put in were numbers of 32 bits.
                number: u32::try_from(event.data()).ok()?,
                events: event.events(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    const NONE: [u32; 0] = [];

    fn pair() -> (UnixStream, UnixStream) {
        let (mine, theirs) = UnixStream::pair().unwrap();
        mine.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (mine, theirs)
    }

    fn told(sockets: &Sockets) -> Vec<u32> {
        let mut ready = Ready::new();
        sockets.look(&mut ready).unwrap();
        ready.iter().map(|told| told.number).collect()
    }

    #[test]
    fn input_is_told_of_once_and_again_where_asked() {
        let sockets = Sockets::new().unwrap();
        let (mine, mut theirs) = pair();
        sockets.add(&mine, 7).unwrap();
        assert_eq!(told(&sockets), NONE, "it takes output, but nobody asked");
        theirs.write_all(b"x").unwrap();
        assert_eq!(told(&sockets), [7]);
        assert_eq!(told(&sockets), NONE);
        sockets.tell_again(&mine, 7).unwrap();
        assert_eq!(told(&sockets), [7]);
        theirs.write_all(b"y").unwrap();
        drop(theirs);
        let mut ready = Ready::new();
        sockets.look(&mut ready).unwrap();
        let ended: Vec<_> = ready.iter().map(Told::has_ended).collect();
        assert_eq!(ended, [true], "input and its end come at once");
    }

    #[test]
    fn one_that_was_taken_out_is_not_told_of_though_it_is_open() {
        let sockets = Sockets::new().unwrap();
        let (mine, mut theirs) = pair();
        sockets.add(&mine, 7).unwrap();
        theirs.write_all(b"x").unwrap();
        sockets.remove(&mine).unwrap();
        assert_eq!(told(&sockets), NONE);
        sockets.add(&mine, 8).unwrap();
        assert_eq!(told(&sockets), [8]);
    }

    #[test]
    fn one_that_was_full_is_told_of_each_time_it_takes_output_again() {
        let sockets = Sockets::new().unwrap();
        let (mut mine, mut theirs) = pair();
        sockets.add(&mine, 0).unwrap();
        while mine.write(&[0; 4_096]).is_ok() {}
        sockets.tell_again(&mine, 0).unwrap();
        for _ in 0..3 {
            assert_eq!(told(&sockets), NONE);
            while theirs.read(&mut [0; 65_536]).is_ok() {}
            assert_eq!(told(&sockets), [0]);
            while mine.write(&[0; 4_096]).is_ok() {}
        }
    }

    #[test]
    fn more_than_are_told_of_at_a_time_come_in_turn() {
        let sockets = Sockets::new().unwrap();
        let pairs: Vec<_> = (0..2 * EVENTS).map(|_| pair()).collect();
        for (number, (mine, theirs)) in (0..).zip(&pairs) {
            sockets.add(mine, number).unwrap();
            (&mut &*theirs).write_all(b"x").unwrap();
        }
        let mut all = told(&sockets);
        assert_eq!(all.len(), EVENTS);
        all.extend(told(&sockets));
        all.sort_unstable();
        assert!(all.into_iter().eq((0..).take(2 * EVENTS)));
        assert_eq!(told(&sockets), NONE);
    }
}
