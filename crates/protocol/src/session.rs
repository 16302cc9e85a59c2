//! The protocol state of one connection, for either side. A session is given bytes and `now`. Its
//! driver supplies what the session cannot know, such as whether a password is right or what time
//! it is.

pub mod client;
pub mod server;

pub use tickstorm_timebase::subscription::Request;
