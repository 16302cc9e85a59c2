//! Tests of the protocol's promises: which error is reported at which byte, what every byte of a
//! frame is, that a session behaves the same however the stream was divided into reads, and that
//! memory use is bounded by the bytes that arrived.

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
mod vectors;
