//! [`NatsServer`]: the NATS server of a stage, with a login for each clock and one for all edges.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tickstorm_command::private_dir::PrivateDir;
use tickstorm_testkit::{ReservedAddr, tool};
use tickstorm_timebase::{Clock as _, SystemClock};

use super::thief::{PAYLOAD_MAX, SUBSCRIPTIONS_MAX};

const PROGRAM: &str = "nats-server";
/// The time that the server may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The user of all edges.
pub(super) const EDGE_USER: &str = "edge";

/// A login of NATS.
#[derive(Clone, Debug)]
pub(super) struct NatsLogin {
    pub(super) user: String,
    pub(super) password: String,
}

/// A server, which is killed when this is dropped.
pub(super) struct NatsServer {
    child: Child,
    reserved: ReservedAddr,
    log: PathBuf,
    /// The logins of the clocks, whose users are the clocks' ids.
    pub(super) clocks: Vec<NatsLogin>,
    pub(super) edge: NatsLogin,
}

impl NatsServer {
    /// Starts a server with logins for these clocks, whose files are in `dir`, and waits until it
    /// listens.
    pub(super) fn start(dir: &PrivateDir, clock_ids: &[&str]) -> anyhow::Result<Self> {
        let login = |user: &str| NatsLogin {
            user: user.to_owned(),
            password: format!("{:032x}", rand::random::<u128>()),
        };
        let clocks: Vec<_> = clock_ids.iter().copied().map(login).collect();
        let edge = login(EDGE_USER);
        let reserved = ReservedAddr::reserve();
        let configuration =
            dir.write("nats.conf", &configuration(reserved.addr(), &clocks, &edge))?;
        let log = dir.path().join("nats.log");
        let child = Command::new(tool(PROGRAM))
            .arg("--config")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| {
                format!(
                    "can't start {PROGRAM}, which the attacks on the bus need; `cargo xtask abuse` \
                     installs it"
                )
            })?;
        let mut this = Self {
            child,
            reserved,
            log,
            clocks,
            edge,
        };
        this.await_listening()?;
        Ok(this)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.reserved.addr()
    }

    fn await_listening(&mut self) -> anyhow::Result<()> {
        let until = SystemClock.now() + LISTENS_WITHIN;
        while !greets(self.addr()) {
            let ended = self.child.try_wait()?;
            if ended.is_some() || SystemClock.now() > until {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                anyhow::bail!("{PROGRAM} does not listen ({ended:?}): {log}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // It has no state to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn greets(addr: SocketAddr) -> bool {
    let greeting = || {
        let stream = TcpStream::connect(addr).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.starts_with("INFO ").then_some(())
    };
    greeting().is_some()
}

/// Returns the configuration. The limits are those of deploy/nats/nats.conf, and the permissions
/// are those that docs/operations.md describes: a clock speaks in its own name only, and an edge
/// only asks.
fn configuration(addr: SocketAddr, clocks: &[NatsLogin], edge: &NatsLogin) -> String {
    let clocks: String = clocks
        .iter()
        .map(|NatsLogin { user, password }| {
            format!(
                r#"    {{
      user: "{user}", password: "{password}"
      permissions: {{
        publish: ["tickstorm.v1.tick.*.{user}", "tickstorm.v1.answer.*.{user}"]
        subscribe: ["tickstorm.v1.time", "tickstorm.v1.tick.*.{user}"]
      }}
    }}
"#
            )
        })
        .collect();
    let NatsLogin { user, password } = edge;
    format!(
        r#"listen: "{addr}"
max_payload: {PAYLOAD_MAX}
max_subscriptions: {SUBSCRIPTIONS_MAX}
max_connections: 8192
ping_interval: "2s"
ping_max: 2
write_deadline: "2s"
authorization {{
  timeout: 2
  users: [
{clocks}    {{
      user: "{user}", password: "{password}"
      permissions: {{
        publish: ["tickstorm.v1.time"]
        subscribe: ["tickstorm.v1.tick.*.*", "tickstorm.v1.answer.*.*"]
      }}
    }}
  ]
}}
"#
    )
}

/// Returns the path of a program that is built together with this one.
///
/// # Errors
/// It has not been built.
pub(super) fn sibling(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("can't find the path of this program")?;
    let sibling = own.parent().unwrap_or(Path::new("")).join(program);
    anyhow::ensure!(
        sibling.exists(),
        "{} does not exist: build it with the same profile, as `cargo xtask abuse` does",
        sibling.display()
    );
    Ok(sibling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_clock_may_speak_in_its_own_name_only() {
        let login = |user: &str| NatsLogin {
            user: user.into(),
            password: "secret".into(),
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 4_222));
        let text = configuration(addr, &[login("clock-0"), login("clock-1")], &login("edge"));
        for own in ["clock-0", "clock-1"] {
            let publish =
                format!(r#"publish: ["tickstorm.v1.tick.*.{own}", "tickstorm.v1.answer.*.{own}"]"#);
            assert_eq!(text.matches(&publish).count(), 1, "{text}");
        }
        assert_eq!(text.matches("publish: ").count(), 3, "{text}");
        assert!(text.contains(r#"publish: ["tickstorm.v1.time"]"#), "{text}");
        assert!(!text.contains('>'), "{text}");
    }
}
