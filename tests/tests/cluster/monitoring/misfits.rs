//! Edges and clocks beside the cluster, each with something that is wrong with it or with its
//! clients. They are scraped like the others. The load balancer does not know them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tickstorm_testkit::{CertificateAuthority, TempDir};
use tickstorm_timebase::{HostClock as _, Mode, SystemHost};

use super::expected::{Expected, alert, await_ended, await_inhibited, await_raised};
use super::pages::{Sample, query};
use super::peers::{Peers, come_and_go};
use super::targets::Scraped;
use crate::engine::{Container, container, wait_until};
use crate::extra::Extra;

const DAY: u64 = 86_400;

/// The settings of an edge whose clients send no HEARTBEAT.
const PATIENT: [(&str, &str); 2] = [("HEARTBEAT_INTERVAL", "10m"), ("HEARTBEAT_TIMEOUT", "20m")];

/// An edge with nine clients that accepts ten. One of the nine waits for the tick of a minute, for
/// so long that, at the speed of these rules, the edge seems to send none.
pub(super) fn full_edge() {
    let edge = patient("full").setting("MAX_CONNECTIONS", "10");
    let edge = Scraped::edge(edge);
    edge.await_ready_edge();
    let clients = Peers::of(&edge)
        .subscribe(8, Mode::Second, false)
        .subscribe(1, Mode::Minute, false);
    let alerts = [
        alert("TickstormCapacity").with("instance", edge.instance()),
        alert("TickstormNoTicks")
            .with("instance", edge.instance())
            .with("mode", "minute"),
    ];
    await_raised(&alerts);
    drop(clients);
    await_ended(&alerts);
}

/// An edge whose clients guess passwords, do not read, fall silent, or send half a frame, and whose
/// log is not read either.
pub(super) fn bad_clients() {
    let settings = [
        ("AUTH_RATE_LIMIT", "0"),
        ("HEARTBEAT_INTERVAL", "1s"),
        ("HEARTBEAT_TIMEOUT", "3s"),
        ("RESUME_WINDOW", "1h"),
        ("TCP_WRITE_BUFFER_SIZE", "4096"),
        ("WRITE_DEADLINE_MS", "500"),
        ("MAX_BUFFERED_BYTES", "1MiB"),
        ("LOG_LEVEL", "debug"),
    ];
    let edge = settings
        .iter()
        .fold(Extra::edge("pressed"), |edge, (name, value)| {
            edge.setting(name, value)
        });
    let edge = Scraped::edge(edge);
    edge.await_ready_edge();
    let unread = UnreadLog::of(&edge);
    let dropped = format!(
        "tickstorm_log_lines_dropped_total{{instance=\"{}\"}} > 0",
        edge.instance()
    );
    wait_until("the edge has dropped log lines", || {
        come_and_go(&edge, 500);
        !query(&dropped).is_empty()
    });
    let clients = Peers::of(&edge)
        .hesitate(500)
        .lag(20)
        .subscribe(20, Mode::Second, false)
        .guess(60);
    let alerts = [
        "TickstormLogLoss",
        "TickstormMemoryEvictions",
        "TickstormSlowConsumers",
        "TickstormHeartbeatTimeouts",
        "TickstormLoginsRefused",
    ]
    .map(|name| alert(name).with("instance", edge.instance()));
    await_raised(&alerts);
    drop(clients);
    drop(unread);
    await_ended(&alerts);
}

/// A program that is attached to the log of a container and does not read it. The engine then waits
/// for it, and the container's standard error fills up.
struct UnreadLog(Child);

impl UnreadLog {
    fn of(container: &Container) -> Self {
        let attach = ["attach", "--no-stdin", "--sig-proxy=false", &container.id];
        let mut command = Command::new("docker");
        let command = command.args(attach).stdout(Stdio::null());
        Self(command.stderr(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for UnreadLog {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// An edge that does not run at the times of some ticks, and then for several seconds.
pub(super) fn pausing_edge() {
    let edge = Scraped::edge(patient("pausing").setting("AHEAD_MS", "200"));
    edge.await_ready_edge();
    let clients = Peers::of(&edge)
        .subscribe(20, Mode::Second, false)
        .subscribe(5, Mode::Second, true);
    for _ in 0..10 {
        pause_over_a_tick(&edge);
    }
    edge.pause();
    thread::sleep(Duration::from_secs(8));
    edge.unpause();
    let late = ["TickstormTicksLate", "TickstormAheadMarginGone"]
        .map(|name| alert(name).with("instance", edge.instance()));
    await_raised(&late);
    await_raised(&late_sends());
    await_ended(&late);
    drop(clients);
}

/// Waits until the objective is met again, which takes as long as the windows of its alerts.
pub(super) fn await_end_of_late_ticks() {
    await_ended(&late_sends());
}

fn late_sends() -> [Expected; 2] {
    ["TickstormSloBurnsFast", "TickstormSloBurns"].map(alert)
}

/// Pauses an edge from before a tick is sent ahead of its time until after its time.
fn pause_over_a_tick(edge: &Container) {
    const BEFORE_MS: i64 = 350;
    const AFTER_MS: i64 = 50;
    let sleep_until = |unix_ms: i64| {
        let left_ms = unix_ms - unix_ms_now();
        thread::sleep(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)));
    };
    let tick_ms = (unix_ms_now() + BEFORE_MS) / 1_000 * 1_000 + 1_000;
    sleep_until(tick_ms - BEFORE_MS);
    edge.pause();
    sleep_until(tick_ms + AFTER_MS);
    edge.unpause();
}

fn unix_ms_now() -> i64 {
    SystemHost::new(0).read().unix.as_micros() / 1_000
}

/// An edge with certificates that expire soon or are not valid yet, and with a password file that
/// becomes empty.
pub(super) fn bad_files() {
    let files = TempDir::new("bad-files");
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let now = u64::try_from(unix_ms_now() / 1_000).unwrap();
    let authority = CertificateAuthority::named("soon gone", 0..now + DAY);
    let future = CertificateAuthority::named("not yet", now + DAY..now + 1_000 * DAY);
    let soon = authority.issue_valid("localhost", 0..now + 10 * DAY);
    files.write("tls.crt", &soon.certificate);
    files.write("tls.key", &soon.key);
    files.write(
        "ca.crt",
        authority.certificate().to_owned() + future.certificate(),
    );
    files.write("password", "stream_pass\n");
    let edge = [
        ("TLS_ENABLED", "true"),
        ("TLS_CERT_FILE", "/etc/tickstorm/tls.crt"),
        ("TLS_KEY_FILE", "/etc/tickstorm/tls.key"),
        ("TLS_CLIENT_AUTH", "require_verify"),
        ("TLS_CA_FILE", "/etc/tickstorm/ca.crt"),
        ("STREAM_PASS", ""),
        ("STREAM_PASS_FILE", "/etc/tickstorm/password"),
    ]
    .into_iter()
    .fold(Extra::edge("outdated"), |edge, (name, value)| {
        edge.setting(name, value)
    });
    let edge = Scraped::edge(edge.files(files.path()));
    edge.await_ready_edge();
    files.write("password", "");
    let of = |name| alert(name).with("instance", edge.instance());
    let now_of_authority = of("TickstormCertificateExpiresNow").with("file", "TLS_CA_FILE");
    let soon_of_authority = of("TickstormCertificateExpiry").with("file", "TLS_CA_FILE");
    let alerts = [
        of("TickstormCertificateExpiry").with("file", "TLS_CERT_FILE"),
        soon_of_authority.clone(),
        now_of_authority.clone(),
        of("TickstormTlsAlarm").with("reason", "ca_not_yet_valid"),
        of("TickstormReloadFailed"),
    ];
    await_raised(&alerts);
    await_inhibited(&soon_of_authority, &now_of_authority);

    let authority = CertificateAuthority::new();
    let renewed = authority.issue("localhost");
    files.write("ca.crt", authority.certificate());
    files.write("tls.crt", &renewed.certificate);
    files.write("tls.key", &renewed.key);
    files.write("password", "stream_pass\n");
    await_ended(&alerts);
}

/// An edge that uses the login of a clock, which may not hear what edges hear, and a clock with a
/// wrong password.
pub(super) fn wrong_logins() {
    let login = container("clock-0");
    let misled = Extra::edge("misled")
        .setting("NATS_USER", &login.env("NATS_USER"))
        .setting("NATS_PASSWORD", &login.env("NATS_PASSWORD"));
    let mut edge = Scraped::edge(misled);
    let clock = Scraped::clock(stranger("stranger"));
    let of_edge = [
        "TickstormBusAlarm",
        "TickstormTimeLost",
        "TickstormEdgeNotReady",
    ]
    .map(|name| alert(name).with("instance", edge.instance()));
    let of_clock = ["TickstormBusLost", "TickstormClockNotReady"]
        .map(|name| alert(name).with("instance", clock.instance()));
    await_raised(&of_edge);
    await_raised(&of_clock);
    edge.replace(Extra::edge("misled"));
    await_ended(&of_edge);
    drop(clock);
    await_ended(&of_clock);
}

/// A clock that may open hardly more files than it does.
pub(super) fn few_files() {
    let with_limit = |files: u32| stranger("crowded").option(&format!("--ulimit=nofile={files}"));
    let mut clock = Scraped::clock(with_limit(1_000));
    // The number that remains: while the clock starts, it has a few more files open.
    let series = format!("process_open_fds{{instance=\"{}\"}}[5s]", clock.instance());
    let open = format!("min_over_time({series}) and count_over_time({series}) >= 4");
    let mut files = 0.0;
    wait_until("the number of the clock's open files is known", || {
        files = query(&open).first().map_or(0.0, Sample::number);
        files > 0.0
    });
    let limit = (files / 0.93).ceil();
    clock.replace(with_limit(format!("{limit:.0}").parse().unwrap()));
    let alerts = [alert("TickstormFileDescriptors").with("instance", clock.instance())];
    await_raised(&alerts);
    clock.replace(with_limit(1_000));
    await_ended(&alerts);
}

/// A clock that NATS refuses, so that no edge hears it.
fn stranger(name: &str) -> Extra {
    Extra::clock(name, "clock-1").setting("NATS_PASSWORD", "wrong")
}

/// An edge that was told to end, and does not within minutes.
pub(super) fn stuck_drain() {
    let edge = Scraped::edge(patient("draining").setting("DRAIN_DELAY", "9m"));
    edge.await_ready_edge();
    edge.send("TERM");
    let alerts = [alert("TickstormDrainStuck").with("instance", edge.instance())];
    await_raised(&alerts);
    drop(edge);
    await_ended(&alerts);
}

fn patient(name: &str) -> Extra {
    PATIENT
        .iter()
        .fold(Extra::edge(name), |edge, (name, value)| {
            edge.setting(name, value)
        })
}
