//! [`Rule`]: the rules of docs/protocol.md that a client can break, and [`Fault`], a rule that it
//! has broken. A rule is named by the place where the document states it.

use std::fmt;

/// A rule, by its section in docs/protocol.md and, in long sections, the words in bold with which
/// its paragraph begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Frames,
    NoBoundaries,
    Session,
    Authentication,
    Heartbeats,
    FrameRate,
    OneSubscription,
    Patience,
    EdgeOfNoUse,
    Cookies,
    Ticks,
    Resuming,
    AuthorityTime,
    Errors,
    Waits,
    RetryAfter,
    No,
    ElsewhereLater,
    OnceMore,
    TimeStepped,
    Moving,
    Compatibility,
    NeverStopReading,
}

impl Rule {
    #[cfg(test)]
    pub(super) const ALL: [Self; 23] = [
        Self::Frames,
        Self::NoBoundaries,
        Self::Session,
        Self::Authentication,
        Self::Heartbeats,
        Self::FrameRate,
        Self::OneSubscription,
        Self::Patience,
        Self::EdgeOfNoUse,
        Self::Cookies,
        Self::Ticks,
        Self::Resuming,
        Self::AuthorityTime,
        Self::Errors,
        Self::Waits,
        Self::RetryAfter,
        Self::No,
        Self::ElsewhereLater,
        Self::OnceMore,
        Self::TimeStepped,
        Self::Moving,
        Self::Compatibility,
        Self::NeverStopReading,
    ];

    /// Returns the title of the section.
    pub(super) const fn section(self) -> &'static str {
        match self {
            Self::Frames => "Frames",
            Self::Session
            | Self::Authentication
            | Self::Heartbeats
            | Self::FrameRate
            | Self::OneSubscription
            | Self::Patience
            | Self::EdgeOfNoUse => "Session",
            Self::Cookies => "Device cookies",
            Self::Ticks => "Ticks",
            Self::Resuming => "Resuming",
            Self::AuthorityTime => "Authority time",
            Self::Errors => "Errors",
            Self::Waits
            | Self::RetryAfter
            | Self::No
            | Self::ElsewhereLater
            | Self::OnceMore
            | Self::TimeStepped => "Reconnecting",
            Self::Moving => "Moving",
            Self::Compatibility => "Compatibility",
            Self::NoBoundaries | Self::NeverStopReading => "Pitfalls",
        }
    }

    /// Returns the words in bold with which the paragraph begins, if the section has such.
    pub(super) const fn paragraph(self) -> Option<&'static str> {
        match self {
            Self::NoBoundaries => Some("TCP has no message boundaries."),
            Self::Authentication => Some("Authentication."),
            Self::Heartbeats => Some("Heartbeats."),
            Self::FrameRate => Some("Frame rate."),
            Self::OneSubscription => Some("One subscription per connection."),
            Self::Patience => Some("How long to wait for each answer."),
            Self::EdgeOfNoUse => Some("An edge that is of no use"),
            Self::RetryAfter => Some("retry_after_ms."),
            Self::No => Some("No."),
            Self::ElsewhereLater => Some("Another edge, later."),
            Self::OnceMore => Some("Once more with it, then without."),
            Self::TimeStepped => Some("Without the resume point"),
            Self::NeverStopReading => Some("Never stop reading."),
            Self::Frames
            | Self::Session
            | Self::Cookies
            | Self::Ticks
            | Self::Resuming
            | Self::AuthorityTime
            | Self::Errors
            | Self::Waits
            | Self::Moving
            | Self::Compatibility => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section())?;
        match self.paragraph() {
            Some(paragraph) => write!(f, ", {}", paragraph.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

/// A rule that the client has broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) rule: Rule,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(rule: Rule, message: impl Into<String>) -> Self {
        Self {
            rule,
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (docs/protocol.md: {})", self.message, self.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_where_it_says() {
        const DOCUMENT: &str = include_str!("../../../../../docs/protocol.md");
        for rule in Rule::ALL {
            let heading = format!("\n## {}\n", rule.section());
            let (_, rest) = DOCUMENT.split_once(&heading).expect(&heading);
            let section = rest.split("\n## ").next().unwrap_or_default();
            if let Some(words) = rule.paragraph() {
                let bold = format!("**{words}**");
                assert!(section.contains(&bold), "no {bold} in {heading}");
            }
        }
    }
}
