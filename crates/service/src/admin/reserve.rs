//! File descriptors that the admin port keeps for itself. When the process has run out of them, one
//! of these is closed for each connection, so that health is still answered.

use std::fs::File;

/// The most descriptors that are kept.
const FILES_MAX: usize = super::CONNECTIONS_MIN;

/// The reserved descriptors.
#[derive(Debug, Default)]
pub(super) struct Reserve(Vec<File>);

impl Reserve {
    /// Reserves descriptors, as far as there are any, and gives up those that are too many, so that
    /// there is one for each of the `room` connections that could be opened, up to a bound.
    pub(super) fn keep(&mut self, room: usize) {
        let wanted = room.min(FILES_MAX);
        self.0.truncate(wanted);
        while self.0.len() < wanted {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                Err(_) => return,
            }
        }
    }

    /// Gives up one descriptor. Returns false if there is none.
    pub(super) fn release(&mut self) -> bool {
        self.0.pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_for_the_connections_that_could_be_opened() {
        let mut reserve = Reserve::default();
        for (room, kept) in [(0, 0), (2, 2), (1_000, FILES_MAX), (3, 3), (0, 0)] {
            reserve.keep(room);
            assert_eq!(reserve.0.len(), kept, "{room}");
        }
        reserve.keep(1);
        assert!(reserve.release());
        assert!(!reserve.release());
    }
}
