//! FD_TABLES=per-shard in the real programs, with a limit of open files below the number of
//! connections that they accept.

use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::dev::{Dev, http};
use crate::tickstorm::{binary, run};

/// Returns a command that runs a program with this limit of open files, per-shard tables, free
/// ports and a login.
fn limited(open_files: u32, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {open_files}; exec \"$0\" \"$@\""))
        .arg(binary(name))
        .args(args)
        .env_clear()
        .env("FD_TABLES", "per-shard")
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("STREAM_USER", "ada")
        .env("STREAM_PASS", "open sesame")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn too_few_shards_are_reported_with_all_other_errors_and_also_by_check_config() {
    for (name, args) in [
        ("tickstorm-edge", &[][..]),
        ("tickstorm-edge", &["--check-config"]),
        ("tickstorm", &["dev"]),
        ("tickstorm", &["dev", "--check-config"]),
    ] {
        let mut command = limited(1_000, name, args);
        command.env("SHARDS", "3").env("DRAIN_TIMEOUT", "soon");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(78), "{name} {args:?}: {ended:?}");
        for part in [
            "SHARDS=3 ",
            "MAX_CONNECTIONS=100000:",
            "at least 139 shards are needed",
            "DRAIN_TIMEOUT=soon",
        ] {
            assert!(
                ended.stderr.contains(part),
                "no {part} of {name}: {ended:?}"
            );
        }
        let mut command = limited(1_000, name, &["--check-config"]);
        if name == "tickstorm" {
            command = limited(1_000, name, &["dev", "--check-config"]);
        }
        command.env("SHARDS", "3").env("MAX_CONNECTIONS", "2166");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
        assert!(
            ended.stdout.contains("FD_TABLES=per-shard (env)\n"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn dev_serves_ticks_and_its_admin_port_and_handles_signals() {
    let mut command = limited(300, "tickstorm", &["dev"]);
    command.env("SHARDS", "4").env("MAX_CONNECTIONS", "170");
    let mut dev = Dev::start(command).await;
    for _ in 0..2 {
        dev.process.line().await;
    }
    let metrics = http(dev.admin, "/metrics");
    assert!(
        metrics.contains("\ntickstorm_open_files_limit 300\n"),
        "{metrics}"
    );
    assert!(http(dev.admin, "/connections").contains("tickstorm dev"));
    let status = dev.process.end_with(Signal::SIGTERM).await;
    assert_eq!(status.code(), Some(0));
}
