//! A daemon's connection to NATS: its settings, and the options that they become for the bus. They
//! are here because clock and edge have the same settings, and the bus does not read the
//! environment.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::Registry;
use secrecy::SecretString;
use tickstorm_bus::{Credential, NatsError, NatsOptions, NatsSecrets};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::daemon::Failure;
use crate::env::{Findings, Setting, Settings, Text, Value, read_credential_file};
use crate::exit;
use crate::file_watch::{FileSet, FileWatch, FilesInUse, ReloadCounters, WatchedFile};
use crate::tls_expiry::{ExpiringFile, ExpiryLog, FileContent, FileSummary, register_expiry};
use crate::tls_file::{TlsFile, TlsFileError};
use crate::traces;

/// Subjects are made of tokens separated by dots; `*` and `>` are wildcards.
const SUBJECT: Text = Text::new(
    "1 to 64 characters (A-Z a-z 0-9 . _ -), with no dot at either end and no two adjacent dots",
    |text| {
        Text::ID.allows(text)
            && !text.starts_with('.')
            && !text.ends_with('.')
            && !text.contains("..")
    },
);

const URLS: Text = Text::new(
    "nats:// or tls:// URLs of a host and an optional port, such as nats://127.0.0.1:4222, \
     separated by commas",
    |text| text.split(',').all(|url| is_server(url.trim())),
);

/// Returns whether `url` can be the URL of a NATS server.
fn is_server(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        matches!(url.scheme(), "nats" | "tls")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.port() != Some(0)
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

const NO_LOGIN: &str = "A NATS server without authentication needs none";
const NO_CERTIFICATE: &str = "Most NATS servers do not ask for a client certificate";

crate::settings! {
    /// Settings of the connection to NATS.
    NATS, checked by check;
    /// The URLs of the NATS servers, separated by commas.
    NATS_URL: String = Setting::new(
        URLS,
        "nats://127.0.0.1:4222",
        "A NATS server on this host, on its default port",
    )
    .url();
    /// The user name for NATS. The next connection uses a file that has changed.
    NATS_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, NO_LOGIN).or_file();
    /// The password for NATS. The next connection uses a file that has changed.
    NATS_PASSWORD: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, NO_LOGIN).secret().or_file();
    /// The token for NATS. The next connection uses a file that has changed.
    NATS_TOKEN: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, NO_LOGIN).secret().or_file();
    /// The credentials file with the JWT and key of a NATS user.
    NATS_CREDS_FILE: Option<PathBuf> = Setting::unset((), NO_LOGIN);
    /// The file with the certificate authorities that sign the certificates of NATS servers.
    NATS_CA_FILE: Option<PathBuf> = Setting::unset(
        (),
        "The system's certificate authorities apply if it is not set",
    );
    /// The file with the client certificate that is presented to NATS servers.
    NATS_CERT_FILE: Option<PathBuf> = Setting::unset((), NO_CERTIFICATE);
    /// The file with the private key for NATS_CERT_FILE.
    NATS_KEY_FILE: Option<PathBuf> = Setting::unset((), NO_CERTIFICATE);
    /// The prefix of all NATS subjects.
    NATS_SUBJECT_PREFIX: String = Setting::new(
        SUBJECT,
        "tickstorm",
        "One TickStorm system per NATS account",
    );
}

/// An incomplete login or certificate, or more than one login.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("NATS_USER and NATS_PASSWORD go together: set both or neither")]
    HalfUser,
    /// NATS accepts one login only, and choosing one of several would be a guess.
    #[error("NATS_USER, NATS_TOKEN and NATS_CREDS_FILE are alternatives: set only one of them")]
    Several,
    #[error("NATS_CERT_FILE and NATS_KEY_FILE go together: set both or neither")]
    HalfCertificate,
}

fn check(settings: &Settings, findings: &mut Findings) {
    let errors = [login_error(settings), certificate_error(settings)];
    for error in errors.into_iter().flatten() {
        findings.refuse(error);
    }
    if let Some(warning) = plain_text_warning(settings) {
        findings.warn(warning);
    }
    for file in [
        &NATS_CREDS_FILE,
        &NATS_CA_FILE,
        &NATS_CERT_FILE,
        &NATS_KEY_FILE,
    ] {
        findings.refuse_unreadable(settings, file);
    }
}

fn login_error(settings: &Settings) -> Option<LoginError> {
    let user = settings.look_up(&NATS_USER)?;
    let password = settings.look_up(&NATS_PASSWORD)?;
    let token = settings.look_up(&NATS_TOKEN)?;
    let file = settings.look_up(&NATS_CREDS_FILE)?;
    if user.is_some() != password.is_some() {
        return Some(LoginError::HalfUser);
    }
    let logins = [user.is_some(), token.is_some(), file.is_some()];
    (logins.into_iter().filter(|set| *set).count() > 1).then_some(LoginError::Several)
}

fn certificate_error(settings: &Settings) -> Option<LoginError> {
    let certificate = settings.look_up(&NATS_CERT_FILE)?;
    let key = settings.look_up(&NATS_KEY_FILE)?;
    (certificate.is_some() != key.is_some()).then_some(LoginError::HalfCertificate)
}

/// Returns a warning if the connection to a server on another machine may have no TLS. With either
/// NATS_CA_FILE or NATS_CERT_FILE, every connection uses TLS.
fn plain_text_warning(settings: &Settings) -> Option<String> {
    if settings.look_up(&NATS_CA_FILE)?.is_some() || settings.look_up(&NATS_CERT_FILE)?.is_some() {
        return None;
    }
    let plain: Vec<_> = urls_beyond_loopback(settings)?
        .iter()
        .filter(|url| url.scheme() == "nats")
        .filter_map(host)
        .collect();
    (!plain.is_empty()).then(|| {
        format!(
            "NATS_URL connects to {} without TLS, so others on the network can read and alter \
             what clocks and edges send: set NATS_CA_FILE, or use tls:// URLs",
            plain.join(", ")
        )
    })
}

/// Returns the hosts in NATS_URL that are not this one, or `None` if NATS_URL was not loaded or is
/// invalid.
#[must_use]
pub fn hosts_beyond_loopback(settings: &Settings) -> Option<Vec<String>> {
    let urls = urls_beyond_loopback(settings)?;
    Some(urls.iter().filter_map(host).collect())
}

fn urls_beyond_loopback(settings: &Settings) -> Option<Vec<Url>> {
    let urls = settings.look_up(&NATS_URL)?;
    let urls = urls
        .split(',')
        .filter_map(|url| Url::parse(url.trim()).ok());
    Some(urls.filter(|url| !is_loopback(url)).collect())
}

fn host(url: &Url) -> Option<String> {
    url.host_str().map(str::to_owned)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || ip.is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Returns the options for the bus. `name` identifies the connection on the NATS servers.
///
/// # Panics
/// Panics if [`NATS`] was not loaded.
#[must_use]
pub fn options(settings: &Settings, name: String) -> Arc<NatsOptions> {
    Arc::new(NatsOptions {
        urls: settings.get(&NATS_URL),
        user: credential(settings, &NATS_USER, SecretString::from),
        password: credential(settings, &NATS_PASSWORD, |password| password),
        token: credential(settings, &NATS_TOKEN, |token| token),
        credentials_file: settings.get(&NATS_CREDS_FILE),
        ca_file: settings.get(&NATS_CA_FILE),
        certificate_file: settings.get(&NATS_CERT_FILE),
        key_file: settings.get(&NATS_KEY_FILE),
        subject_prefix: settings.get(&NATS_SUBJECT_PREFIX),
        name,
        headers: traces::settings::are_sent(settings),
    })
}

/// Returns a part of the login.
fn credential<T>(
    settings: &Settings,
    setting: &Setting<Option<T>>,
    secret: fn(T) -> SecretString,
) -> Credential
where
    Option<T>: Value,
{
    match settings.file_of(setting) {
        Some(file) => {
            Credential::from_file(file.to_owned(), |file| Ok(read_credential_file(file)?))
        }
        None => settings
            .get(setting)
            .map_or_else(Credential::default, |value| secret(value).into()),
    }
}

/// The files of the connection to NATS.
pub struct NatsFiles {
    files: FilesInUse<WatchedFiles>,
    summaries: watch::Sender<Vec<FileSummary>>,
    counters: ReloadCounters,
}

/// The reason that the files can't be used.
#[derive(Debug, thiserror::Error)]
enum NatsFilesError {
    #[error(transparent)]
    Options(#[from] NatsError),
    #[error(transparent)]
    Certificates(#[from] TlsFileError),
}

const AUTHORITIES: ExpiringFile = ExpiringFile {
    setting: NATS_CA_FILE.name(),
    content: FileContent::Authorities,
    // webpki takes an authority as given and checks only the certificates below it.
    before_expiry: "replace it, and the servers' certificates that it has signed",
    after_expiry: "servers with certificates that it has signed are still trusted; replace it, or \
        remove it from the file",
};

const CERTIFICATE: ExpiringFile = ExpiringFile {
    setting: NATS_CERT_FILE.name(),
    content: FileContent::Chain,
    before_expiry: "replace it before NATS servers refuse new connections",
    after_expiry: "NATS servers that ask for it refuse new connections until it is replaced",
};

impl NatsFiles {
    /// Reads the files that `settings` name, and registers the metrics. `options` are those of the
    /// connection.
    ///
    /// # Errors
    /// Returns an error if a file can't be used.
    pub fn load(
        settings: &Settings,
        options: &Arc<NatsOptions>,
        registry: &Registry,
    ) -> Result<Self, Failure> {
        let files = watched_files(settings);
        let options = Arc::clone(options);
        let (files, content) = FilesInUse::load(WatchedFiles { files, options })
            .map_err(|error| Failure::new(exit::CONFIG, error))?;
        let summaries = watch::Sender::new(content.summaries);
        register_expiry(registry, summaries.subscribe())
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let counters = ReloadCounters::register(
            registry,
            "tickstorm_nats_file_reloads_total",
            "Changes of the files for connections to NATS, by result: loaded, which the next \
             connection uses, or failed, after which what was read before stays in use.",
        )
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        Ok(Self {
            files,
            summaries,
            counters,
        })
    }

    /// Returns access to the files.
    #[must_use]
    pub fn access(&self) -> FileWatch {
        self.files.access()
    }

    /// Watches the files until `stop` is cancelled. `publish` is called with what changed files
    /// contain. Certificates that have expired or soon will are logged.
    pub async fn run(self, mut publish: impl FnMut(NatsSecrets), stop: CancellationToken) {
        let Self {
            files,
            summaries,
            counters,
        } = self;
        let expiry_log = ExpiryLog::default().run(summaries.subscribe());
        let publish = |changed| {
            if let Some(Content {
                secrets,
                summaries: changed,
            }) = changed
            {
                publish(secrets);
                summaries.send_replace(changed);
            }
        };
        // Boxed, because both together are a large future.
        let watch = Box::pin(async {
            tokio::join!(files.watch(counters, publish, |_| ()), expiry_log);
        });
        stop.run_until_cancelled(watch).await;
    }
}

struct WatchedFiles {
    files: Vec<WatchedFile>,
    options: Arc<NatsOptions>,
}

struct Content {
    secrets: NatsSecrets,
    summaries: Vec<FileSummary>,
}

impl FileSet for WatchedFiles {
    const NAME: &'static str = "the files of NATS";
    const EFFECT: &'static str = "the next connection to NATS uses them";
    type Loaded = Content;
    type Error = NatsFilesError;

    fn files(&self) -> Vec<WatchedFile> {
        self.files.clone()
    }

    fn load(&self) -> Result<Content, NatsFilesError> {
        let secrets = self.options.secrets()?;
        let NatsOptions {
            ca_file,
            certificate_file,
            ..
        } = &*self.options;
        let files = [(AUTHORITIES, ca_file), (CERTIFICATE, certificate_file)].into_iter();
        let files = files.filter_map(|(file, path)| Some((file, path.as_deref()?)));
        let summary = |(file, path): (ExpiringFile, &Path)| -> Result<_, NatsFilesError> {
            let source = TlsFile::new(file.setting, path);
            let certificates = source.certificates(&source.read()?)?;
            Ok(FileSummary::of_certificates(file, path, &certificates))
        };
        let summaries: Result<_, NatsFilesError> = files.map(summary).collect();
        Ok(Content {
            secrets,
            summaries: summaries?,
        })
    }
}

fn watched_files(settings: &Settings) -> Vec<WatchedFile> {
    const NO_LOGIN: &str = "the next connection to NATS does without it";
    const FEWER: &str = "the next connection to NATS does without them";
    let user = settings
        .file_of(&NATS_USER)
        .map(|file| ("NATS_USER_FILE", file));
    let password = settings
        .file_of(&NATS_PASSWORD)
        .map(|file| ("NATS_PASSWORD_FILE", file));
    let token = settings
        .file_of(&NATS_TOKEN)
        .map(|file| ("NATS_TOKEN_FILE", file));
    let logins = [user, password, token].into_iter().flatten();
    let mut files: Vec<_> = logins
        .map(|(setting, file)| WatchedFile::value(setting, file, NO_LOGIN))
        .collect();
    for setting in [&NATS_CREDS_FILE, &NATS_KEY_FILE] {
        let file = settings.get(setting);
        files.extend(file.map(|file| WatchedFile::value(setting.name(), &file, NO_LOGIN)));
    }
    for setting in [&NATS_CA_FILE, &NATS_CERT_FILE] {
        let file = settings.get(setting);
        files.extend(file.map(|file| WatchedFile::certificates(setting.name(), &file, FEWER)));
    }
    files
}
