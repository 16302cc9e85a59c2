//! The scenarios, one file each: what is done in which order, and which figures result.

pub(super) mod auth;
pub(super) mod burst;
pub(super) mod churn;
pub(super) mod connect;
pub(super) mod fanout;
pub(super) mod idle;
pub(super) mod slow;
