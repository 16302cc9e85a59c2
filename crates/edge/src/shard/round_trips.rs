//! [`RoundTripSampler`]: chooses the clients whose round-trip time is recorded.

use super::connection::Connection;
use super::driver::Driver;
use crate::sys::network::Network;

/// The mean number of HEARTBEATs for each that is sampled. The system call for it takes about as
/// long as reading the HEARTBEAT.
const EVERY: u32 = 16;

/// Chooses HEARTBEATs at random. A fixed distance would always choose the same clients, because
/// they send their HEARTBEATs in nearly the same order each time.
#[derive(Debug, Default)]
pub(super) struct RoundTripSampler {
    /// The number of HEARTBEATs until one is sampled.
    left: u32,
    is_due: bool,
}

impl RoundTripSampler {
    /// Counts a HEARTBEAT.
    pub(super) fn count_heartbeat(&mut self) {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => {
                self.is_due = true;
                self.left = rand::random_range(0..2 * EVERY - 1);
            }
        }
    }

    /// Returns whether a HEARTBEAT since the last call is sampled.
    fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }
}

impl<N: Network> Driver<N> {
    /// Records the round-trip time to a client that has sent input, if a HEARTBEAT in it is
    /// sampled.
    pub(super) fn sample_round_trip(&mut self, connection: &Connection<N::Socket>) {
        if self.round_trips.take_due()
            && let Some(time) = self.network.round_trip(&connection.socket)
        {
            self.env.metrics().connections.observe_round_trip(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_heartbeat_in_16_is_sampled_and_no_client_always() {
        const CLIENTS: usize = 64;
        let mut sampler = RoundTripSampler::default();
        let mut sampled = [0_u32; CLIENTS];
        for _ in 0..1_000 {
            for of_client in &mut sampled {
                sampler.count_heartbeat();
                *of_client += u32::from(sampler.take_due());
            }
        }
        // 4,000 and 62.5 on average; a chance of less than one in a billion for each of the bounds.
        let all = sampled.iter().sum::<u32>();
        assert!((3_600..4_400).contains(&all), "{all}");
        assert!(
            sampled.iter().all(|of_client| (1..200).contains(of_client)),
            "{sampled:?}"
        );
    }
}
