//! The loopback addresses of a run. Honest and hostile clients never share one, except in the
//! attacks that are about exactly that.

use std::net::Ipv4Addr;

use crate::swarm::Sources;

/// The first address of the honest crowd, in which each client has its own.
pub(crate) const CROWD: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// The addresses of new honest clients, each of which has its own for a long time.
pub(crate) const NEW_CLIENTS: Sources = Sources::Consecutive {
    first: Ipv4Addr::new(127, 2, 0, 1),
    count: 60_000,
};
/// The network of all hostile addresses.
pub(crate) const HOSTILE_NETWORK: &str = "127.64.0.0/10";
/// The number of addresses of an attack from many. They lie in 1,024 networks of 24 bits.
const MANY: u32 = 1 << 18;
/// The number of attacks that have addresses of their own, so that an edge that remembers one
/// attack's addresses does not judge the next one by it.
const ATTACKS: u32 = 16;

/// Returns the addresses of hostile clients in attack number `attack` of a run.
pub(crate) fn hostile(attack: u32, many: bool) -> Sources {
    let base = u32::from(Ipv4Addr::new(127, 64, 0, 0));
    let first = Ipv4Addr::from(base + attack % ATTACKS * MANY);
    if many {
        Sources::Many { first, count: MANY }
    } else {
        let offset = 1 + attack / ATTACKS % ATTACKS * 256;
        Sources::One(Ipv4Addr::from(u32::from(first) + offset))
    }
}
