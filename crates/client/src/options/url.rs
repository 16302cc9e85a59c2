//! Options as a URL. Errors name the part that is wrong and what is allowed, and never show a
//! password or token.

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use tickstorm_timebase::{Epoch, Mode};

use super::{Credentials, Options, Secret};
#[cfg(feature = "tls")]
use crate::tls::TlsOptions;

const DEFAULT_PORT: u16 = 8_080;

/// The parameters that a URL may have.
const PARAMETERS: [&str; 14] = [
    "mode",
    "ahead",
    "exact_time",
    "resume_after",
    "reconnect",
    "moves",
    "client_id",
    "password_file",
    "token",
    "token_file",
    "ca_file",
    "server_name",
    "cert_file",
    "key_file",
];
/// Those of them that are only for connections over TLS.
const TLS_PARAMETERS: [&str; 4] = ["ca_file", "server_name", "cert_file", "key_file"];

/// A reason why a URL, or the environment, does not make valid [`Options`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// The URL has another scheme, or none.
    #[error("the URL must begin with tickstorm:// or, for TLS, with tickstorms://")]
    Scheme,
    /// The scheme is that of TLS, which this program was built without.
    #[error("tickstorms:// needs tickstorm-client's feature `tls`, which this program lacks")]
    WithoutTls,
    /// An address is not valid. It is not shown, because it may be a part of a password.
    #[error(
        "address number {number} of the URL is not valid: expected host, host:port or [IPv6 \
         address]:port, with a port from 1 to 65535; in a user name or password, write / as %2F, \
         ? as %3F, # as %23 and @ as %40"
    )]
    #[non_exhaustive]
    Address {
        /// Which of the addresses, from 1.
        number: usize,
    },
    /// The URL has a path or a fragment.
    #[error("only parameters, such as ?mode=second, may follow the addresses of the URL")]
    Path,
    /// A part of the URL has a `%` that encodes no UTF-8 text.
    #[error(
        "{part} of the URL has a % that encodes no UTF-8 text; write %25 for the % sign itself"
    )]
    #[non_exhaustive]
    Encoding {
        /// The part of the URL.
        part: &'static str,
    },
    /// The URL has a parameter that does not exist.
    #[error("the URL's parameter {name:?} does not exist: expected {}", PARAMETERS.join(", "))]
    #[non_exhaustive]
    UnknownParameter {
        /// The name that was given.
        name: String,
    },
    /// A parameter has a value that is not allowed.
    #[error("the URL's parameter {name} is {value:?}: expected {allowed}")]
    #[non_exhaustive]
    Value {
        /// The parameter.
        name: &'static str,
        /// The value that was given.
        value: String,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// Parameters are given that do not go together.
    #[error("the URL is not valid: {rule}")]
    #[non_exhaustive]
    Combination {
        /// The rule that the URL breaks.
        rule: &'static str,
    },
    /// An environment variable is missing or can't be used.
    #[error("the environment is not valid: {problem}")]
    #[non_exhaustive]
    Environment {
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

impl Options {
    /// Creates options from a URL, such as
    /// `tickstorm://ada@edge-0:8080,edge-1:8080?mode=minute&ahead=1`.
    ///
    /// | part | meaning |
    /// |---|---|
    /// | `tickstorm://` | a plain TCP connection; `tickstorms://` is one with TLS |
    /// | `ada:secret@` | the user name and password; characters such as `/` are written as `%2F` |
    /// | `edge-0:8080,edge-1` | the addresses; the port is 8080 if it is missing |
    /// | `mode=second` | [`mode`](Self::mode), or `minute` |
    /// | `ahead`, `exact_time`, `reconnect`, `moves` | the options of that name: `1` or `0` |
    /// | `resume_after=1800000000000` | [`resume_after`](Self::resume_after), in milliseconds |
    /// | `client_id=rack-7` | [`client_id`](Self::client_id); `@` is written as `%40` |
    /// | `password_file=/run/secrets/pass` | [`password_file`](Self::password_file) |
    /// | `token=…`, `token_file=…` | [`token`](Self::token), [`token_file`](Self::token_file) |
    /// | `ca_file`, `server_name`, `cert_file`, `key_file` | TLS only: see `TlsOptions` |
    ///
    /// Passwords in URLs tend to end up in logs. [`Options::from_env`] takes them from variables of
    /// their own, and a file can be read again after the password has changed.
    ///
    /// ```
    /// use tickstorm_client::Options;
    ///
    /// let options = Options::from_url("tickstorm://ada@edge-0:8080,edge-1:8080?ahead=1")?
    ///     .password("open sesame");
    /// let error = Options::from_url("tickstorm://edge-0?mode=hour").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "the URL's parameter mode is \"hour\": expected second or minute"
    /// );
    /// # Ok::<(), tickstorm_client::OptionsError>(())
    /// ```
    ///
    /// # Errors
    /// A part of the URL is not valid.
    pub fn from_url(url: &str) -> Result<Self, OptionsError> {
        let (has_tls, rest) = match url.split_once("://") {
            Some(("tickstorm", rest)) => (false, rest),
            Some(("tickstorms", rest)) => (true, rest),
            Some(_) | None => return Err(OptionsError::Scheme),
        };
        let authority_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(authority_len);
        let (login, addresses) = match authority.rsplit_once('@') {
            Some((login, addresses)) => (Some(login), addresses),
            None => (None, authority),
        };
        let mut options = Self::of(
            addresses
                .split(',')
                .enumerate()
                .map(|(index, text)| {
                    address(text).ok_or(OptionsError::Address { number: index + 1 })
                })
                .collect::<Result<_, _>>()?,
        );
        if let Some(login) = login {
            options.credentials = credentials(login)?;
        }
        let tail = tail.strip_prefix('/').unwrap_or(tail);
        let query = match tail.strip_prefix('?') {
            Some(query) if !query.contains('#') => query,
            None if tail.is_empty() => "",
            Some(_) | None => return Err(OptionsError::Path),
        };
        Parameters::parse(query)?.apply(options, has_tls)
    }
}

/// Returns an address with a port.
fn address(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (&text[..host.len() + 2], after)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        None if port.is_empty() => DEFAULT_PORT,
        Some(_) | None => return None,
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    let is_valid = !host.is_empty() && port != 0 && host.chars().all(is_host);
    is_valid.then(|| format!("{host}:{port}"))
}

fn credentials(login: &str) -> Result<Credentials, OptionsError> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(decode(password, "the password")?)),
        None => (login, None),
    };
    let user = decode(user, "the user name")?;
    if user.is_empty() || password.as_ref().is_some_and(String::is_empty) {
        return Err(OptionsError::Combination {
            rule: "a user name and a password must not be empty",
        });
    }
    Ok(Credentials::Password {
        user,
        password: password.map_or(Secret::Missing, |text| {
            Secret::Text(SecretString::from(text))
        }),
    })
}

fn decode(text: &str, part: &'static str) -> Result<String, OptionsError> {
    let error = OptionsError::Encoding { part };
    let is_encoded = |after: &str| {
        let mut digits = after.bytes().take(2).filter(u8::is_ascii_hexdigit);
        digits.by_ref().count() == 2
    };
    if !text.split('%').skip(1).all(is_encoded) {
        return Err(error);
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| error)
}

/// The parameters of a URL, each of which is given at most once.
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn parse(query: &str) -> Result<Self, OptionsError> {
        // It may be the rest of a password with a question mark.
        if query.contains('@') {
            return Err(OptionsError::Address { number: 1 });
        }
        let mut parameters = Self(Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, "a parameter's name")?;
            let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) else {
                // It may be a part of the token.
                if parameters.0.iter().any(|(given, _)| *given == "token") {
                    return Err(OptionsError::Combination {
                        rule: "only parameters that exist may follow the token, in which & is \
                               written as %26",
                    });
                }
                return Err(OptionsError::UnknownParameter { name });
            };
            if parameters.0.iter().any(|(given, _)| *given == known) {
                return Err(OptionsError::Combination {
                    rule: "each parameter may be given once",
                });
            }
            parameters.0.push((known, decode(value, known)?));
        }
        Ok(parameters)
    }

    fn take(&mut self, name: &'static str) -> Result<Option<String>, OptionsError> {
        let Some(index) = self.0.iter().position(|(given, _)| *given == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.swap_remove(index);
        if value.is_empty() {
            return Err(OptionsError::Value {
                name,
                value,
                allowed: "a value that is not empty",
            });
        }
        Ok(Some(value))
    }

    fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, OptionsError> {
        match self.take(name)?.as_deref() {
            None => Ok(default),
            Some("1" | "true") => Ok(true),
            Some("0" | "false") => Ok(false),
            Some(value) => Err(OptionsError::Value {
                name,
                value: value.to_owned(),
                allowed: "1, true, 0 or false",
            }),
        }
    }

    fn apply(mut self, mut options: Options, has_tls: bool) -> Result<Options, OptionsError> {
        if let Some(value) = self.take("mode")? {
            options.mode = mode(value)?;
        }
        options.ahead = self.flag("ahead", options.ahead)?;
        options.exact_time = self.flag("exact_time", options.exact_time)?;
        options.reconnect = self.flag("reconnect", options.reconnect)?;
        options.moves = self.flag("moves", options.moves)?;
        if let Some(value) = self.take("resume_after")? {
            options.resume_after = Some(epoch(value)?);
        }
        if let Some(id) = self.take("client_id")? {
            options.client_id = id;
        }
        self.apply_secrets(&mut options)?;
        if has_tls {
            return self.apply_tls(options);
        }
        if self.0.iter().any(|(name, _)| TLS_PARAMETERS.contains(name)) {
            return Err(OptionsError::Combination {
                rule: "ca_file, server_name, cert_file and key_file need tickstorms://",
            });
        }
        Ok(options)
    }

    fn apply_secrets(&mut self, options: &mut Options) -> Result<(), OptionsError> {
        let password_file = self.take("password_file")?;
        let token = self.take("token")?;
        let token_file = self.take("token_file")?;
        let secret = match (password_file, token, token_file) {
            (None, None, None) => return Ok(()),
            (Some(path), None, None) => {
                let Credentials::Password { password, .. } = &mut options.credentials else {
                    return Err(OptionsError::Combination {
                        rule: "password_file needs a user name, as in tickstorm://ada@edge",
                    });
                };
                if !matches!(password, Secret::Missing) {
                    return Err(OptionsError::Combination {
                        rule: "password_file cannot be given together with a password",
                    });
                }
                *password = Secret::File(path.into());
                return Ok(());
            }
            (None, Some(token), None) => Secret::Text(token.into()),
            (None, None, Some(path)) => Secret::File(path.into()),
            (_, _, _) => {
                return Err(OptionsError::Combination {
                    rule: "only one of password_file, token and token_file may be given",
                });
            }
        };
        if !matches!(options.credentials, Credentials::None) {
            return Err(OptionsError::Combination {
                rule: "a token is used without a user name and password",
            });
        }
        options.credentials = Credentials::Token(secret);
        Ok(())
    }

    #[cfg(feature = "tls")]
    fn apply_tls(mut self, options: Options) -> Result<Options, OptionsError> {
        let mut tls = TlsOptions::new();
        if let Some(path) = self.take("ca_file")? {
            tls = tls.ca_file(path);
        }
        if let Some(name) = self.take("server_name")? {
            tls = tls.server_name(name);
        }
        tls = match (self.take("cert_file")?, self.take("key_file")?) {
            (None, None) => tls,
            (Some(certificate), Some(key)) => tls.client_certificate(certificate, key),
            (_, _) => {
                return Err(OptionsError::Combination {
                    rule: "cert_file and key_file must be given together",
                });
            }
        };
        Ok(options.tls(tls))
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "without TLS, there is nothing to apply")]
    fn apply_tls(self, _options: Options) -> Result<Options, OptionsError> {
        Err(OptionsError::WithoutTls)
    }
}

fn mode(value: String) -> Result<Mode, OptionsError> {
    let found = Mode::ALL.into_iter().find(|mode| mode.name() == value);
    found.ok_or(OptionsError::Value {
        name: "mode",
        value,
        allowed: "second or minute",
    })
}

fn epoch(value: String) -> Result<Epoch, OptionsError> {
    match value.parse() {
        Ok(ms) => Ok(Epoch::from_ms(ms)),
        Err(_) => Err(OptionsError::Value {
            name: "resume_after",
            value,
            allowed: "a Unix time in milliseconds, such as 1800000000000",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        Options::from_url(url).unwrap_err().to_string()
    }

    #[test]
    fn a_url_names_everything() {
        let url = "tickstorm://ada:open%20%2Fsesame@host:8080,host2,[::1]:9,[2001:db8::1]/\
                   ?mode=minute&ahead=1&exact_time=true&resume_after=-5&reconnect=0&moves=false\
                   &client_id=rack%207";
        let options = Options::from_url(url).unwrap();
        let expected = Options::new("host:8080")
            .or_at("host2:8080")
            .or_at("[::1]:9")
            .or_at("[2001:db8::1]:8080")
            .credentials("ada", "open /sesame")
            .mode(Mode::Minute)
            .ahead(true)
            .exact_time(true)
            .resume_after(Epoch::from_ms(-5))
            .reconnect(false)
            .moves(false)
            .client_id("rack 7");
        assert_eq!(format!("{options:?}"), format!("{expected:?}"));
        let Credentials::Password { password, .. } = options.credentials else {
            panic!("a password was given");
        };
        assert_eq!(password.text(), Some("open /sesame"));
    }

    #[test]
    fn what_a_url_leaves_out_is_as_in_new() {
        let options = Options::from_url("tickstorm://edge-0").unwrap();
        let expected = Options::new("edge-0:8080");
        assert_eq!(format!("{options:?}"), format!("{expected:?}"));
    }

    #[test]
    fn secrets_may_come_from_files() {
        let options = Options::from_url("tickstorm://ada@edge?password_file=/run/pass").unwrap();
        let expected = Options::new("edge:8080").password_file("ada", "/run/pass");
        assert_eq!(format!("{options:?}"), format!("{expected:?}"));
        let options = Options::from_url("tickstorm://edge?token_file=/run/token").unwrap();
        let expected = Options::new("edge:8080").token_file("/run/token");
        assert_eq!(format!("{options:?}"), format!("{expected:?}"));
        let options = Options::from_url("tickstorm://edge?token=a%26b").unwrap();
        assert!(matches!(options.credentials, Credentials::Token(token)
            if token.text() == Some("a&b")));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_has_a_scheme_of_its_own() {
        let url = "tickstorms://edge:8443?ca_file=ca.pem&server_name=edge.example&\
                   cert_file=me.pem&key_file=me.key";
        let options = Options::from_url(url).unwrap();
        let tls = TlsOptions::new()
            .ca_file("ca.pem")
            .server_name("edge.example")
            .client_certificate("me.pem", "me.key");
        assert_eq!(format!("{:?}", options.tls), format!("{:?}", Some(tls)));
        let plain = Options::from_url("tickstorm://edge").unwrap();
        assert!(plain.tls.is_none());
        assert_eq!(
            shown("tickstorms://edge?cert_file=me.pem"),
            "the URL is not valid: cert_file and key_file must be given together"
        );
        assert_eq!(
            shown("tickstorm://edge?ca_file=ca.pem"),
            "the URL is not valid: ca_file, server_name, cert_file and key_file need tickstorms://"
        );
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_tls_its_scheme_is_refused() {
        assert_eq!(
            Options::from_url("tickstorms://edge").unwrap_err(),
            OptionsError::WithoutTls
        );
    }

    #[test]
    fn every_mistake_is_named() {
        for (url, expected) in [
            ("edge:8080", "must begin with tickstorm://"),
            ("http://edge", "must begin with tickstorm://"),
            ("tickstorm://", "address number 1"),
            ("tickstorm://a,,b", "address number 2"),
            ("tickstorm://a,b:0", "address number 2"),
            ("tickstorm://a:65536", "address number 1"),
            ("tickstorm://a:+80", "address number 1"),
            ("tickstorm://a:", "address number 1"),
            ("tickstorm://::1", "address number 1"),
            ("tickstorm://[::1", "address number 1"),
            ("tickstorm://[edge]:80", "address number 1"),
            ("tickstorm://a b", "address number 1"),
            ("tickstorm://edge/ticks", "only parameters"),
            ("tickstorm://edge#second", "only parameters"),
            ("tickstorm://edge?mode=second#x", "only parameters"),
            ("tickstorm://%zz@edge", "the user name of the URL has a %"),
            ("tickstorm://a:%ff@edge", "the password of the URL has a %"),
            (
                "tickstorm://edge?client_id=%",
                "client_id of the URL has a %",
            ),
            (
                "tickstorm://edge?Mode=second",
                "\"Mode\" does not exist: expected mode, ahead",
            ),
            (
                "tickstorm://edge?mode=SECOND",
                "is \"SECOND\": expected second or minute",
            ),
            (
                "tickstorm://edge?ahead=yes",
                "is \"yes\": expected 1, true, 0 or false",
            ),
            ("tickstorm://edge?ahead", "ahead is \"\": expected a value"),
            (
                "tickstorm://edge?resume_after=now",
                "is \"now\": expected a Unix time",
            ),
            (
                "tickstorm://edge?ahead=1&ahead=1",
                "each parameter may be given once",
            ),
            (
                "tickstorm://edge?password_file=x",
                "password_file needs a user name",
            ),
            (
                "tickstorm://a:b@edge?password_file=x",
                "together with a password",
            ),
            (
                "tickstorm://a@edge?token=x",
                "a token is used without a user name",
            ),
            ("tickstorm://edge?token=x&token_file=y", "only one of"),
            ("tickstorm://@edge", "must not be empty"),
            ("tickstorm://:pw@edge", "must not be empty"),
            ("tickstorm://ada:@edge", "must not be empty"),
        ] {
            let error = shown(url);
            assert!(error.contains(expected), "{url}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        for url in [
            "tickstorm://ada:se/same@edge",
            "tickstorm://ada:se?same@edge",
            "tickstorm://ada:se#same@edge",
            "tickstorm://ada:1?same@edge",
            "tickstorm://ada:1?same=1@edge",
            "tickstorm://ada:1?mode=same@edge",
            "tickstorm://ada:1?x&same@edge",
            "tickstorm://ada:se%same@edge",
            "tickstorm://ada:se,same",
            "http://ada:sesame@edge",
            "tickstorm://ada:sesame@",
            "tickstorm://edge?token=se&same",
            "tickstorm://edge?token=se&same=1",
        ] {
            let Err(error) = Options::from_url(url) else {
                panic!("{url} is not valid");
            };
            let error = format!("{error} {error:?}");
            assert!(!error.contains("se,") && !error.contains("same"), "{error}");
        }
    }
}
