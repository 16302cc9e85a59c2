//! The monitoring of the test's cluster, which is faster than the real one: a test cannot wait an
//! hour for an alert. Prometheus reads a copy of `deploy/prometheus` in which every duration is
//! divided by [`SPEED`]: intervals, `for`, and the ranges and offsets in expressions. Everything
//! else in the expressions stays as it is.
//!
//! The copy differs in one more way: a scrape may take as long as the interval between two scrapes,
//! since a third of a second would be too short. What Prometheus measures is as slow as ever. In
//! minute mode, for example, an edge seems to send no ticks for most of each minute.

use std::{fs, io, path::Path, sync::LazyLock};

use anyhow::{Context, Result, bail};
use regex::{Captures, Regex};
use serde_json::{Value, json};

use crate::command::in_workspace;

/// The factor. The shortest range of the rules is a minute, which must contain several scrapes, and
/// these are a second apart.
const SPEED: u64 = 15;

/// `HOLDOVER_MAX` of the edges, so that an edge without clocks loses the time after 22 s instead of
/// 62 s, and a clock that was wrong is accepted again after 20 s.
const HOLDOVER_MAX: &str = "20s";

/// The directories, relative to the workspace's root.
const SOURCE: &str = "deploy/prometheus";
const TARGET: &str = "target/compose-test-monitoring";

/// The file that makes Compose use the copy, relative to the workspace's root.
const OVERRIDE: &str = "target/compose-test-monitoring/compose.yml";

/// The keys whose values are durations.
const DURATIONS: [&str; 4] = ["scrape_interval", "evaluation_interval", "interval", "for"];

/// The jobs to which tests add targets, each in a file `targets/<job>.json`.
const JOBS_WITH_MORE_TARGETS: [&str; 2] = ["tickstorm-edge", "tickstorm-clock"];

/// A range such as `[5m]`, or an offset such as `offset 3m`.
static RANGE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(\[|offset )([0-9a-z]+)").expect("the expression is valid"));

/// Compose's options for the cluster with this monitoring.
pub(super) fn options() -> String {
    format!("-f compose/monitoring.yml -f {OVERRIDE}")
}

/// Returns the directory in which tests write the files of further targets.
pub(super) fn targets() -> String {
    in_workspace(TARGET)
        .join("prometheus/targets")
        .display()
        .to_string()
}

/// Writes the copy, and the file that makes Compose use it.
pub(super) fn write() -> Result<()> {
    remove()?;
    let (source, target) = (in_workspace(SOURCE), in_workspace(TARGET));
    let prometheus = target.join("prometheus");
    fs::create_dir_all(prometheus.join("rules"))?;
    fs::create_dir_all(prometheus.join("targets"))?;
    let config = with_more_targets(faster_file(&source.join("prometheus.yml"))?)?;
    write_json(&prometheus.join("prometheus.yml"), &config)?;
    for entry in fs::read_dir(source.join("rules"))? {
        let path = entry?.path();
        let name = path.file_name().context("an entry has a name")?;
        let rules = faster_file(&path)?;
        write_json(&prometheus.join("rules").join(name), &rules)?;
    }
    let mounted = format!(
        "{}:/etc/prometheus:ro",
        prometheus.canonicalize()?.display()
    );
    let services = json!({
        "prometheus": { "volumes": [mounted] },
        "edge": { "environment": { "HOLDOVER_MAX": HOLDOVER_MAX } },
    });
    write_json(&in_workspace(OVERRIDE), &json!({ "services": services }))
}

/// Removes what an earlier run has written.
fn remove() -> Result<()> {
    let path = in_workspace(TARGET);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// JSON is also YAML.
fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?)
        .with_context(|| format!("could not write {}", path.display()))
}

fn faster_file(path: &Path) -> Result<Value> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("could not read {shown}"))?;
    let value =
        serde_saphyr::from_str(&text).with_context(|| format!("could not parse {shown}"))?;
    faster(value).with_context(|| format!("could not convert {shown}"))
}

/// Returns `value` with shorter durations.
fn faster(value: Value) -> Result<Value> {
    Ok(match value {
        Value::Array(items) => Value::Array(items.into_iter().map(faster).collect::<Result<_>>()?),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            let fields = fields.map(|(key, value)| {
                let value = faster_field(&key, value)?;
                anyhow::Ok((key, value))
            });
            Value::Object(fields.collect::<Result<_>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    })
}

fn faster_field(key: &str, value: Value) -> Result<Value> {
    match value.as_str() {
        Some(duration) if DURATIONS.contains(&key) => Ok(Value::String(divided(duration)?)),
        Some(expression) if key == "expr" => Ok(Value::String(faster_expression(expression)?)),
        Some(_) | None => faster(value),
    }
}

fn faster_expression(expression: &str) -> Result<String> {
    let mut first_error = None;
    let converted = RANGE.replace_all(expression, |range: &Captures<'_>| {
        match divided(&range[2]) {
            Ok(duration) => format!("{}{duration}", &range[1]),
            Err(error) => {
                first_error.get_or_insert(error);
                String::new()
            }
        }
    });
    match first_error {
        None => Ok(converted.into_owned()),
        Some(error) => Err(error.context(format!("in {expression}"))),
    }
}

/// Divides a duration such as `5m` by [`SPEED`].
fn divided(duration: &str) -> Result<String> {
    let end_of_number = duration.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = duration.split_at(end_of_number.unwrap_or(duration.len()));
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => bail!("{duration} is no duration in a single unit from seconds to days"),
    };
    let number: u64 = number.parse()?;
    Ok(format!("{}ms", number * unit_ms / SPEED))
}

/// Adds what only tests need: more targets, and more time for a scrape.
fn with_more_targets(mut config: Value) -> Result<Value> {
    config["global"]["scrape_timeout"] = config["global"]["scrape_interval"].clone();
    let jobs = config["scrape_configs"].as_array_mut();
    let jobs = jobs.context("prometheus.yml has no scrape_configs")?;
    for name in JOBS_WITH_MORE_TARGETS {
        let job = jobs.iter_mut().find(|job| job["job_name"] == name);
        let job = job.with_context(|| format!("prometheus.yml has no job {name}"))?;
        job["file_sd_configs"] = json!([{ "files": [format!("targets/{name}.json")] }]);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_divided_and_nothing_else() {
        let rule = json!({ "interval": "30s", "rules": [{
            "alert": "A",
            "expr": "rate(a_total{le=\"1\"}[5m] offset 3m) * 3600 > avg_over_time(b[1d])",
            "for": "1h",
            "labels": { "severity": "warning" },
            "annotations": { "description": "in the last 10 minutes [5m]" },
        }] });
        let expected = json!({ "interval": "2000ms", "rules": [{
            "alert": "A",
            "expr": "rate(a_total{le=\"1\"}[20000ms] offset 12000ms) * 3600 > \
                     avg_over_time(b[5760000ms])",
            "for": "240000ms",
            "labels": { "severity": "warning" },
            "annotations": { "description": "in the last 10 minutes [5m]" },
        }] });
        assert_eq!(faster(rule).unwrap(), expected);
    }

    #[test]
    fn a_duration_of_another_form_is_an_error() {
        for unknown in ["1h30m", "5w", "m"] {
            assert!(divided(unknown).is_err(), "{unknown}");
            assert!(
                faster_expression(&format!("rate(a[{unknown}])")).is_err(),
                "{unknown}"
            );
        }
    }

    #[test]
    fn every_file_can_be_converted() {
        let source = in_workspace(SOURCE);
        let config = faster_file(&source.join("prometheus.yml")).unwrap();
        assert_eq!(config["global"]["scrape_interval"], "1000ms");
        let config = with_more_targets(config).unwrap();
        assert_eq!(config["global"]["scrape_timeout"], "1000ms");
        for entry in fs::read_dir(source.join("rules")).unwrap() {
            let rules = faster_file(&entry.unwrap().path()).unwrap();
            assert!(
                rules["groups"][0]["interval"]
                    .as_str()
                    .unwrap()
                    .ends_with("000ms")
            );
        }
    }
}
