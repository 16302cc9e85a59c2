//! The scenarios, a file each: what is done in what order, and which figures come of it.

pub(super) mod auth;
pub(super) mod burst;
pub(super) mod churn;
pub(super) mod connect;
pub(super) mod fanout;
pub(super) mod idle;
pub(super) mod slow;
