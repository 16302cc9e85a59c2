//! [`BusAttack`]: what is done with a stolen login of NATS.

use serde::{Deserialize, Serialize};

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BusAttack {
    /// Announcements and answers in the names of the other clocks.
    OtherNames,
    /// A clock whose time is 5 s ahead, and later 5 s behind.
    SecondsOff,
    /// A clock whose time is 1 h ahead, and later 1 h behind.
    HoursOff,
    /// A flood of announcements in the clock's own name.
    Announcements,
    /// A flood of answers in the clock's own name, to all edges and to nobody.
    Answers,
    /// Noise, cut messages, and extreme numbers.
    Malformed,
    /// The longest messages that NATS carries, and longer ones.
    Huge,
    /// Announcements and answers with the login of an edge.
    Posing,
    /// A flood of time requests, on many reply subjects.
    Requests,
    /// A flood of time requests on the reply subjects of the other edges.
    BorrowedRequests,
    /// The same permitted subject, subscribed to over and over.
    Subscriptions,
}

/// Whose login is stolen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StolenLogin {
    Clock,
    Edge,
}

impl StolenLogin {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Edge => "edge",
        }
    }
}

impl BusAttack {
    pub(crate) const fn login(self) -> StolenLogin {
        match self {
            Self::OtherNames
            | Self::SecondsOff
            | Self::HoursOff
            | Self::Announcements
            | Self::Answers
            | Self::Malformed
            | Self::Huge => StolenLogin::Clock,
            Self::Posing | Self::Requests | Self::BorrowedRequests | Self::Subscriptions => {
                StolenLogin::Edge
            }
        }
    }

    /// Returns whether the clock itself is stopped, so that only the thief speaks in its name.
    pub(crate) const fn replaces_clock(self) -> bool {
        matches!(self, Self::SecondsOff | Self::HoursOff)
    }

    /// Returns how far the thief's time is off, in microseconds.
    pub(crate) const fn time_off_us(self) -> i64 {
        match self {
            Self::SecondsOff | Self::OtherNames | Self::Posing => 5_000_000,
            Self::HoursOff => 3_600_000_000,
            Self::Announcements
            | Self::Answers
            | Self::Malformed
            | Self::Huge
            | Self::Requests
            | Self::BorrowedRequests
            | Self::Subscriptions => 0,
        }
    }

    /// Returns how many messages or subscriptions are sent per second besides answers to requests.
    /// The thief sends as many as the CPU time that honest processes leave allows.
    pub(crate) const fn messages_per_second(self) -> u32 {
        match self {
            Self::SecondsOff | Self::HoursOff => 10,
            Self::OtherNames | Self::Posing => 1_000,
            Self::Malformed | Self::Subscriptions => 20_000,
            Self::Huge => 5_000,
            Self::Announcements | Self::Answers | Self::Requests | Self::BorrowedRequests => {
                100_000
            }
        }
    }

    /// Returns whether NATS must refuse all messages.
    pub(crate) const fn must_be_refused(self) -> bool {
        matches!(self, Self::Posing)
    }
}
