//! The scenarios, one file each: their steps, and the figures that result.

pub(super) mod auth;
pub(super) mod burst;
pub(super) mod churn;
pub(super) mod connect;
pub(super) mod drain;
pub(super) mod fanout;
pub(super) mod idle;
pub(super) mod slow;
