//! The guard of the routes that show clients or change anything. With a token, it asks for the
//! token and nothing else. Without one, it lets in only programs on this machine, and not those
//! that act for a web page: a page can send requests to loopback, either openly, with an `Origin`
//! or a `Sec-Fetch-Site`, or under its own host name once it has pointed that at loopback (DNS
//! rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use prometheus::{IntCounterVec, Registry};
use tokio::sync::watch;

use super::{connection::Client, token::TokenDigest};
use crate::{
    excerpt::Excerpt,
    metrics::{self, RegisterError},
};

/// The header in which a browser says from which site a request comes.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// The reasons for which requests are refused, as the metric's labels.
const REASONS: [&str; 4] = ["token", "peer", "host", "origin"];

/// The guard, as the settings ask for it.
#[derive(Clone, Default)]
pub(super) struct Guard {
    /// The digest of the token; `None` without ADMIN_TOKEN_FILE.
    pub(super) token: Option<watch::Receiver<TokenDigest>>,
    pub(super) refused: Option<RefusedMetric>,
}

/// Counts refused requests.
#[derive(Clone)]
pub(super) struct RefusedMetric(IntCounterVec);

impl RefusedMetric {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let refused = metrics::counters(
            registry,
            "tickstorm_admin_requests_refused_total",
            "Requests to guarded paths of the admin port that were refused, by reason: token, \
             peer, host or origin.",
            &["reason"],
        )?;
        for reason in REASONS {
            refused.with_label_values(&[reason]);
        }
        Ok(Self(refused))
    }
}

impl Guard {
    /// Puts `routes`, at least one, behind the guard.
    pub(super) fn protect(self, routes: Router) -> Router {
        routes.route_layer(from_fn_with_state(self, pass_or_refuse))
    }

    fn check(&self, peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        match &self.token {
            Some(digest) => check_token(headers, *digest.borrow()),
            None => check_local(peer, uri, headers),
        }
    }
}

async fn pass_or_refuse(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    // Without a known peer, nobody gets in.
    let peer = request.extensions().get::<Client>().map(Client::peer);
    let peer = peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    match guard.check(peer, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            if let Some(RefusedMetric(refused)) = &guard.refused {
                refused.with_label_values(&[refusal.reason()]).inc();
            }
            refusal.into_response()
        }
    }
}

/// The reason that a request is refused: what is wrong with it, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error(
        "this path needs the token in ADMIN_TOKEN_FILE, in one header `Authorization: Bearer TOKEN`"
    )]
    NoToken,
    #[error("the token is not the one in ADMIN_TOKEN_FILE")]
    WrongToken,
    #[error(
        "{0} is another machine: this path is only available from the same machine (127.0.0.0/8 \
         or ::1), or with a token if ADMIN_TOKEN_FILE is set"
    )]
    Peer(IpAddr),
    #[error(
        "the request has {given}: without ADMIN_TOKEN_FILE, this path needs exactly one Host, \
         which must be localhost, 127.0.0.0/8 or [::1], with or without a port",
        given = Excerpt(.0)
    )]
    Host(String),
    #[error(
        "the request has an Origin or Sec-Fetch-Site of a web page: without ADMIN_TOKEN_FILE, this \
         path is only available to requests that no page has sent"
    )]
    Origin,
}

impl Refusal {
    const fn reason(&self) -> &'static str {
        match self {
            Self::NoToken | Self::WrongToken => "token",
            Self::Peer(_) => "peer",
            Self::Host(_) => "host",
            Self::Origin => "origin",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = self.to_string();
        let challenge = match self {
            Self::NoToken => "Bearer",
            Self::WrongToken => "Bearer error=\"invalid_token\"",
            Self::Peer(_) | Self::Host(_) | Self::Origin => {
                return (StatusCode::FORBIDDEN, text).into_response();
            }
        };
        let challenge = [(WWW_AUTHENTICATE, challenge)];
        (StatusCode::UNAUTHORIZED, challenge, text).into_response()
    }
}

fn check_token(headers: &HeaderMap, expected: TokenDigest) -> Result<(), Refusal> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (given.next(), given.next()) else {
        return Err(Refusal::NoToken);
    };
    let token = bearer_token(header.as_bytes()).ok_or(Refusal::NoToken)?;
    if TokenDigest::of(token) == expected {
        Ok(())
    } else {
        Err(Refusal::WrongToken)
    }
}

/// Returns the token of `Bearer TOKEN`.
fn bearer_token(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

fn check_local(peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let peer = peer.to_canonical();
    if !peer.is_loopback() {
        return Err(Refusal::Peer(peer));
    }
    check_host(uri, headers)?;
    // With a plain GET, browsers send no Origin, but they say from which site it comes.
    let is_from_site = |site: &HeaderValue| !["none", "same-origin"].iter().any(|own| site == own);
    if headers.contains_key(ORIGIN) || headers.get_all(SEC_FETCH_SITE).iter().any(is_from_site) {
        return Err(Refusal::Origin);
    }
    Ok(())
}

/// Checks the host for which the request is meant, in its header and, if the target is a whole URL,
/// also there.
fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (Some(_), Some(_)) => return Err(Refusal::Host("several Hosts".into())),
        (None, _) => return Err(Refusal::Host("no Host".into())),
    };
    let target = uri.authority().map(|authority| authority.as_str());
    let given = target.into_iter().map(str::as_bytes);
    match given
        .chain([host.as_bytes()])
        .find(|host| !is_loopback(host))
    {
        None => Ok(()),
        Some(other) => {
            let shown = HeaderValue::from_bytes(other);
            let shown = shown.map_or_else(|_| "?".into(), |shown| format!("{shown:?}"));
            Err(Refusal::Host(format!("the Host {shown}")))
        }
    }
}

/// Returns whether a host, with or without a port, always means this machine.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else {
        return false;
    };
    if let Some(rest) = host.strip_prefix('[') {
        let Some((ip, port)) = rest.split_once(']') else {
            return false;
        };
        let ip: Result<Ipv6Addr, _> = ip.parse();
        return is_port(port) && ip.is_ok_and(|ip| ip.to_canonical().is_loopback());
    }
    let name_end = host.find(':').unwrap_or(host.len());
    let (name, port) = host.split_at(name_end);
    let name = name.strip_suffix('.').unwrap_or(name);
    let ip: Result<Ipv4Addr, _> = name.parse();
    is_port(port) && (name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback()))
}

/// Returns whether `text` is empty, or a colon and a port, which may be missing.
fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').unwrap_or_default();
    text.is_empty()
        || (text.starts_with(':')
            && digits.len() <= 5
            && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
