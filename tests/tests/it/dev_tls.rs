//! `tickstorm dev` with TLS, and the command that it prints for a second terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tickstorm_testkit::{CertificateAuthority, TempDir};
use tokio::process::Command;

use crate::dev::{Dev, dev};
use crate::support::daemon::PASSWORD;
use crate::tickstorm::{Ended, binary, run};

/// Returns a `tickstorm dev` with these additional arguments and a directory for its temporary
/// files whose name a shell would split.
fn dev_with(args: &[&str], dir: &TempDir) -> Command {
    let tmp = dir.path().join("it's temporary");
    fs::create_dir_all(&tmp).unwrap();
    let mut command = dev();
    command
        .args(args)
        .env("TMPDIR", tmp)
        .env("STREAM_PASS", PASSWORD);
    command
}

/// Returns the command that `dev` printed.
fn printed_command(dev: &Dev) -> &str {
    let line = dev
        .introduction
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("try"));
    line.unwrap_or_else(|| panic!("no command in:\n{}", dev.introduction))
        .trim()
}

/// Runs the command that `dev` printed, in a shell, until it has two ticks.
async fn run_printed(dev: &Dev) -> Ended {
    let mut shell = Command::new("/bin/sh");
    let programs = binary("tickstorm");
    shell
        .arg("-c")
        .arg(format!("{} --count 2 --within 20s", printed_command(dev)))
        .env_clear()
        .env("PATH", programs.parent().unwrap())
        .env("STREAM_PASS", PASSWORD)
        .kill_on_drop(true);
    run(shell).await
}

/// Returns the path after `--tls-ca` in the printed command, as a shell reads it.
async fn authority_file(dev: &Dev) -> PathBuf {
    let (_, options) = printed_command(dev).split_once("--tls-ca ").unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("printf %s {options}"));
    PathBuf::from(run(shell).await.stdout)
}

/// Asserts that the certificates in the directory expire within two months, but not so soon that an
/// edge warns of it.
async fn assert_valid_for_weeks(directory: &Path) {
    for name in ["ca.pem", "edge.pem", "client.pem"] {
        for (days, expires) in [(15, false), (60, true)] {
            let mut openssl = Command::new("openssl");
            openssl
                .args(["x509", "-noout", "-checkend", &(days * 86_400).to_string()])
                .arg("-in")
                .arg(directory.join(name));
            let ended = run(openssl).await;
            let code = Some(i32::from(expires));
            assert_eq!(ended.code, code, "{name} in {days} days: {ended:?}");
        }
    }
}

#[tokio::test]
async fn the_printed_command_trusts_the_throw_away_certificate_whose_files_are_removed() {
    for (ip, signal) in [
        ("127.0.0.1", Signal::SIGINT),
        ("127.0.0.2", Signal::SIGTERM),
        ("[::1]", Signal::SIGHUP),
        ("0.0.0.0", Signal::SIGINT),
    ] {
        let dir = TempDir::new("dev_tls");
        let mut command = dev_with(&["--tls"], &dir);
        command.env("LISTEN_ADDR", format!("{ip}:0"));
        let mut dev = Dev::start(command).await;
        assert_eq!(dev.tick().await % 1_000, 0);
        let tail = run_printed(&dev).await;
        assert_eq!(tail.code, Some(0), "{ip}: {tail:?}");
        assert_eq!(tail.stdout.lines().count(), 2, "{ip}: {tail:?}");

        let authority = authority_file(&dev).await;
        let mut openssl = Command::new("openssl");
        let host = if ip == "0.0.0.0" { "127.0.0.1" } else { ip };
        openssl
            .args([
                "s_client",
                "-tls1_3",
                "-verify_return_error",
                "-brief",
                "-verify_ip",
            ])
            .arg(host.trim_matches(['[', ']']))
            .args(["-connect", &format!("{host}:{}", dev.clients.port())])
            .arg("-CAfile")
            .arg(&authority)
            .stdin(Stdio::null());
        let openssl = run(openssl).await;
        assert_eq!(openssl.code, Some(0), "{ip}: {openssl:?}");
        assert!(openssl.stderr.contains("Verification: OK"), "{openssl:?}");

        assert!(authority.is_file(), "{}", authority.display());
        let directory = authority.parent().unwrap();
        assert_valid_for_weeks(directory).await;
        let status = dev.process.end_with(signal).await;
        assert_eq!(status.code(), Some(0));
        assert!(!directory.exists(), "{} remains", directory.display());
    }
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_served_and_the_printed_command_trusts_its_authority() {
    let dir = TempDir::new("dev_tls_own");
    let authority = CertificateAuthority::new();
    let certificate = authority.issue("edge.test");
    let authority = dir.write("ca.pem", authority.certificate());
    let own = |args: &[&str]| {
        let mut command = dev_with(args, &dir);
        command
            .env("TLS_ENABLED", "true")
            .env(
                "TLS_CERT_FILE",
                dir.write("edge.crt", &certificate.certificate),
            )
            .env("TLS_KEY_FILE", dir.write("edge.key", &certificate.key));
        command
    };
    let authority = authority.to_str().unwrap();
    let trusting = ["--tls-ca", authority, "--tls-name", "edge.test"];
    for args in [&trusting[..], &[&["--tls"], &trusting[..]].concat()] {
        let mut dev = Dev::start(own(args)).await;
        assert_eq!(dev.tick().await % 1_000, 0);
        let tail = run_printed(&dev).await;
        assert_eq!(tail.code, Some(0), "{tail:?}");
        assert!(printed_command(&dev).ends_with("--tls-name edge.test"));
    }
    let ended = run(own(&["--tls-ca", authority])).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("not valid for name"), "{ended:?}");
}

#[tokio::test]
async fn settings_and_options_that_do_not_fit_together_are_refused() {
    let dir = TempDir::new("dev_tls_refused");
    let file = dir.write("a.pem", "");
    for (args, name, value, named) in [
        (
            &["--tls"][..],
            "TLS_CERT_FILE",
            file.to_str().unwrap(),
            "TLS_ENABLED=true",
        ),
        (
            &["--tls"],
            "TLS_ENABLED",
            "false",
            "--tls contradicts TLS_ENABLED=false",
        ),
        (&[], "TLS_ENABLED", "true", "TLS_CERT_FILE"),
        (&["--tls-name", "x"], "LOG_LEVEL", "info", "--tls-name"),
        (
            &["--tls", "--tls-ca", "x"],
            "LOG_LEVEL",
            "info",
            "TLS_CERT_FILE",
        ),
    ] {
        let mut command = dev_with(args, &dir);
        command.env(name, value);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(78), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "no {named}: {ended:?}");
    }
    let mut command = dev_with(&[], &dir);
    command
        .env("TLS_ENABLED", "true")
        .env("TLS_CLIENT_AUTH", "require_verify");
    for name in ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"] {
        command.env(name, &file);
    }
    let ended = run(command).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.stderr.contains("run tickstorm-edge instead"),
        "{ended:?}"
    );
}
