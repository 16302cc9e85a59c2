//! The scenarios: which parts each of them has.

use std::time::Duration;

use super::part::{Answer, Conduct, Ending, Part, Refusal, Step};

/// A scenario, as `--scenario` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::dev) enum Scenario {
    /// The edge is being shut down: SERVER_DRAINING, twice.
    Drain,
    /// GOING_AWAY, twice; the second time, the first attempt leads to the same edge.
    GoingAway,
    /// The edge loses the time, and the next one does not know it yet.
    NoTime,
    /// Authority time is stepped forward by 3 s and 20 s.
    StepForward,
    /// Authority time is stepped back by 3 s, and then by 30 s with TIME_STEPPED.
    StepBack,
    /// A batch, and a frame of an unknown type, have bad checksums.
    BadChecksum,
    /// Frames arrive byte by byte, and several and a half at once.
    Splits,
    /// Answers and ticks are as late as an edge may be.
    Slow,
    /// Connections end, or fall silent, in the middle of a frame.
    Cut,
    /// Frame types, fields, values and an error code that no client knows yet.
    Unknown,
    /// Errors with retry_after_ms, also before and instead of a subscription.
    Hints,
    /// AUTH_FAILED for a while, as during a change of the password. Takes 70 s.
    WrongPassword,
}

impl Scenario {
    pub(super) const ALL: [Self; 12] = [
        Self::Drain,
        Self::GoingAway,
        Self::NoTime,
        Self::StepForward,
        Self::StepBack,
        Self::BadChecksum,
        Self::Splits,
        Self::Slow,
        Self::Cut,
        Self::Unknown,
        Self::Hints,
        Self::WrongPassword,
    ];

    /// Returns the name on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::GoingAway => "going-away",
            Self::NoTime => "no-time",
            Self::StepForward => "step-forward",
            Self::StepBack => "step-back",
            Self::BadChecksum => "bad-checksum",
            Self::Splits => "splits",
            Self::Slow => "slow",
            Self::Cut => "cut",
            Self::Unknown => "unknown",
            Self::Hints => "hints",
            Self::WrongPassword => "wrong-password",
        }
    }

    /// Returns the parts, of which the first may also begin on a connection that exists. It always
    /// makes a subscription.
    pub(super) fn parts(self) -> Vec<Part> {
        match self {
            Self::Drain => vec![
                Part::plain(3, error("SERVER_DRAINING", 450)),
                Part::plain(3, error("SERVER_DRAINING", 300)),
                LAST,
            ],
            Self::GoingAway => vec![
                Part::plain(2, going_away(6)),
                Part::plain(2, going_away(8)),
                Part {
                    is_same_edge: true,
                    ..Part::plain(0, Ending::SameEdge)
                },
                LAST,
            ],
            Self::NoTime => no_time(),
            Self::StepForward => stepped(&STEPS_FORWARD, Part::plain(10, Ending::EndOfFile)),
            Self::StepBack => {
                let ending = Ending::TimeStepped {
                    secs: -30,
                    retry_after_ms: 1_500,
                };
                stepped(&STEPS_BACK, Part::plain(9, ending))
            }
            Self::BadChecksum => vec![
                Part::plain(2, Ending::BadBatch),
                Part::plain(2, Ending::BadUnknown),
                LAST,
            ],
            Self::Splits => {
                let torn = Conduct {
                    is_torn: true,
                    ..Conduct::PLAIN
                };
                twice(torn, Ending::EndOfFile)
            }
            Self::Slow => slow(),
            Self::Cut => vec![
                Part::plain(2, Ending::CutPayload),
                Part::plain(2, Ending::CutHeader),
                Part::plain(2, Ending::Reset),
                Part::plain(2, Ending::Silence),
                LAST,
            ],
            Self::Unknown => {
                let odd = Conduct {
                    is_odd: true,
                    ..Conduct::PLAIN
                };
                twice(odd, error("OF_A_LATER_VERSION", 1_000))
            }
            Self::Hints => hints(),
            Self::WrongPassword => vec![
                Part::plain(2, Ending::EndOfFile),
                Part {
                    welcome: Answer::refusal("AUTH_FAILED", 0),
                    ..LAST
                },
                LAST,
            ],
        }
    }
}

const STEPS_FORWARD: [Step; 2] = [
    Step {
        after: secs(2),
        secs: 3,
    },
    Step {
        after: secs(6),
        secs: 20,
    },
];

const STEPS_BACK: [Step; 1] = [Step {
    after: secs(2),
    secs: -3,
}];

/// A part in which authority time is stepped, and the last one.
fn stepped(steps: &'static [Step], part: Part) -> Vec<Part> {
    vec![Part { steps, ..part }, LAST]
}

/// The end of most scenarios: the client is served well for long enough to see that it is content.
const LAST: Part = Part::plain(3, Ending::Over);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn error(code: &'static str, retry_after_ms: u32) -> Ending {
    Ending::Error(Refusal::new(code, retry_after_ms))
}

const fn going_away(deadline_secs: u64) -> Ending {
    Ending::GoingAway {
        deadline: secs(deadline_secs),
    }
}

/// The same conduct on two connections, the first of which ends so.
fn twice(conduct: Conduct, ending: Ending) -> Vec<Part> {
    vec![
        Part {
            conduct,
            ..Part::plain(10, ending)
        },
        Part { conduct, ..LAST },
    ]
}

fn no_time() -> Vec<Part> {
    let timeless = Part {
        subscription: Answer {
            after: secs(5),
            ..Answer::refusal("NO_TIME", 2_000)
        },
        conduct: Conduct {
            has_time: false,
            ..Conduct::PLAIN
        },
        ..LAST
    };
    let lost = Ending::TimeLost {
        retry_after_ms: 3_000,
    };
    vec![Part::plain(3, lost), timeless, LAST]
}

/// The limits are those of "How long to wait for each answer" and "An edge that is of no use".
fn slow() -> Vec<Part> {
    let slow = Part {
        welcome: Answer::after_ms(7_500),
        subscription: Answer::after_ms(6_000),
        conduct: Conduct {
            tick_delay: Duration::from_millis(2_200),
            pong_delay: secs(1),
            ..Conduct::PLAIN
        },
        ..Part::plain(8, Ending::EndOfFile)
    };
    vec![Part::plain(2, Ending::EndOfFile), slow, LAST]
}

fn hints() -> Vec<Part> {
    vec![
        Part::plain(2, error("INTERNAL", 2_500)),
        Part {
            welcome: Answer::refusal("SERVER_FULL", 3_000),
            ..LAST
        },
        Part {
            welcome: Answer::refusal("TOO_MANY_CONNECTIONS", 1_500),
            ..LAST
        },
        Part {
            subscription: Answer::refusal("INVALID_SUBSCRIPTION", 1_200),
            ..LAST
        },
        LAST,
    ]
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(Scenario::value_variants(), Scenario::ALL);
        for scenario in Scenario::ALL {
            let value = scenario.to_possible_value().unwrap();
            assert_eq!(value.get_name(), scenario.name());
        }
    }

    #[test]
    fn each_scenario_begins_with_a_subscription_and_ends_with_one() {
        for scenario in Scenario::ALL {
            let parts = scenario.parts();
            let (first, last) = (parts[0], parts[parts.len() - 1]);
            assert!(first.welcome.refusal.is_none() && first.subscription.refusal.is_none());
            assert_eq!(last.ending, Ending::Over);
            let served = |part: &&Part| part.welcome.refusal.is_none();
            assert!(parts.iter().filter(served).count() >= 2, "{scenario:?}");
        }
    }
}
