//! The protocol's promises: what is reported at which byte, what every byte of a frame is, and that neither how a stream was
//! cut nor what a stranger put into it can make a session do anything else.

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
