//! The limits on replayed ticks: how many a connection may ask for, and how many all connections
//! from one address may. A SUBSCRIBE takes 20 bytes, and its replay hundreds of times as many.
//! Ticks are charged when their replay is planned. Nothing is sent here.

use std::time::Duration;

use tickstorm_protocol::code::{CloseReason, ReplayLimited};
use tickstorm_timebase::Mono;

use crate::admission::{Address, Rates};

/// The time in which an empty budget fills up.
const PERIOD: Duration = Duration::from_secs(60);
/// The smallest budget of a connection, in ticks. With a short RESUME_WINDOW, a subscription may
/// still start with a few ticks: those that an ahead feed has already sent, or those by which
/// authority time has just gone back.
const TICKS_MIN: u32 = 120;
/// The budget of an address, in budgets of a connection.
const ADDRESS_FACTOR: u32 = 10;
/// The ticks of a connection's first replay that are not charged to its address. Making a
/// connection costs the edge more than they do, and without them, clients that share an address
/// could not all come back after their edge has failed.
const FIRST_TICKS_FREE: u32 = 60;

/// Returns the ticks that may be replayed to a connection in a minute: two full replays.
fn ticks_per_minute(resume_window: Duration) -> u32 {
    let ticks = 2 * resume_window.as_millis().div_ceil(1_000);
    u32::try_from(ticks).unwrap_or(u32::MAX).max(TICKS_MIN)
}

/// Returns the budgets of all addresses.
pub(crate) fn address_budgets(resume_window: Duration) -> Rates {
    let ticks = ticks_per_minute(resume_window).saturating_mul(ADDRESS_FACTOR);
    Rates::new(PERIOD, ticks)
}

/// The address to which a connection's replays are charged, and the budgets of all addresses.
#[derive(Clone, Copy)]
pub(super) struct ChargedAddress<'a> {
    pub(super) address: Address,
    pub(super) budgets: &'a Rates,
}

/// The budget of one connection: a token bucket that is full at first.
#[derive(Debug, Default)]
pub(super) struct ReplayBudget {
    /// The time at which it is full again; [`Mono::ZERO`] before the first replay.
    full_at: Mono,
}

impl ReplayBudget {
    /// Charges a replay of `ticks` ticks to the connection and then to its address, if any.
    ///
    /// # Errors
    /// Returns the reason to close the connection if one of the budgets does not have as many. The
    /// budget of the address is charged only if that of the connection suffices.
    pub(super) fn charge(
        &mut self,
        ticks: u32,
        address: Option<ChargedAddress<'_>>,
        resume_window: Duration,
        now: Mono,
    ) -> Result<(), CloseReason> {
        let per_minute = ticks_per_minute(resume_window);
        let is_first = self.full_at == Mono::ZERO;
        let full_at = self.full_at.max(now) + PERIOD * ticks / per_minute;
        if full_at.since(now) > PERIOD {
            return Err(CloseReason::ReplayLimited {
                asked: ticks,
                per_minute,
                limited: ReplayLimited::Connection,
            });
        }
        self.full_at = full_at;
        let free = if is_first { FIRST_TICKS_FREE } else { 0 };
        let charged = ticks.saturating_sub(free);
        match address {
            Some(ChargedAddress { address, budgets })
                if charged > 0 && !budgets.take(address, charged, now) =>
            {
                Err(CloseReason::ReplayLimited {
                    asked: ticks,
                    per_minute: per_minute.saturating_mul(ADDRESS_FACTOR),
                    limited: ReplayLimited::Address,
                })
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    fn address(number: u8) -> Address {
        IpAddr::from([192, 0, 2, number]).into()
    }

    /// Charges a replay to a connection alone, and returns whether its budget sufficed.
    fn charge(budget: &mut ReplayBudget, ticks: u32, window: Duration, now: Mono) -> bool {
        let charged = budget.charge(ticks, None, window, now);
        if let Err(reason) = charged {
            let expected = CloseReason::ReplayLimited {
                asked: ticks,
                per_minute: ticks_per_minute(window),
                limited: ReplayLimited::Connection,
            };
            assert_eq!(reason, expected);
        }
        charged.is_ok()
    }

    #[test]
    fn a_connection_may_ask_for_two_full_replays_and_then_for_one_each_half_minute() {
        let mut budget = ReplayBudget::default();
        assert!(charge(&mut budget, 600, WINDOW, at(0)));
        assert!(charge(&mut budget, 600, WINDOW, at(0)));
        assert!(!charge(&mut budget, 600, WINDOW, at(29_999)));
        assert!(charge(&mut budget, 600, WINDOW, at(30_000)));
        assert!(!charge(&mut budget, 1, WINDOW, at(30_000)));
        assert!(charge(&mut budget, 1_200, WINDOW, at(90_000)));
    }

    #[test]
    fn without_a_window_the_ticks_that_a_subscription_starts_with_are_still_allowed() {
        let mut budget = ReplayBudget::default();
        for second in 0..60 {
            // Those of an ahead feed, or after authority time has gone back.
            assert!(charge(&mut budget, 2, Duration::ZERO, at(second * 1_000)));
        }
        assert!(charge(&mut budget, 110, Duration::ZERO, at(60_000)));
        assert!(!charge(&mut budget, 121, Duration::ZERO, at(600_000)));
    }

    #[test]
    fn the_connections_of_an_address_share_ten_budgets() {
        let budgets = address_budgets(WINDOW);
        let ask = |budget: &mut ReplayBudget, ticks, number| {
            let address = address(number);
            let charged = ChargedAddress {
                address,
                budgets: &budgets,
            };
            budget.charge(ticks, Some(charged), WINDOW, at(0))
        };
        // 60 ticks of each are free, so that 540 are charged.
        let mut connections: Vec<_> = (0..22).map(|_| ReplayBudget::default()).collect();
        for connection in &mut connections {
            assert_eq!(ask(connection, 600, 1), Ok(()));
        }
        let refused = ask(&mut ReplayBudget::default(), 600, 1);
        let expected = CloseReason::ReplayLimited {
            asked: 600,
            per_minute: 12_000,
            limited: ReplayLimited::Address,
        };
        assert_eq!(refused, Err(expected));
        assert_eq!(ask(&mut ReplayBudget::default(), 600, 2), Ok(()));
        // Clients that were away for less than a minute come back, however many there are.
        for _ in 0..10_000 {
            assert_eq!(ask(&mut ReplayBudget::default(), 60, 1), Ok(()));
        }
        let mut again = ReplayBudget::default();
        assert_eq!(ask(&mut again, 60, 1), Ok(()));
        assert!(ask(&mut again, 600, 1).is_err(), "only the first are free");
    }

    #[test]
    fn what_a_connection_is_refused_is_not_charged_to_its_address() {
        let budgets = address_budgets(WINDOW);
        let charged = || ChargedAddress {
            address: address(1),
            budgets: &budgets,
        };
        let mut flooding = ReplayBudget::default();
        let charge =
            |budget: &mut ReplayBudget| budget.charge(600, Some(charged()), WINDOW, at(0)).is_ok();
        assert!(charge(&mut flooding) && charge(&mut flooding));
        for _ in 0..1_000 {
            assert!(!charge(&mut flooding));
        }
        assert!(charge(&mut ReplayBudget::default()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_budget_are_replayed(
            window_s in 0_u64..=3_600,
            replays in prop::collection::vec((1_u32..=3_600, 0_u64..60_000), 1..200),
        ) {
            let window = Duration::from_secs(window_s);
            let per_minute = u64::from(ticks_per_minute(window));
            let mut budget = ReplayBudget::default();
            let (mut granted, mut ms) = (0, 0);
            for (ticks, pause_ms) in replays {
                ms += pause_ms;
                if charge(&mut budget, ticks, window, at(ms)) {
                    granted += u64::from(ticks);
                } else {
                    prop_assert!(granted + u64::from(ticks) > per_minute);
                }
                let earned = per_minute * ms / 60_000;
                prop_assert!(granted <= per_minute + earned + 1, "{} in {} ms", granted, ms);
            }
        }
    }
}
