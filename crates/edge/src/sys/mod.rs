//! The edge's system calls, through the safe functions of `rustix`, `nix` and `socket2`. `nix` is
//! used only where `rustix` offers nothing but unsafe functions: for sending to a descriptor by its
//! number, as the hot loop does, and for unshare(2).

pub(crate) mod fd_table;
pub(crate) mod kernel;
pub(crate) mod network;
pub(crate) mod socket;
pub(crate) mod waker;
