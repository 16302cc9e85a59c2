//! The vectors in `conformance/` of changes of mode.

use serde_json::Value;
use tickstorm_testkit::vectors::{cases, integer};
use tickstorm_timebase::{Epoch, Mode, UnixTime};

use super::Resume;
use crate::estimate::Estimate;

fn mode_of(name: &Value) -> Mode {
    match name.as_str() {
        Some("SECOND") => Mode::Second,
        Some("MINUTE") => Mode::Minute,
        Some(_) | None => panic!("{name} is no mode"),
    }
}

fn epoch_of(value: &Value) -> Option<Epoch> {
    (!value.is_null()).then(|| Epoch::from_ms(integer(value)))
}

/// Returns the latest millisecond that has certainly begun, as a subscription does.
fn present_of(value: &Value) -> Option<Epoch> {
    let unix = UnixTime::from_micros(integer(value.get("authority_us")?)).unwrap();
    let estimate = Estimate::new(unix, value["error_us"].as_u64().unwrap());
    Some(Epoch::from_ms(estimate.earliest().as_millis()))
}

#[test]
fn a_change_of_mode_resumes_where_the_vectors_say() {
    for case in cases("modes.json", "modes") {
        let resume = Resume {
            other: epoch_of(&case["received_before_epoch_ms"]),
            ..Resume::new(mode_of(&case["old_mode"]), epoch_of(&case["last_epoch_ms"]))
        };
        let mode = mode_of(&case["new_mode"]);
        let changed = resume.changed_to(mode, present_of(&case["present"]));
        assert_eq!(changed.mode(), mode);
        let expected = epoch_of(&case["resume_after_epoch_ms"]);
        assert_eq!(changed.point(), expected, "{}", case["id"]);
    }
}
