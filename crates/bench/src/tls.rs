//! TLS between the load generator and the edge under test: the options, the throw-away certificate
//! of an edge in a child process, and what clients need to trust an edge.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tickstorm_client::TlsOptions;
use tickstorm_command::throw_away_certificate::{KeyType, ThrowAwayCertificate};
use tickstorm_command::{Failure, TlsArgs};
use tickstorm_edge::settings::TLS;
use tickstorm_service::env::Settings;
use tickstorm_service::exit;

/// The name in the certificate of an edge in a child process.
const NAME: &str = "localhost";

/// The options of TLS.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct BenchTlsArgs {
    #[command(flatten)]
    client: TlsArgs,
    /// With --tls: type of the private key of the edge in the child process
    #[arg(
        long,
        value_enum,
        default_value_t,
        requires = "tls",
        conflicts_with = "addr"
    )]
    tls_key_type: KeyType,
    /// With --tls: the edge in the child process requires a certificate of every client; all
    /// present the same one
    #[arg(long, requires = "tls", conflicts_with = "addr")]
    tls_client_auth: bool,
}

/// TLS of one run.
#[derive(Default)]
pub(crate) struct RunTls {
    /// The files of the edge in the child process.
    certificate: Option<ThrowAwayCertificate>,
    client_auth: bool,
    /// `None` if clients connect without TLS.
    pub(crate) clients: Option<ClientTls>,
    facts: Option<TlsFacts>,
}

/// TLS as clients use it.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The configuration, with secret extraction.
    pub config: Arc<ClientConfig>,
    /// The name that the edge's certificate must have.
    pub name: ServerName<'static>,
    /// The same, for the Rust client.
    pub(crate) options: TlsOptions,
}

/// What a report says about TLS.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TlsFacts {
    /// The cipher suite that was negotiated; `None` if no handshake was complete.
    pub(crate) suite: Option<&'static str>,
    /// The type of the edge's key; `None` for an edge at `--addr`.
    pub(crate) key_type: Option<&'static str>,
    /// Whether clients presented a certificate.
    pub(crate) client_certificate: bool,
}

impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TLS: {}",
            self.suite.unwrap_or("no handshake was complete")
        )?;
        if let Some(key_type) = self.key_type {
            write!(f, ", key of the edge {key_type}")?;
        }
        if self.client_certificate {
            f.write_str(", with a client certificate")?;
        }
        Ok(())
    }
}

impl BenchTlsArgs {
    /// Returns whether clients use TLS.
    pub(crate) fn is_on(&self) -> bool {
        self.client.is_on()
    }

    /// Prepares TLS for a run against the edge at `addr`, or against one in a child process.
    pub(crate) fn prepare(&self, addr: Option<&str>) -> Result<RunTls, Failure> {
        match addr {
            Some(addr) => self.prepare_for_another_edge(addr),
            None => self.prepare_for_child(),
        }
    }

    fn prepare_for_another_edge(&self, addr: &str) -> Result<RunTls, Failure> {
        let Some(options) = self.client.options() else {
            return Ok(RunTls::default());
        };
        let facts = TlsFacts {
            suite: None,
            key_type: None,
            client_certificate: self.client.presents_certificate(),
        };
        Ok(RunTls {
            clients: Some(ClientTls::new(options, addr)?),
            facts: Some(facts),
            ..RunTls::default()
        })
    }

    fn prepare_for_child(&self) -> Result<RunTls, Failure> {
        if let Some(option) = self.client.first_of_another_edge() {
            let text = format!(
                "{option} is for an edge at --addr; the edge in the child process has a \
                 throw-away certificate, which the clients trust"
            );
            return Err(Failure::message(exit::USAGE, text));
        }
        refuse_settings()?;
        if !self.is_on() {
            return Ok(RunTls::default());
        }
        let certificate = ThrowAwayCertificate::new(&[NAME], self.tls_key_type)
            .map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
        let mut options = TlsOptions::new()
            .ca_file(certificate.authority_file())
            .server_name(NAME);
        if self.tls_client_auth {
            let (own, key) = certificate.client_files();
            options = options.client_certificate(own, key);
        }
        let facts = TlsFacts {
            suite: None,
            key_type: Some(self.tls_key_type.name()),
            client_certificate: self.tls_client_auth,
        };
        Ok(RunTls {
            certificate: Some(certificate),
            client_auth: self.tls_client_auth,
            clients: Some(ClientTls::new(options, NAME)?),
            facts: Some(facts),
        })
    }
}

impl RunTls {
    /// Returns the settings of the edge in the child process.
    pub(crate) fn edge_settings(&self) -> Vec<(&'static str, OsString)> {
        let certificate = self.certificate.as_ref();
        certificate.map_or_else(Vec::new, |made| made.edge_settings(self.client_auth))
    }

    /// Returns what the report says about TLS, after a run that negotiated `suite`; `None` without
    /// TLS.
    pub(crate) fn facts(&self, suite: Option<&'static str>) -> Option<TlsFacts> {
        let facts = self.facts.clone()?;
        Some(TlsFacts { suite, ..facts })
    }
}

impl ClientTls {
    /// Returns the TLS of clients that trust an edge with the name `localhost` and a certificate of
    /// the authority in this file.
    ///
    /// # Errors
    /// The file can't be read or has no certificate.
    pub fn trusting(authority_file: &Path) -> Result<Self, Failure> {
        Self::new(TlsOptions::new().ca_file(authority_file), NAME)
    }

    fn new(options: TlsOptions, addr: &str) -> Result<Self, Failure> {
        let name = options.expected_name(addr).map_err(|error| {
            let what = "the edge's certificate can't have the name of --tls-name or --addr";
            Failure::new(exit::USAGE, anyhow::Error::new(error).context(what))
        })?;
        let mut config = options
            .client_config(tickstorm_tls::provider())
            .map_err(|error| Failure::new(exit::CONFIG, error))?;
        config.enable_secret_extraction = true;
        config.resumption = Resumption::disabled();
        // Clients connect to the address that the host of --addr has.
        let options = options.server_name(name.to_str());
        Ok(Self {
            config: Arc::new(config),
            name,
            options,
        })
    }
}

/// Fails if the environment has settings of the edge's TLS: the edge in the child process has a
/// certificate of its own.
fn refuse_settings() -> Result<(), Failure> {
    let section = TLS.refused("`bench --tls` makes its own certificate");
    match Settings::load(&[section], &[]) {
        Ok(_) => Ok(()),
        Err(errors) => Err(Failure::new(exit::CONFIG, errors)),
    }
}
