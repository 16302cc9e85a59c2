//! Tests of the protocol's promises: which error is reported at which byte, what every byte of a
//! frame is, and that a session's behaviour depends neither on how the stream was divided into
//! reads nor on anything that an unauthenticated client may send.

mod alloc;
mod client;
mod codes;
mod corpus;
mod forge;
mod frames;
mod fuzz_drivers;
mod golden;
mod messages;
mod server;
mod split;
