//! What a client says about itself when it connects: its name, what it can do, and its login.

use std::io::{self, Write};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What the server says about itself in INFO, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerInfo {
    /// Whether it accepts only TLS.
    pub(super) tls_required: bool,
    /// Whether it passes headers on.
    pub(super) headers: bool,
    /// The text to sign, for logins with a key.
    nonce: String,
}

/// A login.
#[derive(Clone, Default)]
pub(super) struct Login {
    pub(super) user: Option<(SecretString, SecretString)>,
    pub(super) token: Option<SecretString>,
    pub(super) credentials: Option<UserCredentials>,
}

/// The content of a credentials file.
#[derive(Clone)]
pub(super) struct UserCredentials {
    jwt: SecretString,
    seed: SecretString,
}

/// The content of a credentials file is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidCredentials;

impl UserCredentials {
    /// Parses a credentials file: a JWT and the seed of a key, each between two lines of hyphens.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidCredentials> {
        let jwt = enclosed(text, "NATS USER JWT").ok_or(InvalidCredentials)?;
        let seed = enclosed(text, "USER NKEY SEED").ok_or(InvalidCredentials)?;
        KeyPair::from_seed(seed).map_err(|_| InvalidCredentials)?;
        Ok(Self {
            jwt: jwt.into(),
            seed: seed.into(),
        })
    }

    fn sign(&self, nonce: &str) -> Result<String, InvalidCredentials> {
        let key = KeyPair::from_seed(self.seed.expose_secret()).map_err(|_| InvalidCredentials)?;
        let signature = key.sign(nonce.as_bytes()).map_err(|_| InvalidCredentials)?;
        Ok(BASE64URL_NOPAD.encode(&signature))
    }
}

/// Returns the line between `-----BEGIN {label}-----` and the next line of hyphens.
fn enclosed<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(str::trim);
    let begin = format!("BEGIN {label}");
    lines.find(|line| line.trim_matches('-') == begin)?;
    let line = lines.find(|line| !line.is_empty())?;
    (!line.starts_with('-')).then_some(line)
}

/// The content of CONNECT.
#[derive(Serialize)]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'static str,
    version: &'static str,
    protocol: u8,
    echo: bool,
    /// Without headers, the server removes those of other clients' messages.
    headers: bool,
    no_responders: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

impl Connect<'_> {
    /// Writes the operation CONNECT.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"CONNECT ")?;
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\r\n")
    }
}

/// Counts the bytes that are written to it.
struct ByteCount(usize);

impl Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the operation CONNECT, which contains the login in plain text and is wiped when it is
/// dropped.
pub(super) fn connect_op(
    name: &str,
    login: &Login,
    info: &ServerInfo,
    has_tls: bool,
    has_headers: bool,
) -> Result<Zeroizing<Vec<u8>>, InvalidCredentials> {
    let signature = match &login.credentials {
        Some(credentials) => Some(credentials.sign(&info.nonce)?),
        None => None,
    };
    let (user, pass) = match &login.user {
        Some((user, pass)) => (Some(user.expose_secret()), Some(pass.expose_secret())),
        None => (None, None),
    };
    let connect = Connect {
        verbose: false,
        pedantic: false,
        tls_required: has_tls,
        name,
        lang: "rust",
        version: env!("CARGO_PKG_VERSION"),
        protocol: 1,
        echo: true,
        headers: has_headers,
        no_responders: false,
        user,
        pass,
        auth_token: login.token.as_ref().map(ExposeSecret::expose_secret),
        jwt: login
            .credentials
            .as_ref()
            .map(|credentials| credentials.jwt.expose_secret()),
        sig: signature,
    };
    // A buffer that grows would leave copies of the login behind.
    let mut length = ByteCount(0);
    let counted = connect.write(&mut length);
    let mut op = Zeroizing::new(Vec::with_capacity(length.0));
    let written = connect.write(&mut *op);
    counted
        .and(written)
        .expect("text and booleans can be written as JSON");
    Ok(op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_written_as_json_whatever_it_contains() {
        let login = Login {
            user: Some(("u\"\r\n".into(), "p\\".into())),
            ..Login::default()
        };
        let op = connect_op("name", &login, &ServerInfo::default(), true, false).unwrap();
        let json = op.strip_prefix(b"CONNECT ").unwrap();
        let json = json.strip_suffix(b"\r\n").unwrap();
        let value: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(value["user"], "u\"\r\n");
        assert_eq!(value["pass"], "p\\");
        assert_eq!(value["tls_required"], true);
        assert_eq!(value.get("auth_token"), None);
        assert!(!json.contains(&b'\n'), "it is one line");
        assert_eq!(op.len(), op.capacity(), "it was not reallocated");
    }

    #[test]
    fn a_credentials_file_has_a_jwt_and_a_seed() {
        let seed = KeyPair::new_user().seed().unwrap();
        let file = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\nNotes.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let credentials = UserCredentials::parse(&file).unwrap();
        assert_eq!(credentials.jwt.expose_secret(), "eyJ0");
        assert_eq!(credentials.seed.expose_secret(), seed);
        for invalid in [
            String::new(),
            "s3cret".to_owned(),
            file.replace(&seed, "SUA"),
            file.replace("eyJ0\n", ""),
            file.replace("BEGIN USER", "BEGIN"),
        ] {
            assert!(UserCredentials::parse(&invalid).is_err(), "{invalid}");
        }
    }
}
