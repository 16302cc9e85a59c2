//! [`Equipment`]: what an edge under attack is started with, and its start.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tickstorm_bench::{ChildOptions, EdgeProcess};
use tickstorm_command::Failure;
use tickstorm_command::private_dir::PrivateDir;
use tickstorm_command::throw_away_certificate::ThrowAwayCertificate;

use crate::attacks::Kind;
use crate::surroundings::Surroundings;
use crate::swarm::Login;

/// Descriptors that an edge does not use for connections.
const FILES_RESERVED: u32 = 256;

/// What an edge is started with. Runs with the same equipment can share a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Equipment {
    pub(crate) tls: bool,
    pub(crate) kind: Kind,
    pub(crate) settings: &'static [(&'static str, &'static str)],
    pub(crate) clients: u32,
    pub(crate) hostile: u32,
    pub(crate) new_per_second: u32,
}

/// The token of the admin port, in a file.
pub(crate) struct AdminToken {
    pub(crate) token: String,
    dir: PrivateDir,
}

impl AdminToken {
    const FILE: &str = "admin-token";

    pub(crate) fn new() -> io::Result<Self> {
        let token = format!("{:032x}", rand::random::<u128>());
        let dir = PrivateDir::new("tickstorm-abuse-")?;
        dir.write(Self::FILE, &token)?;
        Ok(Self { token, dir })
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(Self::FILE)
    }
}

/// The settings that the edge under attack always has: the defaults of a daemon, where the load
/// generator would choose others.
const SETTINGS: [(&str, &str); 3] = [
    ("MAX_CONNECTIONS", "100000"),
    ("MAX_HANDSHAKES", "4096"),
    // Warnings are what an operator would see during an attack, but they would drown the table.
    ("LOG_LEVEL", "error"),
];

impl Equipment {
    /// Starts the edge, on `addr` if one is given.
    pub(crate) fn start_edge(
        &self,
        surroundings: &Surroundings,
        certificate: Option<&ThrowAwayCertificate>,
        addr: Option<SocketAddr>,
    ) -> Result<EdgeProcess, Failure> {
        self.start_guarded(surroundings, certificate, addr, None)
    }

    /// Does the same with a token for the admin port.
    pub(crate) fn start_guarded(
        &self,
        surroundings: &Surroundings,
        certificate: Option<&ThrowAwayCertificate>,
        addr: Option<SocketAddr>,
        token: Option<&AdminToken>,
    ) -> Result<EdgeProcess, Failure> {
        let room = self.clients + self.hostile / 2;
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let usual = SETTINGS.iter().filter(|(name, _)| !is_set(name));
        let mut settings: Vec<(&str, OsString)> = usual
            .chain(self.settings)
            .map(|(name, value)| (*name, value.into()))
            .collect();
        if self.kind == Kind::FullEdge {
            settings.push(("MAX_CONNECTIONS", room.to_string().into()));
        }
        if let Some(addr) = addr {
            settings.push(("LISTEN_ADDR", addr.to_string().into()));
        }
        settings.extend(
            certificate
                .into_iter()
                .flat_map(|made| made.edge_settings(false)),
        );
        if let Some(token) = token {
            settings.push(("ADMIN_TOKEN_FILE", token.file().into()));
        }
        let few_files = self.kind == Kind::FewDescriptors;
        let options = ChildOptions {
            files_max: few_files.then(|| (room + FILES_RESERVED).into()),
            has_admin_port: true,
        };
        EdgeProcess::start_with(&surroundings.edge_cpus, self.clients, &settings, options)
    }
}

/// Returns the login that the edge in a child process accepts, which is that of `tickstorm dev`.
pub(crate) fn login() -> Login {
    let [user, password] = tickstorm_command::credentials::DEFAULTS.map(|(name, default)| {
        let set = std::env::var(name).ok().filter(|value| !value.is_empty());
        set.unwrap_or_else(|| default.to_owned())
    });
    Login { user, password }
}
