//! TickStorm's client protocol, version 1: frames, messages, error codes, and the sessions of both
//! sides.
//!
//! Everything here is sans-I/O: bytes and `now` go in, steps and bytes come out. Nothing opens a
//! socket, sleeps or reads a clock, so a complete conversation can be tested in a loop.
//! `docs/protocol.md` describes the same protocol for authors of other implementations.

pub mod code;
mod earlier_schema;
pub mod frame;
pub mod message;
pub mod session;

pub use code::{CloseReason, ErrorCode};
pub use earlier_schema::EarlierSchema;
pub use frame::{FrameError, FrameType};
