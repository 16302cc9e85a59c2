//! [`Leaving`]: connections that will be closed, in the order of the moments at which they will be.

use std::collections::VecDeque;

use tickstorm_timebase::Mono;

use super::key::Key;

/// Connections that will be closed, each with its moment. One that has left by itself stays in the
/// queue until then, and is skipped.
#[derive(Default)]
pub(super) struct Leaving {
    queue: VecDeque<(Key, Mono)>,
}

impl Leaving {
    /// Adds a connection, which is closed at `close_at`, or when the one before it is if that is
    /// later.
    pub(super) fn push(&mut self, key: Key, close_at: Mono) {
        let last = self.queue.back().map_or(Mono::ZERO, |(_, last)| *last);
        self.queue.push_back((key, close_at.max(last)));
    }

    /// Returns when the next connection is closed; [`Mono::NEVER`] if there is none.
    pub(super) fn due(&self) -> Mono {
        self.queue.front().map_or(Mono::NEVER, |(_, due)| *due)
    }

    /// Returns the next connection that must be closed by `now`. The queue's memory is freed when
    /// it is empty.
    pub(super) fn pop(&mut self, now: Mono) -> Option<Key> {
        let (key, _) = self.queue.pop_front_if(|(_, due)| *due <= now)?;
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(key)
    }

    /// Returns when a connection is closed, if it is in the queue. This looks at the whole queue.
    pub(super) fn close_at(&self, key: Key) -> Option<Mono> {
        let mut queue = self.queue.iter();
        queue.find(|(of, _)| *of == key).map(|(_, at)| *at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
