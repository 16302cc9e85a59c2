//! The edge's system calls, through the safe functions of `rustix`, `nix` and `socket2`. `nix` is
//! used only for calls that `rustix` offers as unsafe functions: sending to a descriptor by its
//! number, as the hot loop does, and unshare(2).

pub(crate) mod fd_table;
pub(crate) mod heap;
pub(crate) mod kernel;
pub(crate) mod network;
pub(crate) mod proxied;
mod round_trip;
pub(crate) mod secured;
pub(crate) mod socket;
pub(crate) mod socket_memory;
mod tcp_info;
pub(crate) mod traffic;
pub(crate) mod waker;
