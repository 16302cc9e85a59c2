//! What the edge asks of the kernel beyond tokio, in safe calls of `nix` and `socket2`.

pub(crate) mod fd_table;
pub(crate) mod readable;
pub(crate) mod socket;
pub(crate) mod sockets;
pub(crate) mod timerfd;
