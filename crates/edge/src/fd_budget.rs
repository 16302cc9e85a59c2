//! How many of the open files that a limit allows are for clients. The limit holds for a table of
//! open files: usually a process has one; an edge may give each of its shards one of its own.

/// Open files of a table that are no clients' connections: listeners, epolls, timers, the admin
/// port, NATS, files read again, and newcomers that are being turned away.
pub(crate) const RESERVED: u64 = 256;

/// What a hundred connections need places for: the kernel does not spread them over the shards
/// quite evenly.
const PLACES_FOR_100: usize = 103;

/// Which tables of open files an edge has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdTables {
    /// One for the whole process.
    Shared,
    /// One for each shard beside it.
    PerShard,
}

tickstorm_service::choices!(FdTables: "shared" => Self::Shared, "per-shard" => Self::PerShard);

/// Too few shards for so many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "SHARDS={shards} is too few for FD_TABLES=per-shard with MAX_CONNECTIONS={connections}: each shard's table has {limit} open \
     files at most, {RESERVED} of which are no clients', so it takes {needed}; set SHARDS so, lower MAX_CONNECTIONS to {connections_max}, \
     or raise the limit (ulimit -n, LimitNOFILE)"
)]
pub struct TooFewShards {
    shards: usize,
    connections: usize,
    limit: u64,
    needed: Needed,
    connections_max: usize,
}

/// How many shards would do; none where a table has no room at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needed(Option<usize>);

impl std::fmt::Display for Needed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(shards) => write!(f, "{shards} or more"),
            None => f.write_str("a higher limit, however many there are"),
        }
    }
}

/// The places for clients in a table of at most `limit` open files.
pub(crate) fn room(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX)
}

/// Checks that `shards` tables of at most `limit` open files each hold `connections`.
pub(crate) fn check_shards(
    shards: usize,
    connections: usize,
    limit: u64,
) -> Result<(), TooFewShards> {
    let room = room(limit);
    let places = connections.saturating_mul(PLACES_FOR_100).div_ceil(100);
    if shards.saturating_mul(room) >= places {
        return Ok(());
    }
    Err(TooFewShards {
        shards,
        connections,
        limit,
        needed: Needed((room > 0).then(|| places.div_ceil(room))),
        connections_max: shards.saturating_mul(room).saturating_mul(100) / PLACES_FOR_100,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_take_six_shards_of_twenty_thousand_files() {
        assert_eq!(check_shards(6, 100_000, 20_000), Ok(()));
        let text = check_shards(5, 100_000, 20_000).unwrap_err().to_string();
        for part in [
            "SHARDS=5 ",
            "MAX_CONNECTIONS=100000:",
            " 20000 ",
            " 256 ",
            "takes 6 or more",
            "lower MAX_CONNECTIONS to 95844,",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }

    #[test]
    fn what_the_error_asks_for_is_enough_and_one_less_is_not() {
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
    fn without_room_in_a_table_no_number_of_shards_does() {
        let error = check_shards(256, 1, RESERVED).unwrap_err().to_string();
        assert!(error.contains("it takes a higher limit"), "{error}");
    }
}
