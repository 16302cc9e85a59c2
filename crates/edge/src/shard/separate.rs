//! A shard's own table of open files: had once, after all shards have built their runtimes and before any of them listens; and
//! what follows from it for who may come in.

use std::io;

use super::Shard;
use crate::admission::{OVERFLOW_MAX, Permit};
use crate::fd_budget::RESERVED;
use crate::sys::fd_table::{self, Table};

/// Open files that a shard has beside those at hand when it begins and its connections: its listener, what closes a little later than
/// it is counted out.
const SPARE: usize = 16;

impl Shard {
    /// Gives this shard's thread a table of its own, of at most `limit`, and bounds its connections by that.
    pub(super) fn separate(&self, limit: u64) -> io::Result<Table> {
        fd_table::separate()?;
        let table = Table::of_this_thread()?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let reserved = usize::try_from(RESERVED).unwrap_or(usize::MAX);
        // Many shards' wakers alone may need more than what is reserved.
        let others = reserved.max(table.len()? + OVERFLOW_MAX + SPARE);
        self.places.set(limit.saturating_sub(others));
        Ok(table)
    }

    /// A newcomer's place among all connections and in this shard's table; one of those told SERVER_FULL where either is full; none
    /// where too many are being told.
    pub(super) fn place(&self) -> Option<Permit> {
        if self.inside.get() < self.places.get() {
            self.shared.admission.enter()
        } else {
            self.shared.admission.enter_overflow()
        }
    }
}
