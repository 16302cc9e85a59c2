//! The types of the settings of traces: [`Endpoint`], [`Pairs`], [`HeaderPairs`] and [`Ratio`].

use std::{fmt, net::IpAddr};

use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use crate::env::Value;

/// The most pairs in a list. Lists are written by hand; the bound limits the damage of a mistake.
const PAIRS_MAX: usize = 64;

/// The URL of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Returns the endpoint at a path below this one.
    pub(super) fn below(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        url.set_path(&format!("{}/{path}", self.0.path().trim_end_matches('/')));
        Self(url)
    }

    /// Returns whether the collector has TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns the host, without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        let host = self.0.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or_default()
    }

    /// Returns the path that requests are for.
    pub(super) fn path(&self) -> &str {
        self.0.path()
    }

    /// Returns the value of the header `Host`.
    pub(super) fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    pub(super) fn is_plain_text_beyond_loopback(&self) -> bool {
        let ip: Option<IpAddr> = self.host().parse().ok();
        let is_loopback = self.host() == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        !self.has_tls() && !is_loopback
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Endpoint {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.host_str().is_some_and(|host| !host.is_empty())
                && url.port() != Some(0)
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        url.map(Self)
    }

    fn allowed((): &()) -> String {
        "an http:// or https:// URL such as http://127.0.0.1:4318, without a user, a query or a \
         fragment"
            .into()
    }
}

/// A list of pairs of a name and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs(pub(super) Vec<(String, String)>);

impl Value for Pairs {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        let pairs = read_pairs(text)?;
        let pairs = pairs.map(|pair| pair.map(|(name, value)| (name, value.to_string())));
        let pairs: Vec<_> = pairs.collect::<Option<_>>()?;
        has_different_names(&pairs).then_some(Self(pairs))
    }

    fn allowed((): &()) -> String {
        format!(
            "at most {PAIRS_MAX} pairs such as deployment.environment=test, separated by commas, \
             each name once; other characters of a value than letters, digits and -._~ may be \
             written as %2C"
        )
    }
}

/// The headers of requests. Their values are secret.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderPairs(Vec<(HeaderName, Zeroizing<String>)>);

impl HeaderPairs {
    /// Returns the headers for a request.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
        self.0.iter().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        })
    }
}

impl fmt::Debug for HeaderPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Value for HeaderPairs {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        let headers = read_pairs(text)?.map(|pair| {
            let (name, value) = pair?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            (value.is_ascii() && !is_ours(&name)).then_some((name, value))
        });
        let headers: Vec<_> = headers.collect::<Option<_>>()?;
        has_different_names(&headers).then_some(Self(headers))
    }

    fn allowed((): &()) -> String {
        format!(
            "at most {PAIRS_MAX} pairs of an HTTP header's name and its value, such as \
             api-key=secret, separated by commas, each name once; a comma in a value is written as \
             %2C"
        )
    }
}

/// Returns whether the program itself decides about a header of its requests.
fn is_ours(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "content-length" | "content-type" | "host" | "transfer-encoding"
    )
}

/// Reads pairs in the form of W3C's Baggage: separated by commas, with spaces around them, and
/// values in which any byte may be written as `%` and two digits. Returns `None` for a pair that is
/// not one.
fn read_pairs(
    text: &str,
) -> Option<impl Iterator<Item = Option<(String, Zeroizing<String>)>> + '_> {
    let pairs = text.split(',');
    let read = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let value = percent_decode_str(value).decode_utf8().ok()?;
        let is_valid = !name.is_empty()
            && !name.chars().any(char::is_control)
            && !value.chars().any(char::is_control);
        is_valid.then(|| (name.to_owned(), Zeroizing::new(value.into_owned())))
    };
    (pairs.clone().count() <= PAIRS_MAX).then(|| pairs.map(read))
}

fn has_different_names<N: PartialEq, V>(pairs: &[(N, V)]) -> bool {
    let is_first = |(index, (name, _)): (usize, &(N, V))| {
        pairs[..index].iter().all(|(other, _)| other != name)
    };
    pairs.iter().enumerate().all(is_first)
}

/// A share, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(pub(super) f64);

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Ratio {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let ratio: f64 = text.parse().ok().filter(|_| is_plain)?;
        (0.0..=1.0).contains(&ratio).then_some(Self(ratio))
    }

    fn allowed((): &()) -> String {
        "a number from 0 to 1, such as 0.01".into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(text: &str) -> Option<Endpoint> {
        Endpoint::parse(text, &())
    }

    #[test]
    fn an_endpoint_is_a_url_of_http() {
        for (text, authority, path) in [
            ("http://127.0.0.1:4318", "127.0.0.1:4318", "/v1/traces"),
            ("https://otel.example", "otel.example", "/v1/traces"),
            ("http://[::1]:4318/", "[::1]:4318", "/v1/traces"),
            (
                "https://otel.example/a/b/",
                "otel.example",
                "/a/b/v1/traces",
            ),
        ] {
            let traces = endpoint(text).unwrap().below("v1/traces");
            assert_eq!((&*traces.authority(), traces.path()), (authority, path));
        }
        for text in [
            "",
            "127.0.0.1:4318",
            "grpc://127.0.0.1:4317",
            "http://",
            "http://:4318",
            "http://127.0.0.1:0",
            "http://user@127.0.0.1:4318",
            "http://user:secret@127.0.0.1:4318",
            "http://127.0.0.1:4318/?a=b",
            "http://127.0.0.1:4318/#a",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
        assert_eq!(endpoint("https://otel.example").unwrap().port(), 443);
        assert_eq!(endpoint("http://[::1]:4318").unwrap().host(), "::1");
    }

    #[test]
    fn only_plain_text_to_other_machines_is_warned_of() {
        for (text, expected) in [
            ("http://127.0.0.1:4318", false),
            ("http://[::1]:4318", false),
            ("http://localhost:4318", false),
            ("https://otel.example", false),
            ("http://otel.example", true),
            ("http://192.0.2.7:4318", true),
        ] {
            let endpoint = endpoint(text).unwrap();
            assert_eq!(endpoint.is_plain_text_beyond_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn pairs_are_written_as_in_a_baggage() {
        let pairs = Pairs::parse("a=b, c.d = e%2Cf%3D ,g=", &()).unwrap();
        let expected = [("a", "b"), ("c.d", "e,f="), ("g", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(pairs.0, expected);
        let many = vec!["a=b"; PAIRS_MAX + 1].join(",");
        for text in ["", "a", "a=b,", "=b", "a=b,a=c", "a=%FF", "a=%0A", &many] {
            assert_eq!(Pairs::parse(text, &()), None, "{text}");
        }
    }

    #[test]
    fn headers_are_names_and_values_of_http_and_are_never_shown() {
        let headers = HeaderPairs::parse("Api-Key=open%20sesame,x=1", &()).unwrap();
        let [(name, value), _] = &headers.0[..] else {
            panic!("{headers:?}");
        };
        assert_eq!((name.as_str(), value.as_str()), ("api-key", "open sesame"));
        assert_eq!(format!("{headers:?}"), r#"["api-key", "x"]"#);
        for text in [
            "a b=c",
            "ä=b",
            "a=b,A=c",
            "Host=elsewhere",
            "content-length=1",
        ] {
            assert_eq!(HeaderPairs::parse(text, &()), None, "{text}");
        }
    }

    #[test]
    fn a_ratio_is_from_0_to_1() {
        for (text, expected) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), (".5", 0.5)] {
            assert_eq!(Ratio::parse(text, &()), Some(Ratio(expected)), "{text}");
        }
        for text in ["", "-0", "1.1", "NaN", "inf", "1e-3", "+1", "10%", " 1"] {
            assert_eq!(Ratio::parse(text, &()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC{0,40}|(a=%?[0-9A-Fa-f]{0,3},?){0,9}") {
            let _ = (Endpoint::parse(&text, &()), Ratio::parse(&text, &()));
            let _ = (Pairs::parse(&text, &()), HeaderPairs::parse(&text, &()));
        }
    }
}
