//! The number of clients that fit under the open-file limit. The limit applies to each file
//! descriptor table. A process usually has one table; an edge may give each of its shards its own.

/// Open files per table that are not client connections: listeners, epolls, timers, the admin port,
/// NATS, files that are reread, and new connections that are being refused.
pub(crate) const RESERVED: u64 = 256;

/// The slots that a hundred connections need across all tables: three to spare, since the kernel
/// does not spread connections over the shards quite evenly.
const SLOTS_FOR_100: usize = 103;

/// The file descriptor tables of an edge, as set by FD_TABLES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdTables {
    /// One table for the whole process.
    Shared,
    /// A separate table for each shard, besides the table of the process.
    PerShard,
}

tickstorm_service::choices!(FdTables: "shared" => Self::Shared, "per-shard" => Self::PerShard);

/// The shards' file descriptor tables have no room for MAX_CONNECTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "SHARDS={shards} is too few for FD_TABLES=per-shard with MAX_CONNECTIONS={connections}: each \
     shard's table holds at most {limit} open files, {RESERVED} of which are not for clients, so \
     {needed}; set SHARDS accordingly, lower MAX_CONNECTIONS to {connections_max}, or raise the \
     limit (ulimit -n, LimitNOFILE)"
)]
pub struct TooFewShards {
    shards: usize,
    connections: usize,
    limit: u64,
    needed: Needed,
    connections_max: usize,
}

/// The smallest sufficient number of shards; `None` if a table has no room for any client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needed(Option<usize>);

impl std::fmt::Display for Needed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(shards) => write!(f, "at least {shards} shards are needed"),
            None => f.write_str("no number of shards is enough without a higher limit"),
        }
    }
}

/// Returns the number of clients that fit into a table of at most `limit` open files.
pub(crate) fn room(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX)
}

/// Checks that `shards` tables of at most `limit` open files each have room for `connections`.
pub(crate) fn check_shards(
    shards: usize,
    connections: usize,
    limit: u64,
) -> Result<(), TooFewShards> {
    let room = room(limit);
    let slots = connections.saturating_mul(SLOTS_FOR_100).div_ceil(100);
    if shards.saturating_mul(room) >= slots {
        return Ok(());
    }
    Err(TooFewShards {
        shards,
        connections,
        limit,
        needed: Needed((room > 0).then(|| slots.div_ceil(room))),
        connections_max: shards.saturating_mul(room).saturating_mul(100) / SLOTS_FOR_100,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_connections_need_six_shards_of_twenty_thousand_files() {
        assert_eq!(check_shards(6, 100_000, 20_000), Ok(()));
        let text = check_shards(5, 100_000, 20_000).unwrap_err().to_string();
        for part in [
            "SHARDS=5 ",
            "MAX_CONNECTIONS=100000:",
            " 20000 ",
            " 256 ",
            "at least 6 shards are needed",
            "lower MAX_CONNECTIONS to 95844,",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }

    #[test]
    fn the_numbers_in_the_error_are_enough_and_one_shard_less_is_not() {
        for (connections, limit) in [(1, 257), (103, 356), (100_000, 1_024), (1_000_000, 65_536)] {
            let error = check_shards(0, connections, limit).unwrap_err();
            let needed = error.needed.0.unwrap();
            assert_eq!(check_shards(needed, connections, limit), Ok(()));
            let fewer = check_shards(needed - 1, connections, limit).unwrap_err();
            assert_eq!(
                check_shards(needed - 1, fewer.connections_max, limit),
                Ok(())
            );
            assert!(check_shards(needed - 1, fewer.connections_max + 1, limit).is_err());
        }
    }

    #[test]
    fn if_a_table_has_no_room_no_number_of_shards_is_enough() {
        let error = check_shards(256, 1, RESERVED).unwrap_err().to_string();
        assert!(error.contains("without a higher limit"), "{error}");
    }
}
