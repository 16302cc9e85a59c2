//! The cluster with `compose/tls.yml`: who is refused, and what happens to clients while
//! certificates are renewed and the passwords of NATS are rotated.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tickstorm_client::{Event, Options, TlsOptions};
use tickstorm_testkit::{CertificateAuthority, TempDir};
use tickstorm_tests::clients::{Clients, options};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::engine::{
    Container, NATS, client_addr, container, containers, ensure_ready, make_secrets, rotate_nats,
    secrets, wait_until,
};
use crate::extra::{CLOCK, Extra};

/// Enough clients for both edges to have many.
const CLIENTS: usize = 200;

/// The time for which a client that must get no tick is watched. Other clients get several.
const NO_TICK: Duration = Duration::from_secs(5);

/// The lines at which a rotation is interrupted: it prints each before the step.
const STEPS: [&str; 4] = ["adding", "giving", "removing", "changing"];

/// The settings with which a clock connects to NATS: its certificate, the authority that it trusts,
/// and its login.
const COMPLETE: [&str; 5] = [
    "NATS_CERT_FILE",
    "NATS_KEY_FILE",
    "NATS_CA_FILE",
    "NATS_USER_FILE",
    "NATS_PASSWORD_FILE",
];

#[test]
fn a_client_gets_ticks_only_by_tls_and_only_trusts_the_clusters_authority() {
    ensure_secured();
    let clients = Clients::connect_with(&secured(&secrets().join("ca.crt")), 4);
    let stranger = TempDir::new("stranger");
    let others = stranger.write("ca.crt", CertificateAuthority::new().certificate());
    for refused in [options(client_addr()), secured(&others)] {
        assert!(!gets_a_tick(refused), "a tick without the right TLS");
    }
    clients.assert_unbroken();
    assert_eq!(clients.disconnections(), 0);
}

#[test]
fn nats_requires_both_a_certificate_and_the_password() {
    ensure_secured();
    let current = secrets().join("clock-0");
    NatsLogin::with(&current, &COMPLETE).assert_accepted();
    let [_, _, login @ ..] = COMPLETE;
    NatsLogin::with(&current, &login).assert_refused("certificate");
    let [certificate @ .., _, _] = COMPLETE;
    NatsLogin::with(&current, &certificate).assert_refused("authorization violation");
    let wrong = copy_of(&current);
    for password in ["wrong", "\n"] {
        wrong.write("nats-password", password);
        // With an empty password file, the daemon itself refuses half of a login.
        let why = ["authorization violation", "go together"];
        NatsLogin::with(wrong.path(), &COMPLETE).assert_refused_because_of_any(&why);
    }
}

#[test]
fn a_login_without_a_password_is_never_given_to_nats() {
    let directory = TempDir::new("logins");
    fs::create_dir(directory.path().join("nats-logins")).unwrap();
    let compose = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose");
    let write = |users: &str| {
        let script = r#"secrets=$1; . ./nats-logins.sh; printf "$2" | write_users"#;
        let mut shell = Command::new("sh");
        shell.current_dir(compose).args(["-euc", script, "sh"]);
        let ended = shell.arg(directory.path()).arg(users).output().unwrap();
        let written = fs::read_to_string(directory.path().join("nats-logins/users.conf"));
        (ended.status.success(), written.ok())
    };
    for refused in [
        "clock-0 clock-0 s3cret\nedge edge\n",
        // A login that nobody has permissions for.
        "clock clock s3cret\nedge edge opensesame\n",
    ] {
        assert_eq!(write(refused), (false, None), "{refused}");
    }
    let (accepted, written) = write("clock-1 clock-1 s3cret\nedge edge-b opensesame\n");
    let written = written.unwrap();
    assert!(accepted);
    for line in [
        r#"{ user: "clock-1", password: "s3cret", permissions: $CLOCK_1 }"#,
        r#"{ user: "edge-b", password: "opensesame", permissions: $EDGE }"#,
    ] {
        assert!(written.contains(line), "no {line} in {written}");
    }
}

#[test]
fn rotating_the_passwords_of_nats_cuts_nobody_off_even_if_it_is_interrupted() {
    ensure_secured();
    let clients = Clients::connect_with(&secured(&secrets().join("ca.crt")), CLIENTS);
    let old = copy_of(&secrets().join("clock-0"));
    NatsLogin::with(old.path(), &COMPLETE).assert_accepted();
    let routes = || fs::read_to_string(secrets().join("nats-logins/routes.conf")).unwrap();
    let old_routes = routes();

    for step in STEPS {
        interrupt_rotation_at(step);
        clients.await_ticks(1);
    }
    assert_rotates();
    assert_ne!(routes(), old_routes);
    NatsLogin::with(old.path(), &COMPLETE).assert_refused("authorization violation");
    // The user of the first rotation is that of the third, with another password.
    assert_rotates();
    NatsLogin::with(old.path(), &COMPLETE).assert_refused("authorization violation");

    clients.assert_unbroken();
    assert_eq!(clients.disconnections(), 0);
    for edge in containers("edge") {
        assert_eq!(edge.inspect()["RestartCount"], 0, "{edge}");
    }
}

#[test]
fn renewed_certificates_are_used_at_once_and_cut_nobody_off() {
    ensure_secured();
    let clients = Clients::connect_with(&secured(&secrets().join("ca.crt")), CLIENTS);
    let authority = fs::read(secrets().join("ca.crt")).unwrap();
    let renewals = |edge: &Container| edge.logs().matches("TLS files changed").count();
    let before: Vec<_> = containers("edge").iter().map(renewals).collect();
    let expiry_before: Vec<_> = NATS.iter().map(|name| nats_expiry(name)).collect();
    make_secrets();
    for (edge, before) in containers("edge").iter().zip(before) {
        let what = format!("{edge} has its new certificate");
        wait_until(&what, || renewals(edge) > before);
    }
    for (name, before) in NATS.iter().zip(expiry_before) {
        let what = format!("{name} has its new certificate");
        wait_until(&what, || nats_expiry(name) != before);
    }
    // The authority is still the same, so that clients trust the new certificates.
    assert_eq!(fs::read(secrets().join("ca.crt")).unwrap(), authority);
    let late = Clients::connect_with(&secured(&secrets().join("ca.crt")), 4);
    clients.assert_unbroken();
    late.assert_unbroken();
    assert_eq!(clients.disconnections() + late.disconnections(), 0);
}

#[test]
fn a_stopped_server_does_not_keep_the_others_from_their_new_certificate() {
    ensure_secured();
    let [stopped, running @ ..] = NATS;
    container(stopped).stop();
    let before = running.map(nats_expiry);
    make_secrets();
    for (name, before) in running.iter().zip(before) {
        let what = format!("{name} has its new certificate");
        wait_until(&what, || nats_expiry(name) != before);
    }
    ensure_ready();
}

/// Makes the secrets if there are none yet, and brings the cluster up.
fn ensure_secured() {
    if !secrets().join("nats-logins/routes.conf").exists() {
        make_secrets();
    }
    let mode = fs::metadata(secrets()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "others can read the secrets");
    ensure_ready();
}

/// Returns the options of a client that connects by TLS and trusts the authorities in `ca_file`.
fn secured(ca_file: &Path) -> Options {
    let tls = TlsOptions::new().ca_file(ca_file);
    options(client_addr()).tls(tls.server_name("localhost"))
}

/// Returns whether a client with these options receives a tick before it gives up, or within
/// [`NO_TICK`].
fn gets_a_tick(options: Options) -> bool {
    let first_tick = async {
        let Ok(mut ticks) = tickstorm_client::connect(options).await else {
            return false;
        };
        while let Some(Ok(event)) = ticks.next().await {
            if matches!(event, Event::Tick(_)) {
                return true;
            }
        }
        false
    };
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async { timeout(NO_TICK, first_tick).await == Ok(true) })
}

/// Returns the time at which the certificate that a NATS server uses expires.
fn nats_expiry(service: &str) -> String {
    let varz = "http://127.0.0.1:8222/varz";
    let varz = container(service).exec(&["busybox", "wget", "-qO-", varz]);
    let varz: serde_json::Value = serde_json::from_str(&varz).unwrap();
    varz["tls_cert_not_after"].as_str().unwrap().to_owned()
}

fn assert_rotates() {
    let ended = rotate_nats().output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

/// Starts a rotation and kills the script when it begins a step.
fn interrupt_rotation_at(step: &str) {
    let mut script = rotate_nats().stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(script.stdout.take().unwrap()).lines();
    let mut printed = lines.map(Result::unwrap).inspect(|line| println!("{line}"));
    let found = printed.any(|line| line.starts_with(step));
    assert!(found, "the rotation has no step {step}");
    script.kill().unwrap();
    script.wait().unwrap();
}

/// Returns a copy of a directory that containers may read.
fn copy_of(directory: &Path) -> TempDir {
    let copy = TempDir::new("copy");
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for file in fs::read_dir(directory).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// The outcome of an attempt to log in to NATS with the files of a clock.
struct NatsLogin {
    log: String,
}

impl NatsLogin {
    /// Starts a clock with the files in `directory`, of which it uses those of `settings`.
    fn with(directory: &Path, settings: &[&str]) -> Self {
        let paths: Vec<_> = settings
            .iter()
            .map(|setting| {
                let file = match *setting {
                    "NATS_CA_FILE" => "nats-ca.crt",
                    "NATS_CERT_FILE" => "nats.crt",
                    "NATS_KEY_FILE" => "nats.key",
                    "NATS_USER_FILE" => "nats-user",
                    "NATS_PASSWORD_FILE" => "nats-password",
                    other => panic!("no file for {other}"),
                };
                (*setting, format!("/etc/tickstorm/{file}"))
            })
            .collect();
        let url = format!("nats://{}:4222", NATS[0]);
        let clock = Extra::new("extra-clock", CLOCK)
            .setting("CLOCK_ID", "extra-clock")
            .setting("NATS_URL", &url)
            .files(directory);
        let settings = paths.iter();
        let clock = settings
            .fold(clock, |clock, (name, path)| clock.setting(name, path))
            .run();
        let mut log = String::new();
        wait_until("the clock has tried to log in", || {
            log = clock.logs();
            ["connected to NATS", "cannot connect to NATS", "go together"]
                .iter()
                .any(|end| log.contains(end))
        });
        Self { log }
    }

    fn assert_accepted(&self) {
        assert!(self.log.contains("\"connected to NATS\""), "{}", self.log);
    }

    fn assert_refused(&self, why: &str) {
        self.assert_refused_because_of_any(&[why]);
    }

    fn assert_refused_because_of_any(&self, reasons: &[&str]) {
        let log = self.log.to_lowercase();
        assert!(!log.contains("\"connected to nats\""), "{log}");
        assert!(reasons.iter().any(|why| log.contains(why)), "{log}");
    }
}
