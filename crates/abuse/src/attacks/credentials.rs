//! Attacks that guess passwords and tokens.

use rand::RngExt as _;

use super::{Ingredients, opening};
use crate::script::Script;
use crate::wire::{self, COOKIE_LEN};

/// The number of scripts, each with its own guess.
const GUESSES: usize = 64;

pub(super) fn wrong_passwords(ingredients: &Ingredients) -> Vec<Script> {
    let user = &ingredients.login.user;
    (0..GUESSES)
        .map(|number| {
            let guess = random_text();
            let frame = match number % 4 {
                0 => wire::auth(&random_text(), &guess, &[]),
                // A forged device cookie must bring no advantage.
                1 => wire::auth(user, &guess, &rand::rng().random::<[u8; COOKIE_LEN]>()),
                _ => wire::auth(user, &guess, &[]),
            };
            opening(frame)
        })
        .collect()
}

pub(super) fn wrong_tokens(_: &Ingredients) -> Vec<Script> {
    (0..GUESSES)
        .map(|_| opening(wire::auth_with_token(&random_text())))
        .collect()
}

fn random_text() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}
