//! Scenarios in virtual time, with a client that obeys the protocol and with clients that each
//! break one rule.

mod client;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use secrecy::SecretString;
use tickstorm_timebase::{Mono, UnixTime};

use self::client::{Act, Client, Vice};
use super::connection::ConnectionId;
use super::judge::Login;
use super::outbox::Write;
use super::play::{Effect, Outcome, Play};
use super::rule::{Fault, Rule};
use super::script::Scenario;

const BEGAN: Mono = Mono::from_nanos(1_000_000_000_000);
/// The time from one side to the other.
const LATENCY: Duration = Duration::from_millis(2);
/// The longest run: all scenarios, with the waits between them.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// What is on its way from one side to the other.
enum Parcel {
    ToClient(ConnectionId, Write),
    ToEdge(ConnectionId, Vec<u8>),
    Closed(ConnectionId),
}

struct Simulation {
    play: Play,
    client: Client,
    parcels: VecDeque<(Mono, Parcel)>,
    now: Mono,
    faults: Vec<Fault>,
    closed: BTreeSet<ConnectionId>,
}

impl Simulation {
    fn new(vice: Vice, seed: u64) -> Self {
        let login = Login {
            user: "stream_user".into(),
            password: SecretString::from("stream_pass"),
        };
        let unix = UnixTime::from_nanos(1_800_000_000_370_000_000);
        Self {
            play: Play::new(login, unix, BEGAN, 7),
            client: Client::new(vice, BEGAN, seed),
            parcels: VecDeque::new(),
            now: BEGAN,
            faults: Vec::new(),
            closed: BTreeSet::new(),
        }
    }

    fn play(&mut self, scenario: Scenario) -> Outcome {
        self.play.begin(scenario, self.now);
        loop {
            self.step();
            if let Some(outcome) = self.play.outcome() {
                return outcome;
            }
            let next_parcel = self.parcels.front().map_or(Mono::NEVER, |(at, _)| *at);
            let next = self
                .play
                .next_wake(self.now)
                .min(self.client.next_wake(self.now));
            let next = next.min(next_parcel);
            assert!(
                next > self.now,
                "{scenario:?} wakes up without a reason at {next:?}"
            );
            assert!(
                next < BEGAN + TIME_MAX,
                "{scenario:?} does not end: {:?}",
                self.faults
            );
            self.now = next;
        }
    }

    /// Does all that is due now, on both sides.
    fn step(&mut self) {
        let now = self.now;
        while let Some((at, _)) = self.parcels.front()
            && *at <= now
            && let Some((_, parcel)) = self.parcels.pop_front()
        {
            match parcel {
                Parcel::ToClient(id, Write::Bytes(bytes)) => {
                    self.client.handle_bytes(id, &bytes, now);
                }
                Parcel::ToClient(id, Write::Finish | Write::Reset) => {
                    self.client.handle_closed(id, now);
                }
                Parcel::ToEdge(id, bytes) => self.play.handle_bytes(id, &bytes, now),
                Parcel::Closed(id) => self.play.handle_closed(id, now),
            }
        }
        self.client.poll(now);
        for act in std::mem::take(&mut self.client.acts) {
            match act {
                Act::Connect => {
                    let id = self.play.handle_connected(now).unwrap();
                    self.client.handle_connected(id, now);
                }
                Act::Send(id, bytes) => self.send(Parcel::ToEdge(id, bytes)),
                Act::Close(id) => {
                    if self.closed.insert(id) {
                        self.send(Parcel::Closed(id));
                    }
                }
            }
        }
        for act in std::mem::take(&mut self.client.acts) {
            match act {
                Act::Send(id, bytes) => self.send(Parcel::ToEdge(id, bytes)),
                Act::Connect | Act::Close(_) => panic!("{act:?} right after connecting"),
            }
        }
        self.play.poll(now);
        while let Some(effect) = self.play.next_effect() {
            match effect {
                Effect::Write(id, write) => self.send(Parcel::ToClient(id, write)),
                Effect::Note(_) => {}
                Effect::Fault(fault) => self.faults.push(fault),
            }
        }
    }

    fn send(&mut self, parcel: Parcel) {
        self.parcels.push_back((self.now + LATENCY, parcel));
    }

    fn assert_unbroken(&self) {
        for pair in self.client.ticks.windows(2) {
            assert_eq!(pair[0] + 1_000, pair[1]);
        }
        assert!(self.client.ticks.len() > 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_client_that_obeys_has_no_faults_and_all_ticks(seed: u64) {
        for scenario in Scenario::ALL {
            let mut simulation = Simulation::new(Vice::None, seed);
            prop_assert_eq!(simulation.play(scenario), Outcome::Played);
            prop_assert_eq!(&simulation.faults, &[], "{:?}", scenario);
            let limit = if scenario == Scenario::WrongPassword {
                90
            } else {
                45
            };
            let took = simulation.now.since(BEGAN);
            prop_assert!(took < Duration::from_secs(limit), "{scenario:?} took {took:?}");
            simulation.assert_unbroken();
        }
    }
}

#[test]
fn a_client_that_obeys_passes_all_in_turn() {
    let mut simulation = Simulation::new(Vice::None, 5);
    for scenario in Scenario::ALL {
        assert_eq!(simulation.play(scenario), Outcome::Played, "{scenario:?}");
        assert_eq!(simulation.faults, [], "{scenario:?}");
        simulation.assert_unbroken();
    }
}

/// Plays a scenario to a client with a vice, and returns its faults.
fn faults(scenario: Scenario, vice: Vice) -> Vec<Fault> {
    let mut simulation = Simulation::new(vice, 11);
    simulation.play(scenario);
    simulation.faults
}

/// A scenario that finds each vice, and the rule that it names.
const VICES: &[(Vice, Scenario, Rule)] = &[
    (Vice::NeverResumes, Scenario::Drain, Rule::Resuming),
    (Vice::NeverResumes, Scenario::GoingAway, Rule::Resuming),
    (Vice::ResumesTooEarly, Scenario::Drain, Rule::Resuming),
    (Vice::ResumesTooLate, Scenario::Cut, Rule::Resuming),
    (Vice::ComesBackEarly, Scenario::Drain, Rule::RetryAfter),
    (Vice::ComesBackEarly, Scenario::Hints, Rule::OnceMore),
    (Vice::ComesBackEarly, Scenario::NoTime, Rule::ElsewhereLater),
    (Vice::ComesBackEarly, Scenario::WrongPassword, Rule::No),
    (Vice::ComesBackLate, Scenario::Drain, Rule::Waits),
    (Vice::GivesUp, Scenario::Unknown, Rule::Waits),
    (Vice::NeverWaits, Scenario::Cut, Rule::Waits),
    (Vice::NeverHeartbeats, Scenario::Splits, Rule::Heartbeats),
    (
        Vice::FloodsWithHeartbeats,
        Scenario::Splits,
        Rule::FrameRate,
    ),
    (
        Vice::DiesAtUnknownTypes,
        Scenario::Unknown,
        Rule::Compatibility,
    ),
    (
        Vice::DiesAtUnknownTypes,
        Scenario::Splits,
        Rule::NoBoundaries,
    ),
    (
        Vice::TrustsBadChecksums,
        Scenario::BadChecksum,
        Rule::Errors,
    ),
    (
        Vice::ResumesAfterTimeStepped,
        Scenario::StepBack,
        Rule::TimeStepped,
    ),
    (Vice::IgnoresGoingAway, Scenario::GoingAway, Rule::Moving),
    (Vice::BreaksBeforeItMakes, Scenario::GoingAway, Rule::Moving),
    (Vice::MovesToTheSameEdge, Scenario::GoingAway, Rule::Moving),
    (
        Vice::KeepsTheOldConnection,
        Scenario::GoingAway,
        Rule::Moving,
    ),
    (Vice::RetriesMovesAtOnce, Scenario::GoingAway, Rule::Moving),
    (Vice::StaysWithSilentEdges, Scenario::Cut, Rule::EdgeOfNoUse),
    (Vice::IsImpatientForAuth, Scenario::Slow, Rule::Patience),
    (
        Vice::IsImpatientForSubscribe,
        Scenario::Slow,
        Rule::Patience,
    ),
    (
        Vice::LeavesWhenTicksAreLate,
        Scenario::Slow,
        Rule::EdgeOfNoUse,
    ),
    (
        Vice::LeavesWhenTicksAreLate,
        Scenario::StepBack,
        Rule::EdgeOfNoUse,
    ),
    (
        Vice::AsksForTimeSeldom,
        Scenario::NoTime,
        Rule::AuthorityTime,
    ),
    (
        Vice::HasAClockThatGoesBack,
        Scenario::Drain,
        Rule::AuthorityTime,
    ),
    (
        Vice::HasAnotherPassword,
        Scenario::Drain,
        Rule::Authentication,
    ),
    (Vice::DropsTheCookie, Scenario::Cut, Rule::Cookies),
    (Vice::SubscribesFirst, Scenario::Drain, Rule::Authentication),
    (
        Vice::AuthenticatesTwice,
        Scenario::Drain,
        Rule::Authentication,
    ),
    (Vice::SendsTicks, Scenario::Drain, Rule::Errors),
    (Vice::SendsGarbage, Scenario::Drain, Rule::Frames),
    (Vice::SendsBadChecksums, Scenario::Drain, Rule::Frames),
    (Vice::AsksForAnUnknownMode, Scenario::Drain, Rule::Ticks),
    (Vice::SendsHalfAnAuth, Scenario::Drain, Rule::Authentication),
    (Vice::NeverSubscribes, Scenario::Drain, Rule::Session),
    (
        Vice::OpensASecondConnection,
        Scenario::Cut,
        Rule::OneSubscription,
    ),
];

#[test]
fn each_vice_is_found_by_a_scenario_and_named_with_its_rule() {
    let mut missed = Vec::new();
    for &(vice, scenario, rule) in VICES {
        let found = faults(scenario, vice);
        let rules: Vec<_> = found.iter().map(|fault| fault.rule).collect();
        if !rules.contains(&rule) {
            missed.push((vice, scenario, rule, found));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_client_that_does_not_read_is_told() {
    let mut simulation = Simulation::new(Vice::None, 3);
    simulation.play.begin(Scenario::Drain, BEGAN);
    simulation.step();
    simulation.play.handle_full(ConnectionId(1), BEGAN);
    simulation.step();
    assert_eq!(simulation.faults[0].rule, Rule::NeverStopReading);
}

#[test]
fn a_health_check_is_no_client() {
    let mut simulation = Simulation::new(Vice::None, 3);
    simulation.play.begin(Scenario::Drain, BEGAN);
    let id = simulation.play.handle_connected(BEGAN).unwrap();
    simulation.play.handle_closed(id, BEGAN + LATENCY);
    assert!(!simulation.play.has_client());
    assert_eq!(simulation.play(Scenario::Drain), Outcome::Played);
    assert_eq!(simulation.faults, []);
}

#[test]
fn a_stall_of_this_machine_excuses_the_client() {
    let late = |stall| {
        let mut simulation = Simulation::new(Vice::ComesBackLate, 3);
        simulation.play.handle_stall(stall);
        simulation.play(Scenario::Drain);
        simulation.faults.len()
    };
    assert!(late(Duration::ZERO) > 0);
    assert_eq!(late(Duration::from_secs(8)), 0);
}
