//! The edge as a whole, over sockets, on the in-memory bus.

mod serving;
mod support;
