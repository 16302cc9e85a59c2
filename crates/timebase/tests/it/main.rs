//! Tests of timebase through its public interface, all in virtual time.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod edge;
mod edge_cases;
mod outages;
mod properties;
mod rules;
mod simulation;
mod small_steps;
mod subscribe_cases;
mod suspensions;
mod time_cases;
mod trust;
