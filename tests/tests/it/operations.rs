//! The tables of docs/operations.md against the code, and against the measurements that they
//! repeat. The tables of settings are compared in the crate `command`, that of metrics in
//! `metrics`, and that of signals in `signals`.

use std::collections::BTreeSet;

use serde_json::Value;
use tickstorm_protocol::CloseReason;
use tickstorm_protocol::message::{self, PROTOCOL_MINOR};
use tickstorm_timebase::{Epoch, Mode, Quality, Tick};

use crate::alerts::exported;
use crate::manifests::resources::{CLIENT_BYTES, MIB, PROGRAM_BYTES, TLS_BYTES};
use crate::support::daemon::Daemon;
use crate::support::document::Document;

/// The bytes that IPv4, and TCP with its timestamps, add to each packet.
const HEADERS_BYTES: f64 = 52.0;

/// The bytes that TLS 1.3 adds to each record: its header, the type of its content, and the tag.
const RECORD_BYTES: f64 = 22.0;

/// The resident memory of an edge without clients, in megabytes.
const IDLE_MB: f64 = 12.0;

/// The sum of what is in the memory of an edge is multiplied by this for the limit.
const SPARE: f64 = 1.25;

fn operations() -> Document {
    Document::read("docs/operations.md")
}

/// Returns a cell without the marks of code.
fn plain(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// Returns a whole number with commas between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn number(cell: &str) -> f64 {
    cell.replace(',', "").parse().unwrap()
}

#[test]
fn the_contents_list_every_section_once_and_in_order() {
    let document = operations();
    let text = document.text();
    let (contents, _) = text.split_once("\n## ").unwrap();
    let headings: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert!(headings.len() > 30, "{headings:#?}");
    // A link may be broken into two lines.
    let contents = contents.split_once("**Set up a cluster**").unwrap().1;
    let contents = contents.split_whitespace().collect::<Vec<_>>().join(" ");
    let position = |heading: &str| {
        let link = format!("[{heading}](#");
        let mut found = contents.match_indices(&link);
        let first = found.next().map(|(at, _)| at);
        assert!(found.next().is_none(), "{heading} is listed twice");
        first.unwrap_or_else(|| panic!("the contents do not list {heading}"))
    };
    let positions: Vec<_> = headings.iter().map(|heading| position(heading)).collect();
    assert!(positions.is_sorted(), "{headings:#?} are at {positions:?}");
    let lists = contents.matches("- [").count();
    assert_eq!(
        lists,
        headings.len() + 1,
        "every item but the runbooks is a section"
    );
}

/// What a table of sizes is calculated from.
struct Measured {
    bytes: f64,
    tls_bytes: f64,
    kernel_bytes: f64,
    /// The time of a send in microseconds, from and to.
    send_us: (f64, f64),
    reserved_files: f64,
    buffered_bytes: f64,
}

impl Measured {
    fn read() -> Self {
        let performance = Document::read("docs/performance.md");
        let operations = operations();
        let buffered = setting(&operations, "MAX_BUFFERED_BYTES", 1);
        let buffered: f64 = buffered.strip_suffix("MiB").unwrap().parse().unwrap();
        let size = operations.section("## Size a cluster");
        let words = " µs of a core per client";
        Self {
            bytes: performance.number_before(" bytes of the edge's memory |"),
            tls_bytes: performance.number_before(" KB of the edge's resident memory, at 10,000")
                * 1e3,
            kernel_bytes: performance.number_before(" KB per socket") * 1e3,
            send_us: (
                size.number_before(&format!(" to {}{words}", size.number_before(words))),
                size.number_before(words),
            ),
            reserved_files: {
                let help = setting(&operations, "MAX_CONNECTIONS", 2);
                let (_, after) = help.split_once("open-file limit minus ").unwrap();
                after.split_once(' ').unwrap().0.parse().unwrap()
            },
            buffered_bytes: buffered * MIB as f64,
        }
    }

    /// Returns the row for an edge with this many clients.
    fn row(&self, clients: f64) -> Vec<String> {
        let mut frame = Vec::new();
        let tick = Tick {
            epoch: Epoch::from_ms(1_800_000_000_000),
            quality: Quality::Normal,
        };
        message::encode_batch(Mode::Second, &[tick], 1_800_000_000_000_123, &mut frame);
        let packet = frame.len() as f64 + HEADERS_BYTES;
        let worst = PROGRAM_BYTES as f64
            + self.buffered_bytes
            + clients * (CLIENT_BYTES + TLS_BYTES) as f64;
        let traffic = |bytes: f64| format!("{:.1} Mbit/s", clients * bytes * 8.0 / 1e6);
        let (from, to) = self.send_us;
        vec![
            grouped(clients),
            format!("{:.0} MB", IDLE_MB + clients * self.bytes / 1e6),
            format!("{:.0} MB", IDLE_MB + clients * self.tls_bytes / 1e6),
            format!("{:.0} MB", clients * self.kernel_bytes / 1e6),
            format!("{} MiB", grouped(worst * SPARE / MIB as f64)),
            grouped(clients + self.reserved_files),
            format!(
                "{:.0} to {:.0} ms",
                clients * from / 1e3,
                clients * to / 1e3
            ),
            traffic(packet),
            traffic(packet + RECORD_BYTES),
        ]
    }
}

/// Returns a cell of a setting's row, without the marks of code.
fn setting(document: &Document, name: &str, cell: usize) -> String {
    let start = format!("| `{name}` |");
    let mut rows = document
        .text()
        .lines()
        .filter(|line| line.starts_with(&start));
    let row = rows.next().unwrap_or_else(|| panic!("no row {start}"));
    row.split('|').nth(cell + 1).unwrap().trim().to_owned()
}

#[test]
fn the_sizes_of_edges_follow_from_the_measurements_and_the_code() {
    let section = operations().section("### An edge by its number of clients");
    let rows = section.table(&[
        "clients",
        "memory of the process",
        "with TLS",
        "kernel, at rest",
        "memory limit",
        "open files",
        "fan-out on one core",
        "traffic",
        "with TLS",
    ]);
    let measured = Measured::read();
    for row in rows {
        assert_eq!(row, measured.row(number(&row[0])));
    }
    // The list below the table has the same numbers.
    for text in [
        format!("{:.0} bytes for each", measured.bytes),
        format!("{:.1} KB with TLS", measured.tls_bytes / 1e3),
        format!(
            "{:.1} KB for each client's socket",
            measured.kernel_bytes / 1e3
        ),
        format!("{IDLE_MB} MB without clients"),
    ] {
        assert!(section.text().contains(&text), "no {text:?}");
    }
}

#[test]
fn the_numbers_of_edges_leave_room_for_the_loss_of_one() {
    let document = operations();
    let capacity = number(&setting(&document, "MAX_CONNECTIONS", 1));
    let autoscaler = Document::read("k8s/base/edge-autoscaler.yaml");
    let share = autoscaler.number_before("k }") * 1e3;
    let head = [
        "clients in all",
        "edges",
        "clients per edge",
        "clients per edge if one is gone",
    ];
    for row in document.section("## Size a cluster").table(&head) {
        let clients = number(&row[0]);
        let edges = (clients / share)
            .ceil()
            .max((clients / capacity).ceil() + 1.0);
        let expected = [
            grouped(clients),
            grouped(edges),
            grouped((clients / edges).ceil()),
            grouped((clients / (edges - 1.0)).ceil()),
        ];
        assert_eq!(row, expected);
        assert!(number(&row[3]) <= capacity, "{row:?}");
    }
}

#[test]
fn the_documented_reasons_for_closing_connections_are_those_that_are_counted() {
    let section = operations().section("## Why connections are closed");
    let rows = section.table(&["`reason`", "what has happened", "what an operator does"]);
    let documented: Vec<_> = rows.iter().map(|row| plain(&row[0])).collect();
    let counted: Vec<_> = CloseReason::labels().collect();
    assert_eq!(documented, counted);
}

#[test]
fn the_documented_minor_revision_is_this_one() {
    let section = operations().section("### Which versions work together");
    let says = format!("It is {PROTOCOL_MINOR} in this version");
    let text = section
        .text()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(text.contains(&says), "no {says:?}");
    let rows = section.table(&["client", "edge", "what is different"]);
    let newest = PROTOCOL_MINOR.to_string();
    let pairs: BTreeSet<_> = rows.iter().map(|row| (&*row[0], &*row[1])).collect();
    for older in (0..PROTOCOL_MINOR).map(|minor| minor.to_string()) {
        assert!(pairs.contains(&(&*older, &*newest)), "{pairs:?}");
        assert!(pairs.contains(&(&*newest, &*older)), "{pairs:?}");
    }
}

#[tokio::test]
async fn the_documented_alarms_are_those_that_the_daemons_export() {
    let rows = operations()
        .section("## Alarms")
        .table(&["alarm", "raised by", "metric", "page"]);
    let mut documented = BTreeSet::new();
    for row in &rows {
        let metrics = row[2]
            .split(", ")
            .map(plain)
            .filter(|name| !name.is_empty());
        documented.extend(metrics.map(|metric| (metric.to_owned(), plain(&row[0]).to_owned())));
    }
    let exported: BTreeSet<_> = exported()
        .await
        .into_iter()
        .filter(|series| series.name.ends_with("_alarm"))
        .map(|series| (series.name, series.labels["reason"][0].clone()))
        .collect();
    assert!(exported.len() > 20, "{exported:#?}");
    assert_eq!(documented, exported);
}

#[tokio::test]
async fn the_documented_fields_of_the_status_are_those_that_it_has() {
    let section = operations().section("## Health and status");
    let fields = |what: &str| {
        let rows = section.table(&[&*format!("field of {what}"), "meaning"]);
        let names = rows.into_iter().flat_map(|row| {
            let names: Vec<_> = row[0]
                .split(", ")
                .map(|name| plain(name).to_owned())
                .collect();
            names
        });
        let names = names.map(|name| name.trim_end_matches("[]").to_owned());
        names.collect::<BTreeSet<_>>()
    };
    let (_, both) = section.text().split_once("Both daemons report ").unwrap();
    let (both, _) = both.split_once(". Each alarm has").unwrap();
    // The names of fields are at even places between the marks; texts in parentheses have others.
    let both: BTreeSet<_> = both.split('`').skip(1).step_by(2).collect();
    for (program, what) in [
        ("tickstorm-edge", "an edge"),
        ("tickstorm-clock", "a clock"),
    ] {
        let mut daemon = Daemon::new(program);
        daemon.start().await;
        let status = daemon.status().await;
        let Value::Object(status) = &status else {
            panic!("{status}");
        };
        let own = fields(what);
        for field in status.keys() {
            let is_documented = own.contains(field) || both.contains(&**field);
            assert!(is_documented, "{field} of {what} is not documented");
        }
        let gone: Vec<_> = own
            .iter()
            .filter(|field| !status.contains_key(*field))
            .collect();
        assert!(gone.is_empty(), "{what} has no {gone:?}");
        assert_eq!(daemon.terminate().await, Some(0));
    }
}
