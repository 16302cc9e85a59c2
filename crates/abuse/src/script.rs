//! [`Script`]: what one connection of a swarm does, step by step. Scripts are data, so that a test
//! can show that an attack sends what its name says.

use std::sync::Arc;
use std::time::Duration;

/// Bytes that many connections send.
pub(crate) type Bytes = Arc<[u8]>;

/// One step of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Completes the TLS handshake. Without TLS, it does nothing.
    ShakeHands,
    /// Sends a ClientHello, waits for the answer, and never continues the handshake. Without TLS,
    /// it does nothing.
    HalfHandshake,
    /// Sends bytes: sealed if the TLS handshake is complete, else as they are.
    Send(Bytes),
    /// Sends one byte per interval in the same way, until all are sent.
    Trickle(Bytes, Duration),
    /// Sends AUTH with the user name and password of the swarm, and with the device cookie that the
    /// last ACK to this slot brought, if there was one.
    Auth,
    /// Sends a KeyUpdate that requests one in return, and then the bytes.
    KeyUpdate(Bytes),
    /// Sends a record without content.
    EmptyRecord,
    /// Sends a record that does not authenticate.
    ForgedRecord,
    /// Waits for an ACK.
    AwaitAck,
    /// Counts the connection as served.
    Served,
    /// Waits.
    Pause(Duration),
    /// Waits, and continues with the step of this number.
    Repeat { from: usize, every: Duration },
    /// Reads nothing more.
    StopReading,
    /// Shuts down the sending side.
    HalfClose,
    /// Closes the connection in order.
    Close,
    /// Closes the connection by a reset.
    Reset,
    /// Does nothing more until the edge closes the connection.
    Hold,
}

/// The steps of a connection. After the last one it waits for the edge to close it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    /// The receive buffer in bytes, instead of the system's default.
    pub(crate) receive_buffer: Option<usize>,
    /// The time after which the connection is given up.
    pub(crate) patience: Option<Duration>,
    /// Whether the connection has a neighbouring address, so that what the edge holds against it
    /// does not apply to connections with other scripts.
    pub(crate) has_other_address: bool,
    /// Whether the answer is that of an admin port.
    pub(crate) is_http: bool,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Appends steps.
    pub(crate) fn then(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.steps.extend(steps);
        self
    }

    /// Appends a step that sends `bytes` and then sends them again and again.
    pub(crate) fn send_every(self, bytes: impl Into<Bytes>, every: Duration) -> Self {
        let from = self.steps.len();
        self.then([Step::Send(bytes.into()), Step::Repeat { from, every }])
    }

    /// Returns whether the edge has to accept AUTH for the script to proceed.
    pub(crate) fn logs_in(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| matches!(step, Step::AwaitAck))
    }

    /// Returns the number of the first step after which no answer is looked at.
    pub(crate) fn deaf_from(&self) -> usize {
        let last = |wanted: fn(&Step) -> bool| self.steps.iter().rposition(wanted);
        let awaits = last(|step| matches!(step, Step::AwaitAck));
        let Some(awaits) = awaits else { return 0 };
        let repeats = last(|step| matches!(step, Step::Repeat { .. }));
        let goes_back = repeats.is_some_and(
            |at| matches!(self.steps[at], Step::Repeat { from, .. } if from <= awaits),
        );
        if goes_back { usize::MAX } else { awaits + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_looked_at_until_the_last_step_that_waits_for_one() {
        let login = || Script::new([Step::ShakeHands, Step::Auth, Step::AwaitAck]);
        assert_eq!(Script::new([Step::Hold]).deaf_from(), 0);
        assert_eq!(login().deaf_from(), 3);
        let every = Duration::from_secs(1);
        assert_eq!(login().send_every(*b"x", every).deaf_from(), 3);
        let again = login().then([Step::Repeat { from: 1, every }]);
        assert_eq!(again.deaf_from(), usize::MAX);
    }
}
