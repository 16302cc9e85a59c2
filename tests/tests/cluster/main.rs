//! The whole cluster of `compose/`, under the faults that it is to bear: its files as they are shipped, its containers, and clients
//! that come through its balancer. `cargo xtask compose-test` builds the images and runs these tests; the ordinary run
//! leaves them out by a filter in .config/nextest.toml. They share one cluster, which each finds running or brings up, and leaves so.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod containers;
mod edges;
mod engine;
mod faults;
mod permissions;
mod start;
