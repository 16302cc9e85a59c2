//! The clients of a thread, by the place that their events name.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;

use super::client::{Client, Pace, Reader};

/// So many clients ahead: two lines of the cache.
const AHEAD: usize = 6;

/// At an empty place.
const NOBODY: Reader = Reader {
    socket: -1,
    pace: Pace::Eager,
    account: None,
};

/// Clients and free places. A place is given anew as soon as it is free: whoever looks at events looks at the client's state.
#[derive(Default)]
pub(super) struct Clients {
    at: Vec<Option<Client>>,
    /// At the same places.
    readers: Vec<Reader>,
    free: Vec<u32>,
    /// In the order in which they came; those that have gone since are passed over.
    order: VecDeque<(u32, u64)>,
    entered: u64,
    count: usize,
    /// Where the walk of the heartbeats is.
    walked: usize,
}

impl Clients {
    /// A place for one more.
    pub(super) fn place(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.at.push(None);
            self.readers.push(NOBODY);
            u32::try_from(self.at.len() - 1).expect("fewer clients than descriptors")
        })
    }

    /// Puts a client at a place of [`Clients::place`].
    pub(super) fn enter(&mut self, place: u32, mut client: Client) {
        self.entered += 1;
        client.id = self.entered;
        self.order.push_back((place, client.id));
        self.readers[place as usize] = Reader {
            socket: client.socket.as_raw_fd(),
            ..NOBODY
        };
        self.at[place as usize] = Some(client);
        self.count += 1;
    }

    /// Gives back a place that nobody has taken.
    pub(super) fn give_back(&mut self, place: u32) {
        self.free.push(place);
    }

    pub(super) fn of(&mut self, place: u32) -> Option<&mut Client> {
        self.at.get_mut(place as usize)?.as_mut()
    }

    /// What each message needs of the client at a place.
    pub(super) fn reader(&mut self, place: u32) -> Option<&mut Reader> {
        let reader = self.readers.get_mut(place as usize)?;
        (reader.socket != NOBODY.socket).then_some(reader)
    }

    /// Lets the processor fetch what the clients after this one need, which are the next that something comes to: ticks are sent in the
    /// order in which clients have come.
    pub(super) fn look_ahead(&self, place: u32) {
        let next = self.readers.get(place as usize + AHEAD);
        std::hint::black_box(next.map(|reader| reader.socket));
    }

    pub(super) fn remove(&mut self, place: u32) -> Option<(Client, Reader)> {
        let client = self.at.get_mut(place as usize)?.take()?;
        let reader = std::mem::replace(&mut self.readers[place as usize], NOBODY);
        self.free.push(place);
        self.count -= 1;
        Some((client, reader))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The readers of all.
    pub(super) fn readers(&self) -> impl Iterator<Item = &Reader> {
        let all = self.readers.iter();
        all.filter(|reader| reader.socket != NOBODY.socket)
    }

    /// The places of the `count` oldest, which stay what they are.
    pub(super) fn oldest(&mut self, count: usize) -> Vec<u32> {
        let Self { order, at, .. } = self;
        order.retain(|(place, id)| {
            at[*place as usize]
                .as_ref()
                .is_some_and(|client| client.id == *id)
        });
        order.iter().take(count).map(|(place, _)| *place).collect()
    }

    /// The next of an endless walk over all places; none where that place is empty.
    pub(super) fn walk(&mut self) -> Option<(&mut Client, &Reader)> {
        let len = self.at.len().max(1);
        self.walked = (self.walked + 1) % len;
        self.both(u32::try_from(self.walked).ok()?)
    }

    /// The client at a place, and what each message needs of it.
    pub(super) fn both(&mut self, place: u32) -> Option<(&mut Client, &Reader)> {
        let client = self.at.get_mut(place as usize)?.as_mut()?;
        Some((client, &self.readers[place as usize]))
    }

    /// How many places there are, empty ones too.
    pub(super) fn places(&self) -> usize {
        self.at.len()
    }
}
