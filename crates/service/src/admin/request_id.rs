//! [`RequestId`]: the name of one request to the admin port. It is in the answer, and in each log
//! line that the request causes, so that an operator finds one by the other.

use std::{convert::Infallible, fmt};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
};

/// The header of requests and answers.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that a client may choose, in characters.
const LEN_MAX: usize = 64;

/// The id of a request: the one that its client has sent in `X-Request-Id`, or a random one. It has
/// 1 to 64 visible ASCII characters, so it can neither break a log line nor pretend to be another
/// field of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Returns an id for a request that has none.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()).into())
    }

    /// Returns the id of a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(HEADER).iter();
        match (given.next(), given.next()) {
            (Some(only), None) => Self::parse(only).unwrap_or_else(Self::random),
            (_, _) => Self::random(),
        }
    }

    /// Adds the id to the headers of an answer.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(HEADER, value);
        }
    }

    fn parse(given: &HeaderValue) -> Option<Self> {
        let text = str::from_utf8(given.as_bytes()).ok()?;
        let is_sane =
            (1..=LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_sane.then(|| Self(text.into()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get::<Self>().cloned();
        Ok(known.unwrap_or_else(Self::random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_client_may_choose_the_id() {
        for id in ["a", "0af7651916cd43dd", "a\"b\\c{}=,;", &"x".repeat(64)] {
            assert_eq!(RequestId::of(&headers(&[id.as_bytes()])).to_string(), id);
        }
    }

    #[test]
    fn an_id_that_does_not_suit_a_log_is_replaced_by_a_random_one() {
        let long = "x".repeat(65);
        for given in [
            &[][..],
            &[&b""[..]],
            &[b"two words"],
            &[b"a\tb"],
            &[b"t\xC3\xA9l\xC3\xA9"],
            &[b"\xFF\xFE"],
            &[long.as_bytes()],
            &[b"a", b"b"],
        ] {
            let ids = [(); 2].map(|()| RequestId::of(&headers(given)).to_string());
            assert_ne!(ids[0], ids[1], "{given:?}");
            for id in ids {
                assert_eq!(id.len(), 16, "{given:?}");
                assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            }
        }
    }
}
