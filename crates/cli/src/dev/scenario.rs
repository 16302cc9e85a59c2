//! `tickstorm dev --scenario`: an edge that misbehaves on purpose, for authors of clients, and that
//! says what a client did wrong.
//!
//! [`play::Play`] plays the parts of a scenario ([`script`]) on the connections of a client, and
//! [`judge::Judge`] compares what the client does with docs/protocol.md. Both get bytes and times,
//! and can be tested in virtual time; [`driver`] performs what they return.

mod connection;
mod driver;
mod frames;
mod judge;
mod outbox;
mod pace;
mod part;
mod play;
mod received;
mod report;
mod rule;
mod script;
#[cfg(test)]
mod tests;
mod waits;

use clap::builder::PossibleValue;
use tickstorm_command::Failure;
use tickstorm_edge::settings::{LISTEN_ADDR, STREAM_PASS, STREAM_USER, TLS_ENABLED};
use tickstorm_service::env::Settings;
use tickstorm_service::exit;
use tickstorm_service::signals::Signals;

use self::driver::Driver;
use self::judge::Login;
use self::report::Report;
use self::script::Scenario;

/// The scenarios to play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    One(Scenario),
    All,
}

impl clap::ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Choice; 13] = {
            let mut all = [Choice::All; 13];
            let mut index = 0;
            while index < Scenario::ALL.len() {
                all[index] = Choice::One(Scenario::ALL[index]);
                index += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(scenario) => scenario.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("Each of them in turn")),
        }
    }
}

/// Plays scenarios at LISTEN_ADDR until they are over, or until a signal ends them.
pub(super) async fn run(
    choice: Choice,
    is_json: bool,
    settings: &Settings,
    signals: &mut Signals,
) -> Result<(), Failure> {
    if settings.get(&TLS_ENABLED) {
        let text = "--scenario serves plain TCP: leave out TLS_ENABLED";
        return Err(Failure::message(exit::CONFIG, text.into()));
    }
    let (Some(user), Some(password)) = (settings.get(&STREAM_USER), settings.get(&STREAM_PASS))
    else {
        let text = "--scenario needs STREAM_USER and STREAM_PASS: it accepts no tokens";
        return Err(Failure::message(exit::CONFIG, text.into()));
    };
    let addr = settings.get(&LISTEN_ADDR);
    let unavailable = |error| {
        let text = format!("cannot listen on LISTEN_ADDR={addr}: {error}");
        Failure::message(exit::UNAVAILABLE, text)
    };
    let driver = Driver::listen(addr, Login { user, password }).await;
    let driver = driver.map_err(unavailable)?;
    let mut report = Report::new(is_json);
    let listening = driver.local_addr().map_err(unavailable)?;
    report.listening(listening, &super::login(settings))?;
    let scenarios = match choice {
        Choice::One(scenario) => vec![scenario],
        Choice::All => Scenario::ALL.to_vec(),
    };
    let is_interrupted = tokio::select! {
        played = driver.run(&scenarios, &mut report) => {
            played?;
            false
        }
        _ = signals.next() => true,
    };
    if is_interrupted {
        report.interrupted()?;
    }
    let unplayed = report.unplayed(&scenarios)?;
    verdict(report.all_faults(), unplayed)
}

/// Succeeds only if all scenarios were played without a fault.
fn verdict(faults: usize, unplayed: usize) -> Result<(), Failure> {
    let text = match (faults, unplayed) {
        (0, 0) => return Ok(()),
        (0, 1) => "1 scenario was not played to its end".to_owned(),
        (0, unplayed) => format!("{unplayed} scenarios were not played to their end"),
        (1, _) => "the client broke a rule once".to_owned(),
        (faults, _) => format!("the client broke rules {faults} times"),
    };
    Err(Failure::message(exit::FAILED, text))
}
