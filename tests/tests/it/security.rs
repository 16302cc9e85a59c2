//! docs/security.md: its commands work, and its tables are what openssl sees.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tickstorm_testkit::TempDir;
use tokio::process::Command;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::tickstorm::{Ended, PATIENCE, binary, run};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

fn page() -> String {
    fs::read_to_string(Path::new(DOCS).join("security.md")).unwrap()
}

/// Runs a command in a directory, with these arguments.
async fn run_in(dir: &TempDir, program: &str, args: &[&str]) -> Ended {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    run(command).await
}

/// To renew the tables, paste the output of
/// `python3 docs/security-table.py target/debug/tickstorm-edge`.
#[tokio::test]
async fn the_tables_show_what_openssl_sees() {
    let script = format!("{DOCS}/security-table.py");
    let edge = binary("tickstorm-edge");
    let dir = TempDir::new("security_table");
    let ended = run_in(&dir, "python3", &[&script, edge.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let printed = ended.stdout.trim_end();
    assert_eq!(printed.split("\n\n").count(), 2, "{printed}");
    assert!(
        page().contains(printed),
        "the tables in docs/security.md are outdated; they should be:\n\n{printed}\n"
    );
}

/// The blocks of commands for openssl, in the order of the page.
fn blocks() -> Vec<String> {
    let page = page();
    let fenced = page.split("```").skip(1).step_by(2);
    let of_openssl = fenced.filter(|block| block.lines().any(|line| line.starts_with("openssl")));
    of_openssl.map(str::to_owned).collect()
}

/// An edge, and the directory in which a reader of the page works.
struct Reader {
    dir: TempDir,
    edge: Daemon,
}

impl Reader {
    fn new() -> Self {
        let dir = TempDir::new("security");
        let mut edge = Daemon::new("tickstorm-edge");
        edge.set("TLS_ENABLED", "true");
        let mut this = Self { dir, edge };
        this.set("TLS_CERT_FILE", "edge.crt");
        this.set("TLS_KEY_FILE", "edge.key");
        this
    }

    fn set(&mut self, setting: &str, file: &str) {
        let file = self.dir.path().join(file);
        self.edge.set(setting, file.to_str().unwrap());
    }

    async fn run(&self, block: &str) -> Ended {
        let address = self.edge.clients().to_string();
        let block = block.replace("edge.example:8080", &address);
        let ended = run_in(&self.dir, "sh", &["-euc", &block]).await;
        assert_eq!(ended.code, Some(0), "{block}\n{ended:?}");
        ended
    }

    /// Connects with the certificate of the page's client, and returns what openssl printed.
    async fn connect(&self) -> String {
        let address = self.edge.clients().to_string();
        let command = format!(
            "head -c 64 /dev/zero | openssl s_client -connect {address} -CAfile ca.pem \
             -cert till-7.crt -key till-7.key -ign_eof 2>&1 | tr -cd '[:print:]\\n'"
        );
        self.run(&command).await.stdout
    }
}

#[tokio::test]
async fn the_commands_for_openssl_work_in_the_order_of_the_page() {
    let mut reader = Reader::new();
    let mut steps = Vec::new();
    for block in blocks() {
        let step = ["s_client", "-revoke", "-gencrl", "till-7.csr"]
            .into_iter()
            .find(|word| block.contains(word));
        steps.extend(step);
        match step {
            Some("s_client") => {
                reader.edge.start().await;
                let ended = reader.run(&block).await;
                assert!(ended.stderr.contains("Verification: OK"), "{ended:?}");
                assert_eq!(reader.edge.terminate().await, Some(0));
            }
            Some("-gencrl") => {
                reader.run(&block).await;
                reader.edge.set("TLS_CLIENT_AUTH", "require_verify");
                reader.set("TLS_CA_FILE", "ca.pem");
                reader.set("TLS_CRL_FILE", "revoked.pem");
                reader.edge.start().await;
                let printed = reader.connect().await;
                assert!(!printed.contains("alert number"), "{printed}");
            }
            Some("-revoke") => {
                reader.run(&block).await;
                eventually("the certificate is revoked", PATIENCE, async || {
                    reader.connect().await.contains("SSL alert number 44")
                })
                .await;
            }
            _ => drop(reader.run(&block).await),
        }
    }
    assert_eq!(steps, ["s_client", "till-7.csr", "-gencrl", "-revoke"]);
}
