//! The files for the connection to the collector: the headers of requests, and the certificate
//! authorities. They are watched like all others.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use prometheus::Registry;
use rustls::RootCertStore;
use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::{
    settings::{OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS, authorities},
    values::HeaderPairs,
};
use crate::{
    env::{FileError, Setting, Settings, Value, read_secret_file},
    file_watch::{FileSet, FileWatch, FilesInUse, ReloadCounters, WatchedFile},
    metrics::RegisterError,
    tls_file::{TlsFile, TlsFileError},
};

/// What requests present to the collector, and by which certificates it is known.
#[derive(Clone, Debug)]
pub(super) struct Secrets {
    pub(super) headers: Option<HeaderPairs>,
    /// The certificate authorities; those of the system if absent.
    pub(super) authorities: Option<Arc<RootCertStore>>,
}

/// The reason that the files can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceFilesError {
    /// The file with the headers can't be read.
    #[error("{setting}={}", path.display())]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The problem.
        source: FileError,
    },
    /// Its text is not a list of headers.
    #[error(
        "{setting}={}: the text in the file is invalid: expected {}",
        path.display(),
        HeaderPairs::allowed(&())
    )]
    Headers {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The certificate authorities can't be used.
    #[error(transparent)]
    Authorities(#[from] TlsFileError),
}

/// Where headers come from.
#[derive(Debug)]
enum Headers {
    Fixed(Option<HeaderPairs>),
    File {
        setting: &'static str,
        path: PathBuf,
    },
}

impl Headers {
    fn new(
        settings: &Settings,
        setting: &Setting<Option<HeaderPairs>>,
        of_file: &'static str,
    ) -> Self {
        match settings.file_of(setting) {
            Some(path) => Self::File {
                setting: of_file,
                path: path.to_owned(),
            },
            None => Self::Fixed(settings.get(setting)),
        }
    }

    fn watched(&self) -> Option<WatchedFile> {
        let loss = "requests to the collector do without them";
        match self {
            Self::Fixed(_) => None,
            Self::File { setting, path } => Some(WatchedFile::value(setting, path, loss)),
        }
    }

    fn load(&self) -> Result<Option<HeaderPairs>, TraceFilesError> {
        let (setting, path) = match self {
            Self::Fixed(headers) => return Ok(headers.clone()),
            Self::File { setting, path } => (*setting, path),
        };
        let text = read_secret_file(path).map_err(|source| TraceFilesError::File {
            setting,
            path: path.clone(),
            source,
        })?;
        let Some(text) = text else {
            return Ok(None);
        };
        let headers = HeaderPairs::parse(text.expose_secret(), &());
        let invalid = || TraceFilesError::Headers {
            setting,
            path: path.clone(),
        };
        headers.map(Some).ok_or_else(invalid)
    }
}

/// The sources of [`Secrets`].
#[derive(Debug)]
struct Sources {
    /// Those for traces, which take precedence, and the general ones.
    headers: [Headers; 2],
    /// The file with the authorities, and its setting.
    authorities: Option<(&'static str, PathBuf)>,
}

impl FileSet for Sources {
    const NAME: &'static str = "the files of traces";
    const EFFECT: &'static str = "the next request to the collector uses them";
    type Loaded = Secrets;
    type Error = TraceFilesError;

    fn files(&self) -> Vec<WatchedFile> {
        let headers = self.headers.iter().filter_map(Headers::watched);
        let authorities = self.authorities.as_ref().map(|(setting, path)| {
            let loss = "collectors with certificates of those authorities are not trusted";
            WatchedFile::certificates(setting, path, loss)
        });
        headers.chain(authorities).collect()
    }

    fn load(&self) -> Result<Secrets, TraceFilesError> {
        let [of_traces, general] = &self.headers;
        let (of_traces, general) = (of_traces.load()?, general.load()?);
        let authorities = match &self.authorities {
            Some((setting, path)) => Some(Arc::new(read_authorities(setting, path)?)),
            None => None,
        };
        Ok(Secrets {
            headers: of_traces.or(general),
            authorities,
        })
    }
}

fn read_authorities(setting: &'static str, path: &Path) -> Result<RootCertStore, TlsFileError> {
    let file = TlsFile::new(setting, path);
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(file.certificates(&file.read()?)?);
    Ok(authorities)
}

/// The files in use.
#[derive(Debug)]
pub(crate) struct TraceFiles {
    files: FilesInUse<Sources>,
    secrets: watch::Sender<Secrets>,
}

impl TraceFiles {
    pub(super) fn load(settings: &Settings) -> Result<Self, TraceFilesError> {
        let sources = Sources {
            headers: [
                Headers::new(
                    settings,
                    &OTEL_EXPORTER_OTLP_TRACES_HEADERS,
                    "OTEL_EXPORTER_OTLP_TRACES_HEADERS_FILE",
                ),
                Headers::new(
                    settings,
                    &OTEL_EXPORTER_OTLP_HEADERS,
                    "OTEL_EXPORTER_OTLP_HEADERS_FILE",
                ),
            ],
            authorities: authorities(settings),
        };
        let (files, secrets) = FilesInUse::load(sources)?;
        let secrets = watch::Sender::new(secrets);
        Ok(Self { files, secrets })
    }

    /// Returns what was made of the files, which changes with them.
    pub(super) fn secrets(&self) -> watch::Receiver<Secrets> {
        self.secrets.subscribe()
    }

    /// Returns access to the files.
    pub(crate) fn access(&self) -> FileWatch {
        self.files.access()
    }

    /// Registers the counters for [`Self::run`].
    ///
    /// # Errors
    /// Returns an error if a name is taken.
    pub(crate) fn counters(registry: &Registry) -> Result<ReloadCounters, RegisterError> {
        ReloadCounters::register(
            registry,
            "tickstorm_trace_file_reloads_total",
            "Changes of the files for traces, by result: loaded, or failed, after which what was \
             read before stays in use.",
        )
    }

    /// Watches the files and publishes what has changed.
    pub(crate) async fn run(self, counters: ReloadCounters) {
        let Self { files, secrets } = self;
        let publish = |changed| {
            if let Some(new) = changed {
                secrets.send_replace(new);
            }
        };
        files.watch(counters, publish, |_| ()).await;
    }
}
