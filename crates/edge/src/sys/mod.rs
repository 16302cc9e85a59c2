//! What the edge asks of the kernel, in safe calls of `rustix`, `nix` and `socket2`. `nix` is left
//! for the two that `rustix` has as unsafe functions only: sending to a descriptor by its number,
//! which the hot loop does, and unshare(2).

pub(crate) mod fd_table;
pub(crate) mod kernel;
pub(crate) mod network;
pub(crate) mod socket;
pub(crate) mod waker;
