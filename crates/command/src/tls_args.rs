//! [`TlsArgs`]: the options of a client's TLS, as they are given on the command line.

use std::path::PathBuf;

use tickstorm_client::TlsOptions;

/// TLS options.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// Connect over TLS 1.3.
    #[arg(long)]
    tls: bool,
    /// Trust the certificate authorities in this PEM file, instead of those of the system.
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_ca: Option<PathBuf>,
    /// Expect this name or IP address in the edge's certificate, instead of the host of --addr.
    #[arg(long, value_name = "NAME", requires = "tls")]
    tls_name: Option<String>,
    /// Present the certificate in this PEM file.
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate in --tls-cert.
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_cert"])]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Returns whether `--tls` is given.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.tls
    }

    /// Returns the first of the given options that describe an edge run by somebody else: what to
    /// trust, what to expect, or what to present.
    #[must_use]
    pub fn first_of_another_edge(&self) -> Option<&'static str> {
        let given = [
            ("--tls-ca", self.tls_ca.is_some()),
            ("--tls-name", self.tls_name.is_some()),
            ("--tls-cert", self.tls_cert.is_some()),
        ];
        given
            .into_iter()
            .find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// Returns whether the client presents a certificate.
    #[must_use]
    pub fn presents_certificate(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Returns the client's TLS options; `None` without `--tls`.
    #[must_use]
    pub fn options(&self) -> Option<TlsOptions> {
        if !self.tls {
            return None;
        }
        let mut options = TlsOptions::new();
        if let Some(path) = &self.tls_ca {
            options = options.ca_file(path);
        }
        if let Some(name) = &self.tls_name {
            options = options.server_name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            options = options.client_certificate(certificate, key);
        }
        Some(options)
    }
}
