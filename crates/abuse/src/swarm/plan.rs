//! [`SwarmPlan`]: what a swarm does, from which addresses, and how fast.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use tickstorm_bench::ClientTls;

use super::Login;
use crate::script::Script;

/// The source addresses of a swarm.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Sources {
    /// All connections have the same address.
    One(Ipv4Addr),
    /// Each connection has one of `count` addresses that follow `first`, in an order that puts
    /// neighbours far apart.
    Many { first: Ipv4Addr, count: u32 },
    /// Each connection has the address after that of the previous one, of `count` addresses.
    Consecutive { first: Ipv4Addr, count: u32 },
}

/// What happens after a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reopen {
    /// Another one is opened as soon as the rate allows.
    AtOnce,
    /// Another one is opened after the wait of a well-behaved client.
    WithBackoff,
}

/// The plan of a swarm.
pub(crate) struct SwarmPlan {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) login: Login,
    /// Connections follow these scripts in turn.
    pub(crate) scripts: Vec<Script>,
    pub(crate) sources: Sources,
    /// The most connections at a time.
    pub(crate) connections: u32,
    pub(crate) opens_per_second: u32,
    pub(crate) reopen: Reopen,
}

impl Sources {
    /// Returns the source address of a connection, or the one this many addresses after it.
    pub(super) fn of(self, number: u32, neighbours: u32) -> Ipv4Addr {
        /// An odd number, so that the order visits every address of a power of two.
        const STRIDE: u32 = 2_654_435_761;
        let (first, index) = match self {
            Self::One(address) => (address, 0),
            Self::Many { first, count } => (first, number.wrapping_mul(STRIDE) % count.max(1)),
            Self::Consecutive { first, count } => (first, number % count.max(1)),
        };
        Ipv4Addr::from(u32::from(first).saturating_add(index + neighbours))
    }
}
