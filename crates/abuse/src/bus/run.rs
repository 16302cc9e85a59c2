//! One attack on the bus: the seconds before it, the attack, and what was found.

use std::time::Duration;

use tickstorm_command::Failure;

use super::attack::{BusAttack, StolenLogin};
use super::evidence::{Evidence, Named};
use super::figures::{BusFigures, RoundFigures};
use super::stage::{BusStage, HONEST, STOLEN};
use super::theft::{COMMAND, TheftCounts, TheftOrder};
use super::thief::SUBSCRIPTIONS_MAX;
use crate::ordered_process::{OrderedProcess, Priority};
use crate::run::{Run, RunOutcome};
use crate::surroundings::Surroundings;

/// The ticks before the attack in a short run.
const BASELINE_TICKS_SHORT: u32 = 2;
/// The most by which a tick may be late.
const LATE_AFTER: Duration = Duration::from_millis(40);
/// The same in a short run, on a machine that may be busy with other work: only a wrong time
/// explains more.
const LATE_AFTER_SHORT: Duration = Duration::from_secs(1);

/// Runs the attack, on a stage of its own.
pub(crate) fn run(
    run: &Run,
    attack: BusAttack,
    surroundings: &Surroundings,
) -> Result<RunOutcome, Failure> {
    let mut stage = BusStage::start(run, surroundings)?;
    let (ticks, late_after) = if run.short {
        (BASELINE_TICKS_SHORT, LATE_AFTER_SHORT)
    } else {
        (run.seconds, LATE_AFTER)
    };
    let baseline = stage.phase(ticks, late_after)?;
    stage.take_harm()?;
    let before = stage.evidence()?;
    if attack.replaces_clock() {
        stage.stop_stolen();
    }
    let order = order(run, attack, &stage, surroundings);
    let thief = OrderedProcess::<TheftCounts>::start(COMMAND, &order, Priority::Idle)?;
    let attacked = stage.phase(run.seconds, late_after)?;
    let during = stage.evidence()?;
    let counts = thief.stop()?;
    let harm = stage.take_harm()?;

    let mut outcome = RunOutcome::default();
    let figures = &mut outcome.figures;
    figures.baseline = Some(baseline.lateness);
    figures.attacked = Some(attacked.lateness);
    figures.baseline_cpu_percent = baseline.cpu_percent;
    figures.cpu_percent = attacked.cpu_percent;
    figures.probes = Some(attacked.probes);
    figures.take_harm(harm);
    figures.edge_ended = stage.end();
    figures.void = void(attack, counts);
    figures.bus = Some(BusFigures {
        login: attack.login(),
        counts,
        seconds: run.seconds,
        let_through: let_through(attack, counts),
        late: attacked.late,
        rounds: rounds(&before, &during),
        named: named(attack, &during),
        warnings: difference(&before, &during, |edge| Some(edge.warnings_total())).unwrap_or(0),
    });
    Ok(outcome)
}

fn order(
    run: &Run,
    attack: BusAttack,
    stage: &BusStage,
    surroundings: &Surroundings,
) -> TheftOrder {
    let nats = &stage.nats;
    let of_clock = nats.clocks.iter().find(|login| login.user == STOLEN);
    let login = match attack.login() {
        StolenLogin::Clock => of_clock.unwrap_or(&nats.edge),
        StolenLogin::Edge => &nats.edge,
    };
    TheftOrder {
        attack,
        nats: nats.addr(),
        user: login.user.clone(),
        password: login.password.clone(),
        own: STOLEN.to_owned(),
        others: HONEST.map(str::to_owned).to_vec(),
        seconds: run.seconds,
        cpus: surroundings.hostile_cpus.clone(),
    }
}

/// Returns why the attack did not take place, if it did not.
fn void(attack: BusAttack, counts: TheftCounts) -> Option<String> {
    if counts.published + counts.subscribed == 0 {
        return Some("nothing was published".into());
    }
    let must_hear = !matches!(attack, BusAttack::Requests | BusAttack::Subscriptions);
    if counts.heard == 0 && must_hear {
        return Some("the thief has heard no message".into());
    }
    let is_refused = attack == BusAttack::OtherNames && counts.refused == 0;
    is_refused.then(|| "NATS refused no message in another clock's name".into())
}

/// Returns how much NATS has let through that it must refuse.
fn let_through(attack: BusAttack, counts: TheftCounts) -> u64 {
    if attack == BusAttack::Subscriptions {
        // Each connection may have some, and what a cut one was refused is not known.
        let allowed = u64::from(SUBSCRIPTIONS_MAX);
        let kept = counts.subscribed.saturating_sub(counts.excess_refused);
        return if counts.cut_off == 0 {
            kept.saturating_sub(allowed)
        } else {
            0
        };
    }
    if !attack.must_be_refused() {
        return 0;
    }
    let subscriptions = u64::from(counts.subscriptions_refused == 0);
    counts.published.saturating_sub(counts.refused) + subscriptions
}

fn named(attack: BusAttack, edges: &[Evidence]) -> Option<Named> {
    if attack.login() == StolenLogin::Edge {
        return None;
    }
    let each = edges.iter().map(|edge| edge.named(STOLEN, &HONEST));
    each.reduce(Named::and)
}

fn rounds(before: &[Evidence], after: &[Evidence]) -> Option<RoundFigures> {
    Some(RoundFigures {
        answered: difference(before, after, Evidence::rounds_answered)?,
        lost: difference(before, after, Evidence::rounds_lost)?,
    })
}

/// Returns by how much a count has risen over all edges; `None` if an edge does not have it.
fn difference(
    before: &[Evidence],
    after: &[Evidence],
    count: impl Fn(&Evidence) -> Option<u64>,
) -> Option<u64> {
    let pairs = before.iter().zip(after);
    pairs
        .map(|(before, after)| Some(count(after)?.saturating_sub(count(before)?)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_edge_publishes_must_all_be_refused() {
        let counts = TheftCounts {
            published: 10,
            refused: 10,
            subscriptions_refused: 2,
            heard: 1,
            ..TheftCounts::default()
        };
        assert_eq!(let_through(BusAttack::Posing, counts), 0);
        let one_passed = TheftCounts {
            refused: 9,
            ..counts
        };
        assert_eq!(let_through(BusAttack::Posing, one_passed), 1);
        let subscribed = TheftCounts {
            subscriptions_refused: 0,
            ..counts
        };
        assert_eq!(let_through(BusAttack::Posing, subscribed), 1);
        assert_eq!(let_through(BusAttack::Answers, one_passed), 0);
    }

    #[test]
    fn a_connection_may_have_a_few_subscriptions_only() {
        let counts = TheftCounts {
            subscribed: 400_000,
            excess_refused: 399_993,
            ..TheftCounts::default()
        };
        assert_eq!(let_through(BusAttack::Subscriptions, counts), 0);
        assert_eq!(void(BusAttack::Subscriptions, counts), None);
        let unlimited = TheftCounts {
            excess_refused: 0,
            ..counts
        };
        assert_eq!(let_through(BusAttack::Subscriptions, unlimited), 399_992);
        assert!(void(BusAttack::Subscriptions, TheftCounts::default()).is_some());
    }

    #[test]
    fn an_attack_without_a_message_did_not_take_place() {
        let counts = TheftCounts {
            published: 1,
            heard: 1,
            ..TheftCounts::default()
        };
        assert_eq!(void(BusAttack::Answers, counts), None);
        assert!(void(BusAttack::OtherNames, counts).is_some());
        assert!(void(BusAttack::Answers, TheftCounts::default()).is_some());
    }
}
