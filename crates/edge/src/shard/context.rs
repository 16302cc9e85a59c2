//! [`InputContext`]: the access that the rules of a connection have to the rest of the shard.

use super::control_buffer::ControlBuffer;
use super::env::Env;
use super::feeds::Feeds;
use super::key::Key;
use super::round_trips::RoundTripSampler;
use super::time::Moment;

/// The shard's state that the rules of a connection may access.
pub(super) struct InputContext<'a> {
    pub(super) env: &'a Env,
    pub(super) feeds: &'a mut Feeds,
    /// The buffer to which answers are appended.
    pub(super) control: &'a mut ControlBuffer,
    /// Set if a SUBSCRIBE must wait until the time is known.
    pub(super) has_pending_subscribes: &'a mut bool,
    /// Clients that authenticate while the shard drains.
    pub(super) latecomers: &'a mut Option<Vec<Key>>,
    pub(super) round_trips: &'a mut RoundTripSampler,
    pub(super) at: Moment,
}
