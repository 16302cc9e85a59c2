//! The faults that a test can inject into the delivery of messages.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A message about to be delivered from one connection to another.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// The name of the sending connection.
    pub from: &'a str,
    /// The name of the receiving connection.
    pub to: &'a str,
    /// The subject of the message.
    pub subject: &'a str,
    /// The bytes of the message, which [`crate::message`] can decode.
    pub payload: &'a [u8],
}

/// The fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives immediately.
    Deliver,
    /// It never arrives.
    Lose,
    /// It arrives after this delay, and thus behind messages with a shorter one. tokio's timers
    /// have a resolution of one millisecond.
    Delay(Duration),
    /// It arrives immediately, and again after this delay.
    Duplicate(Duration),
    /// It arrives right after the next message from the same sender to the same receiver.
    Swap,
}

/// A script, which decides the fate of each message in the order of sending.
pub(super) type FateScript = Box<dyn FnMut(&Passage<'_>) -> Fate + Send>;

/// The probabilities of the fates in a random script, each from 0 to 1. All other messages arrive
/// immediately.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomFaults {
    /// The probability of [`Fate::Lose`].
    pub lose: f64,
    /// The probability of [`Fate::Delay`], by a random time up to `delay_max`.
    pub delay: f64,
    /// The probability of [`Fate::Duplicate`], after a random time up to `delay_max`.
    pub double: f64,
    /// The probability of [`Fate::Swap`].
    pub swap: f64,
    /// The maximum delay.
    pub delay_max: Duration,
}

impl RandomFaults {
    /// Creates the script. The same seed gives the same fates to the same messages.
    pub fn script(self, seed: u64) -> impl FnMut(&Passage<'_>) -> Fate + Send + 'static {
        let mut rng = StdRng::seed_from_u64(seed);
        move |_| {
            let (mut draw, delay) = (rng.random::<f64>(), self.delay_max.mul_f64(rng.random()));
            let fates = [
                (self.lose, Fate::Lose),
                (self.delay, Fate::Delay(delay)),
                (self.double, Fate::Duplicate(delay)),
                (self.swap, Fate::Swap),
            ];
            for (share, fate) in fates {
                if draw < share {
                    return fate;
                }
                draw -= share;
            }
            Fate::Deliver
        }
    }
}
