//! [`BusFigures`]: what an attack on the bus has shown, and which promises it has broken. No I/O.

use serde::Serialize;

use super::attack::StolenLogin;
use super::evidence::Named;
use super::theft::TheftCounts;

/// The most warnings of all edges per second of an attack.
const WARNINGS_PER_SECOND_MAX: u64 = 10;

/// The figures of an attack on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct BusFigures {
    pub(crate) login: StolenLogin,
    pub(crate) counts: TheftCounts,
    /// The duration of the attack.
    pub(crate) seconds: u32,
    /// Messages that NATS should have refused, and did not.
    pub(crate) let_through: u64,
    /// Ticks that arrived late, over all clients.
    pub(crate) late: u64,
    /// The rounds of all edges; `None` if an edge does not count them.
    pub(crate) rounds: Option<RoundFigures>,
    /// The places in which all edges name the clock whose login is stolen; `None` if it is an
    /// edge's.
    pub(crate) named: Option<Named>,
    /// Warnings of all edges during the attack.
    pub(crate) warnings: u64,
}

/// Numbers of rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RoundFigures {
    pub(crate) answered: u64,
    /// Rounds in which no clock answered in time.
    pub(crate) lost: u64,
}

impl RoundFigures {
    pub(crate) const fn all(self) -> u64 {
        self.answered + self.lost
    }
}

impl BusFigures {
    pub(crate) fn messages_per_second(&self) -> u64 {
        (self.counts.published + self.counts.subscribed) / u64::from(self.seconds.max(1))
    }

    /// Returns the broken promises. A flood with an edge's login may cost no round; a clock that
    /// floods is known by its name. In a short run, on a machine that may be busy with other work,
    /// half of the rounds may be lost.
    pub(crate) fn broken(&self, is_short: bool) -> Vec<String> {
        let mut broken = Vec::new();
        if self.late > 0 {
            broken.push(format!("{} late ticks", self.late));
        }
        if self.let_through > 0 {
            broken.push(format!(
                "NATS has let {} messages or subscriptions through",
                self.let_through
            ));
        }
        if let Some(rounds) = self.rounds {
            let lost_max = match (self.login, is_short) {
                (StolenLogin::Clock, _) => u64::MAX,
                (StolenLogin::Edge, true) => rounds.all() / 2,
                (StolenLogin::Edge, false) => 0,
            };
            if rounds.lost > lost_max {
                broken.push(format!("{} of {} rounds lost", rounds.lost, rounds.all()));
            }
        } else {
            broken.push("an edge does not count its rounds".into());
        }
        if let Some(named) = self.named
            && !named.everywhere()
        {
            broken.push(format!("the stolen login is named in {named} only"));
        }
        if self.warnings > u64::from(self.seconds) * WARNINGS_PER_SECOND_MAX {
            broken.push(format!("{} warnings in the logs", self.warnings));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the figures of 40 rounds.
    fn rounds(lost: u64) -> Option<RoundFigures> {
        let answered = 40 - lost;
        Some(RoundFigures { answered, lost })
    }

    fn good() -> BusFigures {
        BusFigures {
            login: StolenLogin::Clock,
            counts: TheftCounts {
                published: 2_000_000,
                ..TheftCounts::default()
            },
            seconds: 20,
            let_through: 0,
            late: 0,
            rounds: rounds(0),
            named: Some(Named {
                status: true,
                metric: true,
                log: true,
            }),
            warnings: 200,
        }
    }

    #[test]
    fn each_promise_can_be_broken_alone() {
        assert_eq!(good().broken(false), [""; 0]);
        assert_eq!(good().messages_per_second(), 100_000);
        let unnamed = Named {
            status: true,
            metric: false,
            log: true,
        };
        for case in [
            BusFigures { late: 1, ..good() },
            BusFigures {
                let_through: 1,
                ..good()
            },
            BusFigures {
                rounds: rounds(1),
                login: StolenLogin::Edge,
                ..good()
            },
            BusFigures {
                rounds: None,
                ..good()
            },
            BusFigures {
                named: Some(unnamed),
                ..good()
            },
            BusFigures {
                warnings: 201,
                ..good()
            },
        ] {
            assert_eq!(case.broken(false).len(), 1, "{case:?}");
        }
    }

    #[test]
    fn a_short_run_forgives_half_of_the_rounds() {
        let lost = |lost, login| BusFigures {
            rounds: rounds(lost),
            login,
            ..good()
        };
        assert_eq!(lost(20, StolenLogin::Edge).broken(true), [""; 0]);
        assert_eq!(lost(21, StolenLogin::Edge).broken(true).len(), 1);
        assert_eq!(lost(40, StolenLogin::Clock).broken(true), [""; 0]);
    }
}
