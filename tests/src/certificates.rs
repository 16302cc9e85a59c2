//! Certificates for the manifests, issued as cert-manager would issue the ones that
//! `k8s/cert-manager.yaml` asks for: with its names and usages, into its Secrets. So a pod that
//! needs another Secret, or another name in a certificate, fails here as it would in a cluster.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::fs;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use tickstorm_testkit::{Certificate, CertificateAuthority, CertificateUsage};

use crate::manifests::repository;

/// The file with the requests for certificates, relative to the repository's root.
pub const REQUESTS: &str = "k8s/cert-manager.yaml";

/// The authorities that sign the certificates.
pub struct Authorities {
    /// Stands for the authority of an ACME issuer: any that clients trust.
    public: CertificateAuthority,
    /// The file's own authority, which only NATS servers, clocks and edges trust.
    own: CertificateAuthority,
}

/// A certificate that the file asks for.
#[derive(Debug)]
pub struct CertificateRequest {
    /// The name of the Secret to which the certificate is written.
    pub secret: String,
    /// The host names of the certificate.
    pub names: Vec<String>,
    issuer: String,
    subject: String,
    usages: Vec<CertificateUsage>,
}

impl Authorities {
    /// Creates new authorities.
    #[must_use]
    pub fn new() -> Self {
        Self {
            public: CertificateAuthority::new(),
            own: CertificateAuthority::new(),
        }
    }

    /// Replaces the authority that clients trust, so that they can tell a new certificate of an
    /// edge from an old one.
    #[must_use]
    pub fn with_new_public(self) -> Self {
        Self {
            public: CertificateAuthority::new(),
            ..self
        }
    }

    /// Returns the certificate of the authority that clients trust, in PEM.
    #[must_use]
    pub fn public_certificate(&self) -> &str {
        self.public.certificate()
    }

    /// Issues all certificates of the file, and returns the Secrets with them.
    ///
    /// # Panics
    /// Panics if the file asks for something that is not implemented here.
    #[must_use]
    pub fn issue(&self) -> Vec<Secret> {
        let requests = requests().into_iter();
        requests.map(|request| self.fulfil(request)).collect()
    }

    fn fulfil(&self, request: CertificateRequest) -> Secret {
        // The file's own issuer also writes its own certificate to the Secret. ACME issuers do not.
        let (authority, shows_itself) = match request.issuer.as_str() {
            "letsencrypt" => (&self.public, false),
            "nats-ca" => (&self.own, true),
            issuer => panic!("not implemented: the issuer {issuer}"),
        };
        let names: Vec<_> = request.names.iter().map(String::as_str).collect();
        let issued = authority.issue_for(&request.subject, &names, &request.usages);
        let own = shows_itself.then(|| authority.certificate());
        secret(request.secret, issued, own)
    }
}

impl Default for Authorities {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows no key.
impl Debug for Authorities {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authorities")
            .finish_non_exhaustive()
    }
}

/// Returns all certificates that the file asks for, except that of the authority.
///
/// # Panics
/// Panics if the file can't be read, or asks for something that is not implemented here.
#[must_use]
pub fn requests() -> Vec<CertificateRequest> {
    let path = repository().join(REQUESTS);
    let yaml =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&yaml)
        .unwrap_or_else(|error| panic!("could not parse {REQUESTS}: {error}"));
    let certificates = objects
        .iter()
        .filter(|object| object["kind"] == "Certificate");
    certificates
        .map(|object| &object["spec"])
        .filter(|spec| spec["isCA"] != true)
        .map(CertificateRequest::parse)
        .collect()
}

impl CertificateRequest {
    fn parse(spec: &Value) -> Self {
        let texts = |field: &str| -> Vec<String> {
            let values = spec[field].as_array().into_iter().flatten();
            values.map(|value| text(value).to_owned()).collect()
        };
        let usages = texts("usages");
        let usages = usages.iter().filter_map(|usage| match usage.as_str() {
            "server auth" => Some(CertificateUsage::Server),
            "client auth" => Some(CertificateUsage::Client),
            "digital signature" => None,
            usage => panic!("not implemented: the usage {usage}"),
        });
        let usages: Vec<_> = usages.collect();
        assert!(
            !usages.is_empty(),
            "it is not said whether a server or a client uses this certificate: {spec:#}"
        );
        Self {
            secret: text(&spec["secretName"]).to_owned(),
            names: texts("dnsNames"),
            issuer: text(&spec["issuerRef"]["name"]).to_owned(),
            subject: spec["commonName"].as_str().unwrap_or_default().to_owned(),
            usages,
        }
    }
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is not a text"))
}

fn secret(name: String, issued: Certificate, authority: Option<&str>) -> Secret {
    let entries = [
        ("tls.crt", Some(issued.certificate)),
        ("tls.key", Some(issued.key)),
        ("ca.crt", authority.map(str::to_owned)),
    ];
    let data: BTreeMap<_, _> = entries
        .into_iter()
        .filter_map(|(key, content)| Some((key.to_owned(), ByteString(content?.into_bytes()))))
        .collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}
