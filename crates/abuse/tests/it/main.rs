//! The program at small sizes: an edge, a crowd, and an attack, each in a process of its own. The
//! speeds that it measures are not judged here.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

use std::process::{Command, Output};

use serde_json::Value;

/// Runs the program on an edge with these settings, and returns what it printed and the only row of
/// its results.
fn run(options: &[&str], settings: &[(&str, &str)]) -> (Output, Value) {
    let json = std::env::temp_dir().join(format!(
        "tickstorm-abuse-{}-{}.json",
        std::process::id(),
        options.join("")
    ));
    let output = Command::new(env!("CARGO_BIN_EXE_tickstorm-abuse"))
        .args([
            "run",
            "--short",
            "--clients",
            "20",
            "--hostile",
            "50",
            "--seconds",
            "3",
        ])
        .args(options)
        .arg("--json")
        .arg(&json)
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&json)
        .unwrap_or_else(|error| panic!("no results ({error}): {output:?}"));
    std::fs::remove_file(&json).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    let rows = results["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{results}");
    (output, rows[0].clone())
}

#[test]
fn an_attack_takes_place_and_honest_clients_get_every_tick() {
    for transport in ["plain", "tls"] {
        let (output, row) = run(&["--only", "half-frames", "--transport", transport], &[]);
        assert_eq!(row["missing"], 0, "{output:?}");
        assert_eq!(row["wrong"], 0, "{output:?}");
        assert_eq!(row["void"], Value::Null, "{output:?}");
        // On a busy machine, the hostile process may not get to all 50 in its few seconds.
        assert!(row["hostile"]["connected"].as_u64() >= Some(25), "{row}");
        assert!(row["baseline"]["p99_ms"].as_f64() > Some(0.0), "{row}");
        assert!(row["attacked"]["p99_ms"].as_f64() > Some(0.0), "{row}");
        assert!(row["memory"]["height"].as_u64() > Some(1 << 20), "{row}");
        assert!(row["new_clients"]["all"].as_u64() > Some(0), "{row}");
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("| half-frames "), "{table}");
    }
}

#[test]
fn a_broken_promise_is_named_and_ends_the_program_with_code_1() {
    let settings = [("MAX_CONNECTIONS", "20")];
    let (output, row) = run(&["--only", "none", "--transport", "plain"], &settings);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let broken = row["broken"].as_array().unwrap();
    assert_eq!(broken.len(), 1, "{row}");
    let text = broken[0].as_str().unwrap();
    assert!(
        text.starts_with("0 of ") && text.ends_with("new clients served"),
        "{text}"
    );
}

#[test]
fn an_unknown_attack_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_tickstorm-abuse"))
        .args(["run", "--only", "charm"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("no such attack"), "{text}");
}
