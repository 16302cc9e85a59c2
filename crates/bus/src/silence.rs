//! [`Silence`]: whether what must come back over a connection does: a clock's answer to an edge's
//! request, and a clock's own announcement to the clock. A server that is cut off from its cluster,
//! or takes a subscription away, keeps the connection alive and brings nothing.
//!
//! Silence is counted in looks at a fixed interval and not by a clock. So if the process was
//! stopped for a minute, during which answers waited in its socket, that counts as one interval.

use std::time::Duration;

/// The interval between looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The silence after which a connection is of no use. Clocks and edges send once per second, so
/// five messages in a row were lost.
pub(crate) const SILENCE_MIN: Duration = Duration::from_secs(5);

/// How long nothing has come back to what was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silence {
    /// Whether something was sent since the last sign of life.
    is_awaited: bool,
    /// Whether that was so at the last look.
    was_awaited: bool,
    lasts: Duration,
}

impl Silence {
    /// Notes that something was sent to which something must come back.
    pub(crate) const fn handle_sent(&mut self) {
        self.is_awaited = true;
    }

    /// Notes that something came back.
    pub(crate) fn handle_sign(&mut self) {
        *self = Self::default();
    }

    /// Returns how long the silence has lasted. It must be called at each [`LOOK_INTERVAL`].
    pub(crate) fn look(&mut self) -> Duration {
        if self.was_awaited {
            self.lasts += LOOK_INTERVAL;
        }
        self.was_awaited = self.is_awaited;
        self.lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks this often, and returns what the last look returned.
    fn look(silence: &mut Silence, times: u32) -> Duration {
        (0..times).map(|_| silence.look()).last().expect("a look")
    }

    #[test]
    fn silence_counts_from_what_was_sent_and_not_from_what_came() {
        let mut silence = Silence::default();
        assert_eq!(look(&mut silence, 100), Duration::ZERO, "nothing was sent");
        silence.handle_sent();
        assert_eq!(look(&mut silence, 1), Duration::ZERO);
        assert_eq!(look(&mut silence, 10), SILENCE_MIN);
        silence.handle_sent();
        assert_eq!(look(&mut silence, 1), SILENCE_MIN + LOOK_INTERVAL);
        silence.handle_sign();
        assert_eq!(look(&mut silence, 100), Duration::ZERO);
    }

    #[test]
    fn one_answer_in_five_seconds_is_enough() {
        let mut silence = Silence::default();
        for _ in 0..100 {
            for _ in 0..4 {
                silence.handle_sent();
                assert!(look(&mut silence, 2) < SILENCE_MIN);
            }
            silence.handle_sign();
        }
    }
}
