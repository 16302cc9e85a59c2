//! Tests of the settings of the connection to NATS.

use std::time::Duration;

use secrecy::ExposeSecret;
use tickstorm_bus::Credential;
use tickstorm_service::{
    env::{Section, Settings},
    metrics,
    nats::{NATS, NATS_URL, NatsFiles, options},
    settings::COMMON,
    traces::settings::TRACES,
};
use tickstorm_testkit::{CertificateAuthority, TempDir};
use tickstorm_timebase::{HostClock as _, SystemHost};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::temp_file::TempFile;

const DAEMON: &[Section] = &[COMMON, TRACES, NATS];
const WITHOUT_NATS: &[Section] = &[
    COMMON,
    TRACES,
    NATS.refused("this program does not use NATS"),
];

/// A secret, which must never be printed.
const CANARY: &str = "canary-hunter2";

/// Loads settings. The error contains the printed lines.
fn try_load(sections: &[Section], vars: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    Settings::from_vars(
        vars.iter().copied(),
        sections,
        &[("ADMIN_ADDR", "127.0.0.1:8081")],
    )
    .map_err(|errors| errors.to_string().lines().map(Into::into).collect())
}

/// Returns the error, of which there must be exactly one.
fn only_error(outcome: Result<Settings, Vec<String>>) -> String {
    let lines = outcome.unwrap_err();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.concat()
}

#[test]
fn a_program_without_nats_refuses_its_settings_and_shows_their_defaults() {
    for row in NATS.rows() {
        let error = only_error(try_load(WITHOUT_NATS, &[(row.name, "nats://elsewhere")]));
        assert!(error.starts_with(&format!("{}=", row.name)), "{error}");
        assert!(
            error.contains("this program does not use NATS; leave it unset"),
            "{error}"
        );
        let shown = try_load(WITHOUT_NATS, &[(row.name, row.default)]);
        let shown = shown.unwrap().check_config();
        assert!(
            shown.contains(&format!("{}={} (default)", row.name, row.default)),
            "{shown}"
        );
    }
    let settings = try_load(DAEMON, &[("NATS_URL", "nats://elsewhere")]).unwrap();
    assert_eq!(settings.get(&NATS_URL), "nats://elsewhere");
}

#[test]
fn only_one_login_and_complete_pairs_are_accepted() {
    for (vars, why) in [
        (
            &["NATS_USER"][..],
            "NATS_USER and NATS_PASSWORD go together",
        ),
        (
            &["NATS_PASSWORD"],
            "NATS_USER and NATS_PASSWORD go together",
        ),
        (
            &["NATS_USER", "NATS_PASSWORD", "NATS_TOKEN"],
            "set only one of them",
        ),
        (&["NATS_TOKEN", "NATS_CREDS_FILE"], "set only one of them"),
        (
            &["NATS_CERT_FILE"],
            "NATS_CERT_FILE and NATS_KEY_FILE go together",
        ),
        (
            &["NATS_KEY_FILE"],
            "NATS_CERT_FILE and NATS_KEY_FILE go together",
        ),
    ] {
        let vars: Vec<_> = vars.iter().map(|name| (*name, valid_value(name))).collect();
        let error = only_error(try_load(DAEMON, &vars));
        assert!(error.contains(why) && !error.contains(CANARY), "{error}");
    }
    for vars in [
        &["NATS_USER", "NATS_PASSWORD"][..],
        &["NATS_TOKEN"],
        &["NATS_CREDS_FILE", "NATS_CA_FILE"],
        &["NATS_CERT_FILE", "NATS_KEY_FILE"],
    ] {
        let vars: Vec<_> = vars.iter().map(|name| (*name, valid_value(name))).collect();
        try_load(DAEMON, &vars).unwrap();
    }
}

/// A file that exists.
const A_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// Returns a value that is valid for `name` on its own.
fn valid_value(name: &str) -> &'static str {
    if name.ends_with("_FILE") {
        A_FILE
    } else {
        CANARY
    }
}

#[test]
fn a_url_that_is_not_that_of_a_nats_server_is_refused() {
    for url in [
        "http://nats:4222",
        "nats:4222",
        "nats://",
        "nats://:4222",
        "nats://nats:0",
        "nats://nats:99999",
        "nats://[::1",
        "nats://nats/subject",
        "nats://a,,nats://b",
        "nats://a,b",
    ] {
        let error = only_error(try_load(DAEMON, &[("NATS_URL", url)]));
        assert!(
            error.starts_with(&format!("NATS_URL={url} is invalid: expected nats://")),
            "{error}"
        );
    }
    for url in [
        "nats://nats",
        "tls://ada:secret@nats.example:4333",
        "nats://token@[::1]:4222/",
        "nats://a:1, nats://b",
    ] {
        try_load(DAEMON, &[("NATS_URL", url)]).unwrap();
    }
}

#[test]
fn an_unreadable_file_is_named_with_its_variable() {
    for name in [
        "NATS_CREDS_FILE",
        "NATS_CA_FILE",
        "NATS_CERT_FILE",
        "NATS_KEY_FILE",
    ] {
        let mut vars = vec![(name, "/nowhere/x")];
        match name {
            "NATS_CERT_FILE" => vars.push(("NATS_KEY_FILE", A_FILE)),
            "NATS_KEY_FILE" => vars.push(("NATS_CERT_FILE", A_FILE)),
            _ => {}
        }
        let error = only_error(try_load(DAEMON, &vars));
        assert!(
            error.starts_with(&format!("{name}=/nowhere/x: the file can't be read: ")),
            "{error}"
        );
    }
}

#[test]
fn a_password_in_a_url_is_not_printed() {
    for url in [
        format!("nats://user:{CANARY}@nats:4222"),
        format!("nats://a:{CANARY}@x,nats://b:{CANARY}@y:1"),
        format!("user:{CANARY}@y:1"),
    ] {
        for name in ["NATS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
            let error = only_error(try_load(WITHOUT_NATS, &[(name, &url)]));
            assert!(
                !error.contains(CANARY) && error.starts_with(&format!("{name}=***@")),
                "{error}"
            );
        }
    }
}

#[test]
fn the_options_for_the_bus_are_those_that_are_set() {
    let vars = [
        ("NATS_URL", "nats://nats:4222"),
        ("NATS_USER", "ada"),
        ("NATS_PASSWORD", CANARY),
        ("NATS_CA_FILE", A_FILE),
        ("NATS_SUBJECT_PREFIX", "storm"),
    ];
    let settings = try_load(DAEMON, &vars).unwrap();
    let options = options(&settings, "tickstorm-clock clock-0".into());
    assert_eq!(options.urls, "nats://nats:4222");
    assert_eq!(current(&options.user).as_deref(), Some("ada"));
    assert_eq!(current(&options.password).as_deref(), Some(CANARY));
    assert_eq!(current(&options.token), None);
    assert_eq!(options.certificate_file, None);
    assert_eq!(options.ca_file.as_deref(), Some(A_FILE.as_ref()));
    assert_eq!(options.subject_prefix, "storm");
    assert_eq!(options.name, "tickstorm-clock clock-0");
}

#[test]
fn a_login_in_files_is_always_the_one_that_they_contain_now() {
    let (user, password) = (TempFile::with("ada\n"), TempFile::with(CANARY));
    let vars = [
        ("NATS_USER_FILE", user.path()),
        ("NATS_PASSWORD_FILE", password.path()),
    ];
    let settings = try_load(DAEMON, &vars).unwrap();
    let options = options(&settings, "tickstorm-edge edge-0".into());
    assert_eq!(current(&options.user).as_deref(), Some("ada"));
    assert_eq!(current(&options.password).as_deref(), Some(CANARY));
    user.write("grace\n");
    password.write("hopper");
    assert_eq!(current(&options.user).as_deref(), Some("grace"));
    assert_eq!(current(&options.password).as_deref(), Some("hopper"));
    user.write("\n");
    assert_eq!(current(&options.user), None);

    let too_long = "x".repeat(1_025);
    let refusal_of = |content: &[u8]| {
        password.write(content);
        options.password.current().unwrap_err().to_string()
    };
    for (content, why) in [
        (too_long.as_bytes(), "expected 1 to 1024 bytes"),
        ("\u{feff}xxx".as_bytes(), "a byte-order mark"),
        (b"xxx\n\n", "a control character"),
        (&[0xff], "not UTF-8"),
    ] {
        let error = refusal_of(content);
        let is_clear = error.contains(password.path()) && error.contains(why);
        assert!(is_clear && !error.contains("xxx"), "{error}");
    }
    let path = password.path().to_owned();
    drop(password);
    let error = options.password.current().unwrap_err().to_string();
    assert!(
        error.contains(&path) && error.contains("can't be read"),
        "{error}"
    );
}

fn current(credential: &Credential) -> Option<String> {
    let value = credential.current().unwrap();
    value.map(|value| value.expose_secret().to_owned())
}

#[test]
fn servers_on_other_machines_without_tls_cause_one_warning() {
    for (vars, named) in [
        (&[("NATS_URL", "nats://nats")][..], Some("nats")),
        (
            &[(
                "NATS_URL",
                "nats://127.0.0.1,nats://a:secret@10.0.0.7:4333, tls://b, nats://[2001:db8::1]",
            )],
            Some("10.0.0.7, [2001:db8::1]"),
        ),
        (&[], None),
        (&[("NATS_URL", "nats://localhost,nats://[::1]:1")], None),
        (&[("NATS_URL", "nats://127.0.0.2, tls://nats")], None),
        (
            &[("NATS_URL", "nats://nats"), ("NATS_CA_FILE", A_FILE)],
            None,
        ),
        (
            &[
                ("NATS_URL", "nats://nats"),
                ("NATS_CERT_FILE", A_FILE),
                ("NATS_KEY_FILE", A_FILE),
            ],
            None,
        ),
    ] {
        let settings = try_load(DAEMON, vars).unwrap();
        match (settings.warnings(), named) {
            ([], None) => {}
            ([warning], Some(named)) => {
                let start = format!("NATS_URL connects to {named} without TLS");
                assert!(warning.starts_with(&start), "{warning}");
                assert!(warning.contains("NATS_CA_FILE"), "{warning}");
            }
            (warnings, _) => panic!("{vars:?}: {warnings:?}"),
        }
    }
}

#[tokio::test]
async fn the_expiry_of_each_certificate_file_is_that_of_the_one_in_use() {
    let now_s = SystemHost::new(0).read().unix.as_millis().cast_unsigned() / 1_000;
    let in_hours = |hours: u64| 0..now_s + hours * 3_600;
    let (dir, authority) = (TempDir::new("nats"), CertificateAuthority::new());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let write = |hours: u64| {
        let issued = authority.issue_valid("clock-0", in_hours(hours));
        dir.write("clock.crt", &issued.certificate);
        dir.write("clock.key", &issued.key);
    };
    write(100);
    let servers = CertificateAuthority::named("servers", in_hours(300));
    dir.write("ca.pem", servers.certificate());
    let vars = [
        ("NATS_CA_FILE", path("ca.pem")),
        ("NATS_CERT_FILE", path("clock.crt")),
        ("NATS_KEY_FILE", path("clock.key")),
    ];
    let vars: Vec<_> = vars.iter().map(|(name, path)| (*name, &**path)).collect();
    let settings = try_load(DAEMON, &vars).unwrap();
    let registry = metrics::registry().unwrap();
    let options = options(&settings, "test".to_owned());
    let files = NatsFiles::load(&settings, &options, &registry).unwrap();
    let hours_left = || {
        let text = metrics::encode(&registry).unwrap();
        ["NATS_CA_FILE", "NATS_CERT_FILE"].map(|setting| {
            let series = format!("tickstorm_tls_expiry_seconds{{file=\"{setting}\"}} ");
            let left_s = text.lines().find_map(|line| line.strip_prefix(&*series));
            let left_s: u64 = left_s.unwrap().parse().unwrap();
            left_s.div_ceil(3_600)
        })
    };
    assert_eq!(hours_left(), [300, 100]);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(files.run(drop, stop.clone()));
    write(200);
    let renewed = async {
        while hours_left() != [300, 200] {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(30);
    timeout(patience, renewed)
        .await
        .expect("the new file is used");
    stop.cancel();
    watching.await.unwrap();
}
