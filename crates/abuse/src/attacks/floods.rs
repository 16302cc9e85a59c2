//! Attacks by clients that have logged in: floods of frames, and output that they never read.

use std::time::Duration;

use super::{FRAME_INTERVAL, Ingredients, login, subscription};
use crate::script::{Script, Step};
use crate::wire;

/// The number of frames sent at the same time by clients that exceed the limit.
const BURST: usize = 500;
/// How far back a resume point is: a little less than RESUME_WINDOW, since the attack takes time.
const RESUME_BACK_MS: i64 = 540_000;
/// The interval at which a SUBSCRIBE is allowed if it costs ten frames.
const SUBSCRIBE_INTERVAL: Duration = Duration::from_millis(1_050);
/// The smallest receive buffer that Linux gives is 2,304 bytes, whatever is requested.
const SMALLEST_BUFFER: usize = 1;

pub(super) fn heartbeats(_: &Ingredients) -> Vec<Script> {
    let burst = wire::heartbeat().repeat(BURST);
    let mut scripts = vec![subscription().send_every(wire::heartbeat(), FRAME_INTERVAL); 9];
    scripts.push(subscription().then([Step::Send(burst.into())]));
    scripts
}

pub(super) fn subscribes(_: &Ingredients) -> Vec<Script> {
    let subscribe = wire::subscribe_quiet();
    let burst = subscribe.repeat(BURST);
    vec![
        login().send_every(subscribe.clone(), FRAME_INTERVAL),
        login().send_every(subscribe.clone(), FRAME_INTERVAL),
        login().send_every(subscribe.clone(), SUBSCRIBE_INTERVAL),
        login().send_every(subscribe, SUBSCRIBE_INTERVAL),
        login().then([Step::Send(burst.into())]),
    ]
}

pub(super) fn resumes(ingredients: &Ingredients) -> Vec<Script> {
    let resume = replay(ingredients);
    vec![
        login().send_every(resume.clone(), FRAME_INTERVAL),
        login().send_every(resume, SUBSCRIBE_INTERVAL),
    ]
}

pub(super) fn never_reading(ingredients: &Ingredients) -> Vec<Script> {
    let resume = Step::Send(replay(ingredients).into());
    let insists = login()
        .then([Step::StopReading])
        .send_every(replay(ingredients), SUBSCRIBE_INTERVAL);
    let waits = login()
        .then([Step::StopReading, resume.clone(), resume])
        .send_every(wire::heartbeat(), 2 * FRAME_INTERVAL);
    vec![insists, waits]
}

pub(super) fn zero_windows(ingredients: &Ingredients) -> Vec<Script> {
    let mut scripts = never_reading(ingredients);
    for script in &mut scripts {
        script.receive_buffer = Some(SMALLEST_BUFFER);
    }
    scripts
}

fn replay(ingredients: &Ingredients) -> Vec<u8> {
    wire::resume(ingredients.now_ms - RESUME_BACK_MS)
}
