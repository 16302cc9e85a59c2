//! How `dev` serves TLS: with the certificate that the settings name, or with a throw-away one. Its
//! own client, and the command that it prints for others, trust the authority of that certificate.

use std::path::{Path, PathBuf};

use tickstorm_client::TlsOptions;
use tickstorm_command::{
    Failure,
    throw_away_certificate::{KeyType, ThrowAwayCertificate},
};
use tickstorm_edge::ClientAuth;
use tickstorm_edge::settings::{LISTEN_ADDR, TLS_CLIENT_AUTH, TLS_ENABLED};
use tickstorm_service::env::{Origin, Settings};
use tickstorm_service::exit;

/// TLS options.
#[derive(Debug, clap::Args)]
pub(super) struct DevTlsArgs {
    /// Serve TLS with a throw-away certificate, unless TLS_ENABLED and TLS_CERT_FILE are set.
    #[arg(long)]
    tls: bool,
    /// The authorities that signed TLS_CERT_FILE, in a PEM file [default: those of the system].
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// A name in TLS_CERT_FILE [default: the host of LISTEN_ADDR].
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
}

/// The way in which clients are served. The files of a throw-away certificate are removed when this
/// is dropped.
pub(super) enum Served {
    PlainText,
    ThrowAway(ThrowAwayCertificate),
    OwnCertificate {
        authorities: Option<PathBuf>,
        name: Option<String>,
    },
}

impl DevTlsArgs {
    /// Returns the settings and the way in which clients are served. `load` loads the settings with
    /// these defaults in addition to its own.
    pub(super) fn settings(
        &self,
        load: impl Fn(&[(&str, &str)]) -> Result<Settings, Failure>,
    ) -> Result<(Settings, Served), Failure> {
        let settings = load(&[])?;
        if settings.get(&TLS_CLIENT_AUTH) == ClientAuth::RequireVerify {
            return Err(refused(
                "TLS_CLIENT_AUTH=require_verify is not supported: the client that prints the \
                 ticks has no certificate; run tickstorm-edge instead",
            ));
        }
        if settings.get(&TLS_ENABLED) {
            let served = Served::OwnCertificate {
                authorities: self.tls_ca.clone(),
                name: self.tls_name.clone(),
            };
            return Ok((settings, served));
        }
        if self.tls_ca.is_some() || self.tls_name.is_some() {
            return Err(refused(
                "--tls-ca and --tls-name describe the certificate of TLS_CERT_FILE: set \
                 TLS_ENABLED=true, TLS_CERT_FILE and TLS_KEY_FILE, or leave out both options",
            ));
        }
        if !self.tls {
            return Ok((settings, Served::PlainText));
        }
        if *settings.origin_of(&TLS_ENABLED) != Origin::Default {
            return Err(refused(
                "--tls contradicts TLS_ENABLED=false: leave out one of them",
            ));
        }
        let listen_ip = settings.get(&LISTEN_ADDR).ip().to_string();
        let names = ["localhost", "127.0.0.1", "::1", &listen_ip];
        let is_known = names[..3].contains(&&*listen_ip);
        let names = if is_known { &names[..3] } else { &names };
        let made = ThrowAwayCertificate::new(names, KeyType::EcdsaP256)
            .map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
        let files = made.edge_settings(false);
        let defaults: Option<Vec<_>> = files
            .iter()
            .map(|(name, value)| Some((*name, value.to_str()?)))
            .collect();
        let defaults = defaults.ok_or_else(|| {
            refused("the path of the directory for temporary files (TMPDIR) is not UTF-8 text")
        })?;
        Ok((load(&defaults)?, Served::ThrowAway(made)))
    }
}

fn refused(text: &str) -> Failure {
    Failure::message(exit::CONFIG, text.into())
}

impl Served {
    /// Returns the TLS options of a client; `None` without TLS.
    pub(super) fn client_options(&self) -> Option<TlsOptions> {
        let (authorities, name) = self.trusted()?;
        let options = TlsOptions::new();
        let options = match authorities {
            Some(file) => options.ca_file(file),
            None => options,
        };
        Some(match name {
            Some(name) => options.server_name(name),
            None => options,
        })
    }

    /// Returns the options with which `tail` connects, for a POSIX shell, after a space; empty
    /// without TLS.
    pub(super) fn tail_options(&self) -> String {
        let Some((authorities, name)) = self.trusted() else {
            return String::new();
        };
        let mut options = " --tls".to_owned();
        if let Some(file) = authorities {
            options.push_str(&format!(
                " --tls-ca {}",
                quoted(&file.display().to_string())
            ));
        }
        if let Some(name) = name {
            options.push_str(&format!(" --tls-name {}", quoted(name)));
        }
        options
    }

    /// Returns the file with the authorities to trust, unless they are those of the system, and the
    /// name to expect, unless it is the host.
    fn trusted(&self) -> Option<(Option<PathBuf>, Option<&str>)> {
        match self {
            Self::PlainText => None,
            Self::ThrowAway(made) => Some((Some(made.authority_file()), None)),
            Self::OwnCertificate { authorities, name } => {
                let authorities = authorities.as_deref().map(absolute);
                Some((authorities, name.as_deref()))
            }
        }
    }
}

/// Returns the absolute path, which also works in a terminal with another working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Quotes a word for a POSIX shell if it needs that.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(authorities: Option<&str>, name: Option<&str>) -> Served {
        Served::OwnCertificate {
            authorities: authorities.map(Into::into),
            name: name.map(Into::into),
        }
    }

    #[test]
    fn the_options_for_tail_can_be_pasted_into_a_shell() {
        assert_eq!(Served::PlainText.tail_options(), "");
        assert_eq!(own(None, None).tail_options(), " --tls");
        let served = own(Some("/etc/tls/ca.pem"), Some("edge.example"));
        let expected = " --tls --tls-ca /etc/tls/ca.pem --tls-name edge.example";
        assert_eq!(served.tail_options(), expected);
        let served = own(Some("/it's mine/$HOME/ca.pem"), None);
        let expected = r" --tls --tls-ca '/it'\''s mine/$HOME/ca.pem'";
        assert_eq!(served.tail_options(), expected);
    }

    #[test]
    fn a_relative_path_is_printed_as_an_absolute_one() {
        let options = own(Some("ca.pem"), None).tail_options();
        assert!(options.starts_with(" --tls --tls-ca /"), "{options}");
    }
}
