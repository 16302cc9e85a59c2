//! The state of one connection, on either side. Both sides are given bytes and `now`; what they do not know, such as whether
//! a password is right or what time it is, their driver tells them.

pub mod client;
pub mod server;

pub use tickstorm_timebase::subscription::Request;
