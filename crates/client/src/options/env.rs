//! Options from the environment: a URL, and credentials in variables of their own, which are those
//! of `tickstorm tail`.

use std::env;
use std::ffi::OsString;
use std::fs::File;

use secrecy::{ExposeSecret as _, SecretString};

use super::url::OptionsError;
use super::{Credentials, Options, Secret, read_secret};

const URL: &str = "TICKSTORM_URL";
const USER: &str = "STREAM_USER";
const PASSWORD: &str = "STREAM_PASS";
const TOKEN: &str = "STREAM_TOKEN";

impl Options {
    /// Creates options from the URL in the environment variable `TICKSTORM_URL`, which
    /// [`Options::from_url`] describes. Credentials that the URL does not contain come from these
    /// variables:
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `STREAM_USER`, `STREAM_PASS` | the user name and password |
    /// | `STREAM_TOKEN` | a token, used instead of them |
    /// | `STREAM_USER_FILE`, `STREAM_PASS_FILE`, `STREAM_TOKEN_FILE` | files that contain them |
    ///
    /// An empty variable counts as unset. A file with a password or token is read again before each
    /// login.
    ///
    /// # Errors
    /// A variable is missing or has a value that is not allowed.
    pub fn from_env() -> Result<Self, OptionsError> {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(value: impl Fn(&str) -> Option<OsString>) -> Result<Self, OptionsError> {
        let variables = Variables(value);
        let Some(url) = variables.text(URL)? else {
            return Err(problem(format!(
                "{URL} is not set: expected a URL such as tickstorm://ada@edge.example:8080"
            )));
        };
        let mut options = Self::from_url(&url)?;
        options.credentials = match options.credentials {
            Credentials::None => match variables.secret(TOKEN)? {
                Some(token) => Credentials::Token(token),
                None => {
                    let Some(user) = variables.user()? else {
                        return Err(problem(format!(
                            "{URL} has no user name, and neither {USER} nor {TOKEN} is set"
                        )));
                    };
                    variables.password(user)?
                }
            },
            Credentials::Password {
                user,
                password: Secret::Missing,
            } => variables.password(user)?,
            given @ (Credentials::Password { .. } | Credentials::Token(_)) => given,
        };
        Ok(options)
    }
}

/// The variables of an environment.
struct Variables<F>(F);

impl<F: Fn(&str) -> Option<OsString>> Variables<F> {
    /// Returns the text in the variable. An empty one counts as unset.
    fn text(&self, name: &str) -> Result<Option<String>, OptionsError> {
        match (self.0)(name).map(OsString::into_string) {
            Some(Ok(text)) if !text.is_empty() => Ok(Some(text)),
            Some(Err(_)) => Err(problem(format!("{name} is not valid UTF-8"))),
            Some(Ok(_)) | None => Ok(None),
        }
    }

    /// Returns the text in the variable, or the name of the file in its counterpart.
    fn secret(&self, name: &str) -> Result<Option<Secret>, OptionsError> {
        let file = (self.0)(&format!("{name}_FILE")).filter(|path| !path.is_empty());
        match (self.text(name)?, file) {
            (Some(_), Some(_)) => Err(problem(format!(
                "{name} and {name}_FILE are both set: set one of them"
            ))),
            (Some(text), None) => Ok(Some(Secret::Text(SecretString::from(text)))),
            (None, Some(path)) => Ok(Some(Secret::File(path.into()))),
            (None, None) => Ok(None),
        }
    }

    fn user(&self) -> Result<Option<String>, OptionsError> {
        Ok(match self.secret(USER)? {
            Some(Secret::File(path)) => {
                let read = File::open(&path).and_then(read_secret);
                let read = read.map_err(|error| {
                    let path = path.display();
                    problem(format!("{USER}_FILE: cannot read {path}: {error}"))
                })?;
                Some(read.expose_secret().to_owned())
            }
            Some(secret @ Secret::Text(_)) => secret.text().map(str::to_owned),
            Some(Secret::Missing) | None => None,
        })
    }

    fn password(&self, user: String) -> Result<Credentials, OptionsError> {
        let Some(password) = self.secret(PASSWORD)? else {
            return Err(problem(format!(
                "a user name is given without a password: set {PASSWORD} or {PASSWORD}_FILE"
            )));
        };
        Ok(Credentials::Password { user, password })
    }
}

fn problem(problem: String) -> OptionsError {
    OptionsError::Environment { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Options, OptionsError> {
        Options::from_variables(|name| {
            let found = variables.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| value.into())
        })
    }

    fn shown(options: &Options) -> String {
        let secret = match &options.credentials {
            Credentials::None => None,
            Credentials::Password { password, .. } => password.text(),
            Credentials::Token(token) => token.text(),
        };
        format!("{options:?} {secret:?}")
    }

    #[test]
    fn credentials_come_from_variables_of_their_own() {
        let url = (URL, "tickstorm://edge:8080?mode=minute");
        let mode = tickstorm_timebase::Mode::Minute;
        let base = Options::new("edge:8080").mode(mode);
        for (variables, expected) in [
            (
                &[url, (USER, "ada"), (PASSWORD, "sesame")][..],
                base.clone().credentials("ada", "sesame"),
            ),
            // An empty variable counts as unset.
            (
                &[
                    url,
                    (USER, "ada"),
                    (PASSWORD, "sesame"),
                    (TOKEN, ""),
                    ("STREAM_TOKEN_FILE", ""),
                ],
                base.clone().credentials("ada", "sesame"),
            ),
            (
                &[url, (USER, "ada"), ("STREAM_PASS_FILE", "/run/pass")],
                base.clone().password_file("ada", "/run/pass"),
            ),
            (
                &[url, (USER, "ada"), (PASSWORD, "sesame"), (TOKEN, "t")],
                base.clone().token("t"),
            ),
            (
                &[url, ("STREAM_TOKEN_FILE", "/run/token")],
                base.token_file("/run/token"),
            ),
            (
                &[
                    (URL, "tickstorm://bob@edge"),
                    (USER, "ada"),
                    (PASSWORD, "sesame"),
                ],
                Options::new("edge:8080").credentials("bob", "sesame"),
            ),
            (
                &[
                    (URL, "tickstorm://bob:own@edge"),
                    (PASSWORD, "sesame"),
                    (TOKEN, "t"),
                ],
                Options::new("edge:8080").credentials("bob", "own"),
            ),
        ] {
            assert_eq!(shown(&from(variables).unwrap()), shown(&expected));
        }
    }

    #[test]
    fn a_missing_or_contradictory_variable_is_named() {
        let url = (URL, "tickstorm://edge:8080");
        for (variables, expected) in [
            (&[][..], "TICKSTORM_URL is not set"),
            (&[(URL, "")], "TICKSTORM_URL is not set"),
            (&[(URL, "edge:8080")], "must begin with tickstorm://"),
            (&[url], "neither STREAM_USER nor STREAM_TOKEN is set"),
            (&[url, (USER, "ada")], "set STREAM_PASS or STREAM_PASS_FILE"),
            (
                &[url, (TOKEN, "t"), ("STREAM_TOKEN_FILE", "/run/token")],
                "STREAM_TOKEN and STREAM_TOKEN_FILE are both set",
            ),
            (
                &[url, ("STREAM_USER_FILE", "/does/not/exist")],
                "STREAM_USER_FILE: cannot read /does/not/exist",
            ),
        ] {
            let error = from(variables).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
