//! Tests of the complete cluster of `compose/` and of the faults that it must tolerate. They use
//! the configuration as shipped, the real images, and clients that connect through the load
//! balancer. `cargo xtask compose-test` builds the images and runs these tests; a filter in
//! .config/nextest.toml excludes them otherwise. All tests share one cluster: each brings it up if
//! necessary and leaves it running. The tests of `monitoring` and those of `tls` have clusters of
//! their own, with `compose/monitoring.yml` and `compose/tls.yml`.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

mod addresses;
mod balancer;
mod containers;
mod edges;
mod engine;
mod extra;
mod faults;
mod monitoring;
mod permissions;
mod start;
mod tls;
