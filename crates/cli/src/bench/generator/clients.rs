//! The clients of a thread, by the place that their events name.

use std::collections::VecDeque;

use super::client::Client;

/// Clients and free places. A place is given anew as soon as it is free: whoever looks at events looks at the client's state.
#[derive(Default)]
pub(super) struct Clients {
    at: Vec<Option<Client>>,
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
            u32::try_from(self.at.len() - 1).expect("fewer clients than descriptors")
        })
    }

    /// Puts a client at a place of [`Clients::place`].
    pub(super) fn enter(&mut self, place: u32, mut client: Client) {
        self.entered += 1;
        client.id = self.entered;
        self.order.push_back((place, client.id));
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

    pub(super) fn remove(&mut self, place: u32) -> Option<Client> {
        let client = self.at.get_mut(place as usize)?.take()?;
        self.free.push(place);
        self.count -= 1;
        Some(client)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Client> {
        self.at.iter().flatten()
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
    pub(super) fn walk(&mut self) -> Option<&mut Client> {
        let len = self.at.len().max(1);
        self.walked = (self.walked + 1) % len;
        self.at.get_mut(self.walked)?.as_mut()
    }

    /// How many places there are, empty ones too.
    pub(super) fn places(&self) -> usize {
        self.at.len()
    }
}
