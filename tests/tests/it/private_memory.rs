//! The memory of the daemons: nobody but root can read it, and secrets are in it only as long as
//! they are needed. The tests read it as root. Without root they can only show that it can't be
//! read, because a daemon's memory is closed to its own user.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::unistd::geteuid;
use tickstorm_testkit::peer::auth;
use tickstorm_testkit::{CertificateAuthority, Nats, Peer, TempDir, frame};
use tokio::process::Command;

use crate::support::daemon::{Daemon, USER};
use crate::support::eventually;
use crate::tickstorm::{PATIENCE, binary, run, tickstorm};

/// The user and group without rights that daemons run as if the tests run as root.
const NOBODY: u32 = 65_534;

/// The beginning of all secrets here. It occurs in no program.
const MARK: &str = "Zq7pw~";
/// The end of those that must be wiped, so that half of one is noticed as well.
const END: &str = "~of-very-many-bytes";

/// A tokens file with the digest of `secret("token")`.
const TOKENS: &str = "\
    somebody 31e584cf9c68af684926e0ae58a38783b878b11a73acfca057607e23bf473fb9";

/// The occurrences of secrets in a process: how often each is in which mapping.
type Found = BTreeMap<String, BTreeMap<String, usize>>;

fn secret(name: &str) -> String {
    format!("{MARK}{name}{END}")
}

/// Returns a running server that accepts `secret("nats")` as the password of an edge.
fn nats() -> Nats {
    Nats::run(&["--user", "edge", "--pass", &secret("nats")])
}

/// Looks in the writable memory of a process for everything that begins with [`MARK`] or ends with
/// [`END`], and for `others`, which are pairs of a name and the bytes.
fn look(pid: u32, others: &[(&str, Vec<u8>)]) -> io::Result<Found> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found = Found::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(access)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !access.starts_with("rw") {
            continue;
        }
        let mapping = match fields.nth(3) {
            Some("[stack]") => "stack and environment",
            Some("[heap]") => "heap",
            Some(_) => "program",
            None => "heap or another stack",
        };
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        memory.seek(SeekFrom::Start(start))?;
        // A mapping may have been removed meanwhile.
        if memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        let mut count = |name: String| {
            *found
                .entry(name)
                .or_default()
                .entry(mapping.to_owned())
                .or_default() += 1;
        };
        for at in positions(&bytes, MARK.as_bytes()) {
            let text = bytes[at + MARK.len()..].iter().take(40);
            let name = text.take_while(|byte| **byte != b'~');
            count(name.map(|byte| char::from(*byte)).collect());
        }
        let end = ("an end", END.as_bytes().to_vec());
        for (name, other) in others.iter().chain([&end]) {
            for _ in positions(&bytes, other) {
                count((*name).to_owned());
            }
        }
    }
    Ok(found)
}

/// Returns where `wanted` is in `bytes`.
fn positions(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    let (mut positions, mut at) = (Vec::new(), 0);
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == wanted[0]) {
        at += next;
        if bytes[at..].starts_with(wanted) {
            positions.push(at);
        }
        at += 1;
    }
    positions
}

/// Fails unless each secret is in the daemon's memory as often as `expected` says; those that it
/// does not name must not be in it at all. Without root, fails unless the memory can't be read.
async fn expect(daemon: &Daemon, expected: &[(&str, &str, usize)], others: &[(&str, Vec<u8>)]) {
    if !geteuid().is_root() {
        let refused = look(daemon.pid(), others).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::PermissionDenied));
        return;
    }
    let mut allowed = Found::new();
    for (name, mapping, count) in expected {
        let mappings = allowed.entry((*name).to_owned()).or_default();
        mappings.insert((*mapping).to_owned(), *count);
        if !others.iter().any(|(other, _)| other == name) {
            let ends = allowed.entry("an end".to_owned()).or_default();
            *ends.entry((*mapping).to_owned()).or_default() += count;
        }
    }
    let mut found = Found::new();
    let looked = async {
        eventually("secrets are wiped", PATIENCE, async || {
            found = look(daemon.pid(), others).unwrap();
            found == allowed
        })
        .await;
    };
    let outcome = tokio::time::timeout(PATIENCE / 2, looked).await;
    assert!(outcome.is_ok(), "{found:#?}, but expected {allowed:#?}");
}

/// Logs in, and fails to, in every way in which a secret reaches an edge without TLS.
async fn try_everything(edge: &Daemon, password: &str, token: &str) {
    let connect = || Peer::connect(edge.clients());
    let mut served = connect().await;
    served.auth(USER, password).await;
    served.expect_ack(frame::AUTH).await;
    let mut in_pieces = connect().await;
    in_pieces.send_bytewise(&auth(USER, password)).await;
    in_pieces.expect_ack(frame::AUTH).await;
    let mut by_token = connect().await;
    by_token.auth_token(token).await;
    by_token.expect_ack(frame::AUTH).await;

    for guess in ["guess", "another guess", "guess that waits"] {
        let mut peer = connect().await;
        peer.auth(USER, &secret(guess)).await;
        peer.expect_refusal("AUTH_FAILED").await;
        // The connection still reads, but only to discard what arrives.
        let _ = peer.try_send(&auth(USER, &secret("after the end"))).await;
    }
    let mut peer = connect().await;
    let pieces = auth(USER, &secret("guess in pieces"));
    peer.send_bytewise(&pieces).await;
    peer.expect_refusal("AUTH_FAILED").await;
    let mut peer = connect().await;
    peer.auth_token(&secret("guessed token")).await;
    peer.expect_refusal("AUTH_FAILED").await;
    let mut peer = connect().await;
    let password = secret("malformed");
    // A password, and a field of a type that does not exist.
    let length = u8::try_from(password.len()).unwrap();
    let payload = [&[0x12, length][..], password.as_bytes(), &[0x0F]].concat();
    peer.send(&frame::frame(frame::AUTH, &payload)).await;
    peer.expect_refusal("MALFORMED_PAYLOAD").await;
    let mut unfinished = connect().await;
    unfinished
        .send(&auth(USER, &secret("unfinished"))[..40])
        .await;
    unfinished.finish().await;
    unfinished.expect_eof().await;
    served.auth(USER, &secret("second login")).await;
    served.expect_refusal("ALREADY_AUTHENTICATED").await;
    let mut peer = connect().await;
    peer.send(secret("no frame at all").as_bytes()).await;
    peer.expect_refusal("BAD_MAGIC").await;
}

#[tokio::test]
async fn of_the_secrets_from_files_only_the_login_of_nats_stays_in_memory() {
    let dir = TempDir::new("secrets");
    let file = |name: &str, content: &str| dir.write(name, content).display().to_string();
    let (password, token) = (secret("password"), secret("token"));
    let nats = nats();
    let mut edge = Daemon::new("tickstorm-edge")
        .without("STREAM_PASS")
        .with("STREAM_PASS_FILE", &file("password", &password))
        .with(
            "STREAM_PASS_PREVIOUS_FILE",
            &file("previous", &secret("previous")),
        )
        .with("STREAM_TOKENS_FILE", &file("tokens", TOKENS))
        .with("COOKIE_KEY_FILE", &file("cookies", &secret("cookie key")))
        .with("NATS_URL", &nats.url())
        .with("NATS_USER", "edge")
        .with("NATS_PASSWORD_FILE", &file("nats", &secret("nats")))
        .with("AUTH_RATE_LIMIT", "2");
    edge.start().await;
    edge.logs("connected to NATS").await;
    try_everything(&edge, &password, &token).await;
    expect(&edge, &[("nats", "heap", 1)], &[]).await;
}

#[tokio::test]
async fn secrets_from_variables_are_in_the_environment_and_where_they_are_needed() {
    let (password, token) = (secret("password"), secret("token"));
    let dir = TempDir::new("secrets");
    let tokens = dir.write("tokens", TOKENS);
    let nats = nats();
    let mut edge = Daemon::new("tickstorm-edge")
        .with("STREAM_PASS", &password)
        .with("STREAM_PASS_PREVIOUS", &secret("previous"))
        .with("NATS_URL", &nats.url())
        .with("NATS_USER", "edge")
        .with("NATS_PASSWORD", &secret("nats"));
    edge.start().await;
    edge.terminate().await;
    edge.set("STREAM_TOKENS_FILE", &tokens.display().to_string());
    edge.start().await;
    edge.logs("connected to NATS").await;
    try_everything(&edge, &password, &token).await;
    let environment = "stack and environment";
    expect(
        &edge,
        &[
            ("password", environment, 1),
            ("password", "heap", 1),
            ("previous", environment, 1),
            ("previous", "heap", 1),
            ("nats", environment, 1),
            ("nats", "heap", 2),
        ],
        &[],
    )
    .await;
}

#[tokio::test]
async fn over_tls_passwords_are_wiped_too_and_so_is_the_text_of_the_key() {
    let dir = TempDir::new("secrets");
    let authority = CertificateAuthority::new();
    let issued = authority.issue("edge.test");
    let ca = dir.write("ca.pem", authority.certificate());
    let path = |name: &str, content: &str| dir.write(name, content).display().to_string();
    let password = secret("password");
    let mut edge = Daemon::new("tickstorm-edge")
        .without("STREAM_PASS")
        .with("STREAM_PASS_FILE", &path("password", &password))
        .with("TLS_ENABLED", "true")
        .with("TLS_CERT_FILE", &path("edge.crt", &issued.certificate))
        .with("TLS_KEY_FILE", &path("edge.key", &issued.key));
    edge.start().await;
    let addr = edge.clients().to_string();
    let tail = |password: &str| {
        let mut tail = tickstorm(&["tail", "--addr", &addr, "--user", USER, "--tls"]);
        tail.args(["--tls-name", "edge.test", "--tls-ca"]).arg(&ca);
        tail.env("STREAM_PASS", password);
        tail
    };
    let served = tail(&password).spawn().unwrap();
    let accepted = r#"tickstorm_auth_total{result="accepted"}"#;
    eventually("tail has logged in", PATIENCE, async || {
        edge.metric(accepted).await >= 1.0
    })
    .await;
    let refused = run(tail(&secret("guess"))).await;
    assert_eq!(refused.code, Some(77), "{refused:?}");
    let text: String = issued.key.lines().nth(1).unwrap().to_owned();
    let others = [("key as text", text.into_bytes())];
    expect(&edge, &[], &others).await;
    drop(served);
}

/// Copies a program to where every user can run it.
fn copy_for_everybody(dir: &Path, program: &str) -> PathBuf {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join(program);
    fs::copy(binary(program), &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    copy
}

fn as_nobody(mut command: Command) -> Command {
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[tokio::test]
async fn no_other_process_of_the_same_user_can_read_a_daemon_which_sees_all_of_itself() {
    for program in ["tickstorm-edge", "tickstorm-clock"] {
        let dir = TempDir::new("private");
        let executable = copy_for_everybody(dir.path(), program);
        let mut daemon = Daemon::new(program).run_by(executable, as_nobody);
        daemon.start().await;
        let pid = daemon.pid();
        for file in ["environ", "mem"] {
            let mut reader = Command::new("head");
            reader.args(["-c", "1", &format!("/proc/{pid}/{file}")]);
            let ended = run(as_nobody(piped(reader))).await;
            assert!(ended.stderr.contains("ermission denied"), "{ended:?}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.contains("core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().skip(4).collect();
        assert_eq!(core, ["0", "0", "bytes"]);
        let ended = run(daemon.command(&["healthcheck"])).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        // The files of the process in /proc belong to root, but it can still read what it reports.
        if program == "tickstorm-edge" {
            for metric in [
                "tickstorm_open_files",
                "tickstorm_kernel_memory_limit_bytes",
            ] {
                let value = daemon.metric(metric).await;
                assert!(value > 0.0, "{metric}: {value}");
            }
        }
        assert_eq!(daemon.terminate().await, Some(0));
        assert!(!daemon.log().contains("can't"), "{}", daemon.log());
    }
}

fn piped(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}
