//! The clients of a thread, in slots that their epoll events name.

use std::collections::VecDeque;

use socket2::Socket;

use super::channel::ClientChannel;
use super::client::{LoadClient, LoadReader};

/// Clients and free slots. A slot is reused as soon as it is free, so the handler of an event
/// checks the client's state.
#[derive(Default)]
pub(super) struct LoadClients {
    at: Vec<Option<LoadClient>>,
    /// The hot half of each client, in the same slots.
    readers: Vec<LoadReader>,
    /// The channel of each client, in the same slots.
    channels: Vec<ClientChannel>,
    free: Vec<u32>,
    /// Slots and ids in the order in which clients connected. Clients that have left since are
    /// skipped.
    order: VecDeque<(u32, u64)>,
    entered: u64,
    count: usize,
    /// The current slot of the walk that sends heartbeats.
    walked: usize,
}

/// The parts of one client.
pub(super) struct ClientParts<'a> {
    pub(super) client: &'a mut LoadClient,
    pub(super) reader: &'a LoadReader,
    pub(super) socket: &'a Socket,
    pub(super) channel: &'a mut ClientChannel,
}

impl LoadClients {
    /// Reserves a slot for a new client.
    pub(super) fn reserve(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.at.push(None);
            self.readers.push(LoadReader::EMPTY);
            self.channels.push(ClientChannel::Plain);
            u32::try_from(self.at.len() - 1).expect("fewer clients than descriptors")
        })
    }

    /// Puts a client into a slot returned by [`LoadClients::reserve`].
    pub(super) fn enter(&mut self, slot: u32, socket: Socket, mut client: LoadClient) {
        self.entered += 1;
        client.id = self.entered;
        self.order.push_back((slot, client.id));
        self.readers[slot as usize] = LoadReader {
            socket: Some(socket),
            ..LoadReader::EMPTY
        };
        self.at[slot as usize] = Some(client);
        self.count += 1;
    }

    /// Releases a reserved slot that was not used.
    pub(super) fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    pub(super) fn of(&mut self, slot: u32) -> Option<&mut LoadClient> {
        self.at.get_mut(slot as usize)?.as_mut()
    }

    /// Returns the hot half of the client in a slot.
    pub(super) fn reader(&mut self, slot: u32) -> Option<&mut LoadReader> {
        let reader = self.readers.get_mut(slot as usize)?;
        reader.socket.is_some().then_some(reader)
    }

    /// Returns the channel of the client in a slot.
    pub(super) fn channel(&mut self, slot: u32) -> Option<&mut ClientChannel> {
        self.channels.get_mut(slot as usize)
    }

    /// Returns the socket of the client in a slot.
    pub(super) fn socket(&self, slot: u32) -> Option<&Socket> {
        self.readers.get(slot as usize)?.socket.as_ref()
    }

    /// Makes the processor fetch the data of a client that will have an event soon. A write is used
    /// because the processor waits for reads, but not for writes, before the next system call
    /// starts.
    pub(super) fn prefetch(&mut self, slot: u32) {
        if let Some(reader) = self.readers.get_mut(slot as usize) {
            reader.fetched = true;
        }
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<(LoadClient, LoadReader)> {
        let client = self.at.get_mut(slot as usize)?.take()?;
        let reader = std::mem::replace(&mut self.readers[slot as usize], LoadReader::EMPTY);
        self.channels[slot as usize] = ClientChannel::Plain;
        self.free.push(slot);
        self.count -= 1;
        Some((client, reader))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns the readers of all clients.
    pub(super) fn readers(&self) -> impl Iterator<Item = &LoadReader> {
        let all = self.readers.iter();
        all.filter(|reader| reader.socket.is_some())
    }

    /// Returns the slots of the `count` oldest clients, which stay where they are.
    pub(super) fn oldest(&mut self, count: usize) -> Vec<u32> {
        let Self { order, at, .. } = self;
        order.retain(|(slot, id)| {
            at[*slot as usize]
                .as_ref()
                .is_some_and(|client| client.id == *id)
        });
        order.iter().take(count).map(|(slot, _)| *slot).collect()
    }

    /// Returns the next slot of an endless walk over all slots, or `None` if it is empty.
    pub(super) fn walk(&mut self) -> Option<u32> {
        let len = self.at.len().max(1);
        self.walked = (self.walked + 1) % len;
        self.at.get(self.walked)?.as_ref()?;
        u32::try_from(self.walked).ok()
    }

    /// Returns the parts of the client in a slot.
    pub(super) fn parts_of(&mut self, slot: u32) -> Option<ClientParts<'_>> {
        let client = self.at.get_mut(slot as usize)?.as_mut()?;
        let reader = &self.readers[slot as usize];
        Some(ClientParts {
            client,
            reader,
            socket: reader.socket.as_ref()?,
            channel: &mut self.channels[slot as usize],
        })
    }

    /// Returns the number of slots, including empty ones.
    pub(super) fn slot_count(&self) -> usize {
        self.at.len()
    }
}
