//! The vectors in `conformance/`: the estimate of authority time, and a whole client over scripted
//! edges, in virtual time.

mod comebacks;
mod moves;
mod runs;
mod script;
mod sessions;

use serde_json::Value;
use tickstorm_client::error::Return;
use tickstorm_client::estimate::{Estimator, PongExchange};
use tickstorm_client::{Epoch, Mode};
use tickstorm_testkit::vectors::{cases, integer, interval};
use tickstorm_timebase::Mono;

/// The tolerance of results in microseconds, as the vectors say.
const TOLERANCE_US: i64 = 2;

fn mode_of(case: &Value) -> Mode {
    match case["mode"].as_str() {
        Some("MINUTE") => Mode::Minute,
        Some("SECOND") | None => Mode::Second,
        Some(other) => panic!("{other} is no mode"),
    }
}

fn epoch_of(value: &Value) -> Option<Epoch> {
    (!value.is_null()).then(|| Epoch::from_ms(integer(value)))
}

/// Returns how a client comes back, in the words of the vectors.
fn words(class: Return, resumes: bool) -> &'static str {
    match class {
        Return::RetryResumeOnce if resumes => "once more with it, then without",
        Return::No | Return::RetryResumeOnce => "no",
        Return::AtOnce => "at once",
        Return::AtOnceWithoutResume => "at once, without the resume point",
        Return::Later => "later",
        Return::Elsewhere => "another edge, later",
    }
}

fn micros(us: i64) -> Mono {
    Mono::from_nanos(u64::try_from(us).unwrap() * 1_000)
}

fn exchange(pong: &Value) -> PongExchange {
    let bound = |name: &str| u32::try_from(pong[name].as_u64().unwrap_or(0)).unwrap();
    PongExchange {
        t1_us: integer(&pong["t1_us"]),
        t2_us: integer(&pong["t2_us"]),
        t3_us: integer(&pong["t3_us"]),
        t4_us: integer(&pong["t4_us"]),
        error_bound_us: bound("error_bound_us"),
        clock_error_us: bound("clock_error_us"),
    }
}

#[test]
fn authority_time_is_estimated_as_the_vectors_say() {
    for case in cases("estimate.json", "cases") {
        let (mut estimator, id) = (Estimator::new(), &case["id"]);
        for step in case["steps"].as_array().unwrap() {
            if let Some(pong) = step.get("pong") {
                estimator.handle_exchange(&exchange(pong));
            } else if let Some(at) = step.get("stall_at_us") {
                estimator.handle_stall(micros(integer(at)));
            } else if step["new_connection"] == true {
                estimator.handle_connection();
            } else {
                let at = integer(&step["at_us"]);
                let found = estimator.estimate(micros(at));
                let Some(found) = found.filter(|_| !step["expect"].is_null()) else {
                    assert!(
                        found.is_none() && step["expect"].is_null(),
                        "{id}: {found:?}"
                    );
                    continue;
                };
                let offset = found.unix.as_micros() - at;
                let wrong_by = offset - integer(&step["expect"]["offset_us"]);
                assert!(wrong_by.abs() <= TOLERANCE_US, "{id}: offset {offset}");
                let (least, most) = interval(&step["expect"]["error_us"]);
                let error = i64::try_from(found.error_us).unwrap();
                let is_right = (least - TOLERANCE_US..=most + TOLERANCE_US).contains(&error);
                assert!(is_right, "{id}: error {error} instead of {least} to {most}");
            }
        }
    }
}
