//! Attacks with connections alone: what matters is how many there are and how they end.

use std::time::Duration;

use super::{Ingredients, cut, login, subscription};
use crate::script::{Script, Step};
use crate::wire;

/// The time in a state before a connection ends, so that there are many connections in each.
const IN_STATE: Duration = Duration::from_millis(200);
/// The interval between the bytes of a trickle.
const TRICKLE: Duration = Duration::from_secs(1);
/// The interval between heartbeats of a client that wants to stay.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(super) fn silent(_: &Ingredients) -> Vec<Script> {
    vec![Script::new([Step::Hold])]
}

pub(super) fn trickle(ingredients: &Ingredients) -> Vec<Script> {
    let auth = Step::Trickle(wire::largest_auth().into(), TRICKLE);
    let mut scripts = vec![Script::new([Step::ShakeHands, auth])];
    if ingredients.tls {
        let hello = ingredients.hello.clone().into();
        scripts.push(Script::new([Step::Trickle(hello, TRICKLE)]));
    }
    scripts
}

pub(super) fn churn(_: &Ingredients) -> Vec<Script> {
    [Step::Close, Step::Reset]
        .into_iter()
        .map(|end| Script::new([end]))
        .collect()
}

pub(super) fn resets(ingredients: &Ingredients) -> Vec<Script> {
    in_every_state(ingredients, &[Step::Pause(IN_STATE), Step::Reset])
}

pub(super) fn half_closes(ingredients: &Ingredients) -> Vec<Script> {
    in_every_state(
        ingredients,
        &[Step::Pause(IN_STATE), Step::HalfClose, Step::Hold],
    )
}

pub(super) fn half_open(ingredients: &Ingredients) -> Vec<Script> {
    in_every_state(ingredients, &[Step::Hold])
}

/// Logs in, subscribes, and stays.
pub(super) fn hold(_: &Ingredients) -> Vec<Script> {
    vec![subscription().send_every(wire::heartbeat(), HEARTBEAT)]
}

fn in_every_state(ingredients: &Ingredients, end: &[Step]) -> Vec<Script> {
    let half_auth = Step::Send(cut(wire::largest_auth()).into());
    let mut states = vec![
        Script::default(),
        Script::new([Step::ShakeHands, half_auth]),
        login(),
        subscription(),
    ];
    if ingredients.tls {
        states.push(Script::new([Step::HalfHandshake]));
    }
    let states = states.into_iter();
    states.map(|state| state.then(end.to_vec())).collect()
}
