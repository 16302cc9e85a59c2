//! What befalls messages on their way, where a test says that something does.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A message about to go from one connection to another.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// Name of the connection that sends it.
    pub from: &'a str,
    /// Name of the connection that is to get it.
    pub to: &'a str,
    /// Its subject.
    pub subject: &'a str,
    /// Its bytes; [`crate::message`] reads them.
    pub payload: &'a [u8],
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at once.
    Deliver,
    /// It never arrives.
    Lose,
    /// It arrives later (tokio's timers count whole milliseconds), behind what has a shorter delay.
    Delay(Duration),
    /// It arrives at once, and once more after this long.
    Double(Duration),
    /// It arrives right after the next message from the same connection to the same.
    Swap,
}

/// Decides the fate of each message, in the order in which they are sent.
pub(super) type FateScript = Box<dyn FnMut(&Passage<'_>) -> Fate + Send>;

/// A script by chance: how often each fate strikes, in parts of one. What they leave arrives at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// [`Fate::Lose`].
    pub lose: f64,
    /// [`Fate::Delay`] by anything up to `delay_max`.
    pub delay: f64,
    /// [`Fate::Double`] after anything up to `delay_max`.
    pub double: f64,
    /// [`Fate::Swap`].
    pub swap: f64,
    /// The longest delay.
    pub delay_max: Duration,
}

impl Weather {
    /// The script; the same seed gives the same fates to the same messages.
    pub fn script(self, seed: u64) -> impl FnMut(&Passage<'_>) -> Fate + Send + 'static {
        let mut rng = StdRng::seed_from_u64(seed);
        move |_| {
            let (mut chance, delay) = (rng.random::<f64>(), self.delay_max.mul_f64(rng.random()));
            let fates = [
                (self.lose, Fate::Lose),
                (self.delay, Fate::Delay(delay)),
                (self.double, Fate::Double(delay)),
                (self.swap, Fate::Swap),
            ];
            for (share, fate) in fates {
                if chance < share {
                    return fate;
                }
                chance -= share;
            }
            Fate::Deliver
        }
    }
}
