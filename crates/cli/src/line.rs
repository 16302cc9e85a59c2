//! The representation of a tick as output: a line for people, or a JSON object for programs. The
//! fields of the JSON object are a contract.

use std::fmt;

use serde::Serialize;
use tickstorm_client::{Quality, Tick};

/// A tick as `--json` prints it, one object per line.
#[derive(Serialize)]
struct Json<'a> {
    epoch_ms: i64,
    mode: &'static str,
    quality: &'static str,
    /// The authority time at which the client read the tick, minus epoch_ms, in microseconds; null
    /// while authority time is not known.
    late_us: Option<i64>,
    /// The error bound of late_us, in microseconds; null if late_us is null.
    error_us: Option<u64>,
    edge_id: &'a str,
}

/// Formats the tick as one JSON object.
pub(crate) fn json(tick: &Tick, edge_id: &str) -> String {
    let json = Json {
        epoch_ms: tick.epoch.as_ms(),
        mode: tick.mode.name(),
        quality: quality(tick.quality),
        late_us: tick.late_us(),
        error_us: tick.read.map(|read| read.error_us),
        edge_id,
    };
    serde_json::to_string(&json).expect("numbers and strings can be serialised as JSON")
}

/// Displays a tick in columns: its UTC time, epoch_ms, mode, quality and lateness.
pub(crate) struct Line<'a>(pub(crate) &'a Tick);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tick) = self;
        let epoch_ms = tick.epoch.as_ms();
        // A faulty edge could send an epoch_ms beyond every calendar: epoch_ms alone has to suffice
        // then.
        match jiff::Timestamp::from_millisecond(epoch_ms) {
            Ok(time) => write!(f, "{time:<20}")?,
            Err(_) => write!(f, "{:<20}", "-")?,
        }
        let (mode, quality) = (tick.mode.name(), quality(tick.quality));
        write!(f, "  {epoch_ms}  {mode:<6}  {quality:<8}  ")?;
        Lateness(tick).fmt(f)
    }
}

/// Displays the lateness of a tick in milliseconds: `+0.21 ms ±0.05`, or `?` while authority time
/// is not known.
pub(crate) struct Lateness<'a>(pub(crate) &'a Tick);

impl fmt::Display for Lateness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tick) = self;
        match (tick.late_us(), tick.read) {
            (Some(late_us), Some(read)) => {
                let (late_ms, error_ms) =
                    (late_us as f64 / 1_000.0, read.error_us as f64 / 1_000.0);
                write!(f, "{late_ms:+.2} ms ±{error_ms:.2}")
            }
            (_, _) => f.write_str("?"),
        }
    }
}

fn quality(quality: Quality) -> &'static str {
    match quality {
        Quality::Normal => "normal",
        Quality::Holdover => "holdover",
        Quality::Replay => "replay",
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_client::{Epoch, Estimate, Mode, UnixTime};

    use super::*;

    fn tick(epoch_ms: i64, read_us: Option<i64>) -> Tick {
        let read = read_us.map(|us| Estimate::new(UnixTime::from_micros(us).unwrap(), 54));
        Tick::new(Mode::Second, Epoch::from_ms(epoch_ms), Quality::Holdover).read_at(read)
    }

    #[test]
    fn a_line_has_time_epoch_mode_quality_and_lateness() {
        let line = |epoch_ms, read_us| Line(&tick(epoch_ms, read_us)).to_string();
        assert_eq!(
            line(1_770_091_506_000, Some(1_770_091_506_000_214)),
            "2026-02-03T04:05:06Z  1770091506000  second  holdover  +0.21 ms ±0.05"
        );
        assert_eq!(
            line(1_709_208_000_000, Some(1_709_207_999_999_000)),
            "2024-02-29T12:00:00Z  1709208000000  second  holdover  -1.00 ms ±0.05"
        );
        assert_eq!(
            line(i64::MAX, None),
            "-                     9223372036854775807  second  holdover  ?"
        );
    }

    #[test]
    fn json_has_the_documented_fields_on_one_line() {
        assert_eq!(
            json(&tick(7_000, Some(7_002_500)), "e\n\"1"),
            concat!(
                r#"{"epoch_ms":7000,"mode":"second","quality":"holdover","#,
                r#""late_us":2500,"error_us":54,"edge_id":"e\n\"1"}"#
            )
        );
        assert_eq!(
            json(&tick(7_000, None), "e1"),
            concat!(
                r#"{"epoch_ms":7000,"mode":"second","quality":"holdover","#,
                r#""late_us":null,"error_us":null,"edge_id":"e1"}"#
            )
        );
    }
}
