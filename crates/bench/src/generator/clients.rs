//! The clients of a thread, by the place that their events name.

use std::collections::VecDeque;

use socket2::Socket;

use super::client::{LoadClient, LoadReader};

/// Clients and free places. A place is given anew as soon as it is free: whoever looks at events looks at the client's state.
#[derive(Default)]
pub(super) struct LoadClients {
    at: Vec<Option<LoadClient>>,
    /// At the same places.
    readers: Vec<LoadReader>,
    free: Vec<u32>,
    /// In the order in which they came; those that have gone since are passed over.
    order: VecDeque<(u32, u64)>,
    entered: u64,
    count: usize,
    /// Where the walk of the heartbeats is.
    walked: usize,
}

impl LoadClients {
    /// A place for one more.
    pub(super) fn place(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.at.push(None);
            self.readers.push(LoadReader::NOBODY);
            u32::try_from(self.at.len() - 1).expect("fewer clients than descriptors")
        })
    }

    /// Puts a client at a place of [`LoadClients::place`].
    pub(super) fn enter(&mut self, place: u32, socket: Socket, mut client: LoadClient) {
        self.entered += 1;
        client.id = self.entered;
        self.order.push_back((place, client.id));
        self.readers[place as usize] = LoadReader {
            socket: Some(socket),
            ..LoadReader::NOBODY
        };
        self.at[place as usize] = Some(client);
        self.count += 1;
    }

    /// Gives back a place that nobody has taken.
    pub(super) fn give_back(&mut self, place: u32) {
        self.free.push(place);
    }

    pub(super) fn of(&mut self, place: u32) -> Option<&mut LoadClient> {
        self.at.get_mut(place as usize)?.as_mut()
    }

    /// What each message needs of the client at a place.
    pub(super) fn reader(&mut self, place: u32) -> Option<&mut LoadReader> {
        let reader = self.readers.get_mut(place as usize)?;
        reader.socket.is_some().then_some(reader)
    }

    /// The socket of the client at a place.
    pub(super) fn socket(&self, place: u32) -> Option<&Socket> {
        self.readers.get(place as usize)?.socket.as_ref()
    }

    /// Lets the processor fetch what the client at a place needs, to which something comes soon. It waits for what it reads before the next
    /// system call begins, but not for what it writes.
    pub(super) fn look_ahead(&mut self, place: u32) {
        if let Some(reader) = self.readers.get_mut(place as usize) {
            reader.fetched = true;
        }
    }

    pub(super) fn remove(&mut self, place: u32) -> Option<(LoadClient, LoadReader)> {
        let client = self.at.get_mut(place as usize)?.take()?;
        let reader = std::mem::replace(&mut self.readers[place as usize], LoadReader::NOBODY);
        self.free.push(place);
        self.count -= 1;
        Some((client, reader))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The readers of all.
    pub(super) fn readers(&self) -> impl Iterator<Item = &LoadReader> {
        let all = self.readers.iter();
        all.filter(|reader| reader.socket.is_some())
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
    pub(super) fn walk(&mut self) -> Option<(&mut LoadClient, &LoadReader, &Socket)> {
        let len = self.at.len().max(1);
        self.walked = (self.walked + 1) % len;
        self.all_of(u32::try_from(self.walked).ok()?)
    }

    /// The client at a place, what each message needs of it, and its socket.
    pub(super) fn all_of(&mut self, place: u32) -> Option<(&mut LoadClient, &LoadReader, &Socket)> {
        let client = self.at.get_mut(place as usize)?.as_mut()?;
        let reader = &self.readers[place as usize];
        Some((client, reader, reader.socket.as_ref()?))
    }

    /// How many places there are, empty ones too.
    pub(super) fn places(&self) -> usize {
        self.at.len()
    }
}
