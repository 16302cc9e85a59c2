//! Attacks on TLS: its handshake and its records.

use rand::RngExt as _;

use super::{FRAME_INTERVAL, Ingredients, cut, login};
use crate::script::{Script, Step};
use crate::wire;

/// The largest protected part of a record that is allowed.
const PROTECTED_MAX: u16 = (1 << 14) + 256;

pub(super) fn hello(ingredients: &Ingredients) -> Vec<Script> {
    let hello = &ingredients.hello;
    vec![
        Script::new([Step::HalfHandshake, Step::Hold]),
        Script::new([Step::Send(hello.clone().into())]),
        Script::new([Step::Send(cut(hello.clone()).into())]),
        Script::new([Step::Send(hello[..hello.len() / 2].into())]),
    ]
}

pub(super) fn garbage(ingredients: &Ingredients) -> Vec<Script> {
    let mut rng = rand::rng();
    let mut record = |content_type: u8, claimed: u16, len: usize| -> Vec<u8> {
        let [high, low] = claimed.to_be_bytes();
        let random = (0..len).map(|_| rng.random::<u8>());
        [content_type, 3, 3, high, low]
            .into_iter()
            .chain(random)
            .collect()
    };
    let raw = [
        record(22, 500, 500),
        record(23, 500, 500),
        record(20, 1, 1),
        record(22, 0, 0).repeat(50),
        record(22, PROTECTED_MAX, usize::from(PROTECTED_MAX)),
        record(22, u16::MAX, 100),
        [ingredients.hello.clone(), record(23, 100, 100)].concat(),
    ];
    let raw = raw
        .into_iter()
        .map(|bytes| Script::new([Step::Send(bytes.into())]));
    let in_session = [
        Script::new([Step::ShakeHands, Step::ForgedRecord]),
        login().then([Step::ForgedRecord]),
    ];
    raw.chain(in_session).collect()
}

pub(super) fn key_updates(_: &Ingredients) -> Vec<Script> {
    let frame = Step::KeyUpdate(wire::heartbeat().into());
    vec![repeated(login(), frame)]
}

pub(super) fn empty_records(_: &Ingredients) -> Vec<Script> {
    let burst = |script: Script| script.then(vec![Step::EmptyRecord; 20]);
    vec![
        // Twenty in a row, with a heartbeat before the next ones.
        repeated(burst(login()), Step::Send(wire::heartbeat().into())),
        // More than are allowed in a row.
        login().then(vec![Step::EmptyRecord; 200]),
        Script::new([Step::ShakeHands]).then(vec![Step::EmptyRecord; 200]),
    ]
}

/// Appends a step, and repeats everything after the login at the rate that frames may have.
fn repeated(script: Script, step: Step) -> Script {
    let from = login().steps.len();
    script.then([
        step,
        Step::Repeat {
            from,
            every: FRAME_INTERVAL,
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::super::tests::ingredients;
    use super::*;

    #[test]
    fn repeated_records_follow_a_single_login() {
        let all = [
            key_updates(&ingredients(true)),
            empty_records(&ingredients(true)),
        ]
        .concat();
        for script in all {
            let logins = script
                .steps
                .iter()
                .filter(|step| matches!(step, Step::Auth));
            assert!(logins.count() <= 1);
            for step in &script.steps {
                if let Step::Repeat { from, .. } = step {
                    assert!(!matches!(script.steps[*from], Step::AwaitAck | Step::Auth));
                }
            }
        }
    }
}
