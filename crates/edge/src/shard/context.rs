//! [`InputContext`]: what the rules of a connection may touch beside it.

use super::control_buffer::ControlBuffer;
use super::env::Env;
use super::feeds::Feeds;
use super::time::Moment;

/// What the steps of a connection may touch beside the connection itself.
pub(super) struct InputContext<'a> {
    pub(super) env: &'a Env,
    pub(super) feeds: &'a mut Feeds,
    /// Where answers are appended.
    pub(super) control: &'a mut ControlBuffer,
    /// Set if a SUBSCRIBE waits for the time to be known.
    pub(super) has_askers: &'a mut bool,
    pub(super) at: Moment,
}
