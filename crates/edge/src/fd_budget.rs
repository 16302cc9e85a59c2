//! The number of clients that fit under the open-file limit. The limit applies to each file
//! descriptor table. A process usually has one table; an edge may give each of its shards its own.

/// Open files per table that are not client connections: listeners, epolls, timers, the admin port,
/// NATS, files that are reread, and [`LINGERING_MIN`] connections that linger.
pub(crate) const RESERVED: u64 = 256;

/// The connections that may linger in each table even if it has no room to spare.
pub(crate) const LINGERING_MIN: usize = 128;

/// The most connections that may linger in each table. A drain of 100,000 clients over 20 s closes
/// up to 11,500 per second, and each lingers for a round trip; in the kernel they take about 16 MB.
const LINGERING_MAX: usize = 4_096;

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

/// Returns how many connections may linger in a table with room for `room` connections besides
/// [`RESERVED`], of which `wanted` are kept for connections that do not linger.
pub(crate) fn lingering_max(room: usize, wanted: usize) -> usize {
    let spare = room.saturating_sub(wanted);
    (LINGERING_MIN + spare).min(LINGERING_MAX)
}

/// Returns how many open files the process's own table has to spare, with `connections` in it, or
/// with none if the shards have tables of their own.
pub(crate) fn spare(limit: u64, connections: usize, tables: FdTables) -> usize {
    let room = room(limit);
    match tables {
        FdTables::Shared => room.saturating_sub(connections + LINGERING_MAX - LINGERING_MIN),
        FdTables::PerShard => room,
    }
}

/// Returns how many connections the shards' tables must have room for together.
pub(crate) fn slots(connections: usize) -> usize {
    connections.saturating_mul(SLOTS_FOR_100).div_ceil(100)
}

/// Checks that `shards` tables of at most `limit` open files each have room for `connections`.
pub(crate) fn check_shards(
    shards: usize,
    connections: usize,
    limit: u64,
) -> Result<(), TooFewShards> {
    let room = room(limit);
    let slots = slots(connections);
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
    fn connections_that_linger_get_what_a_table_has_to_spare() {
        for (room, wanted, lingering) in [
            (0, 0, 128),
            (1_000, 1_000, 128),
            (1_000, 2_000, 128),
            (1_100, 1_000, 228),
            (1_000_000, 100_000, 4_096),
        ] {
            assert_eq!(lingering_max(room, wanted), lingering, "{room} {wanted}");
        }
    }

    #[test]
    fn files_are_spare_once_all_connections_and_those_that_linger_have_theirs() {
        for (limit, connections, tables, spare) in [
            (1_024, 768, FdTables::Shared, 0),
            (20_000, 10_000, FdTables::Shared, 5_776),
            (20_000, 10_000, FdTables::PerShard, 19_744),
            (100, 0, FdTables::PerShard, 0),
        ] {
            assert_eq!(super::spare(limit, connections, tables), spare, "{limit}");
        }
    }

    #[test]
    fn if_a_table_has_no_room_no_number_of_shards_is_enough() {
        let error = check_shards(256, 1, RESERVED).unwrap_err().to_string();
        assert!(error.contains("without a higher limit"), "{error}");
    }
}
