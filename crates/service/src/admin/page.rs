//! The page at `/`: what /status and /metrics say, for people with a browser. The page asks for
//! both itself, every two seconds, so nothing here depends on what they contain. It is one document
//! without anything from elsewhere, and its policy lets the browser run and load nothing else.

use axum::{
    Router,
    body::Bytes,
    http::{
        HeaderName, HeaderValue,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};

/// The document, with an empty style element and an empty script element.
const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// The parts of the script, in the order in which they use each other.
const SCRIPT: &str = concat!(
    include_str!("page/metrics.js"),
    include_str!("page/judgement.js"),
    include_str!("page/view.js"),
    include_str!("page/polling.js"),
);

/// Returns the route of the page.
pub(super) fn route() -> Router {
    let page = Page::new();
    Router::new().route("/", get(async move || page.response()))
}

/// The page as it is sent.
#[derive(Clone)]
struct Page {
    document: Bytes,
    policy: HeaderValue,
}

impl Page {
    fn new() -> Self {
        let document = DOCUMENT
            .replace("<style></style>", &format!("<style>{STYLE}</style>"))
            .replace("<script></script>", &format!("<script>{SCRIPT}</script>"));
        let policy = format!(
            "default-src 'none'; connect-src 'self'; img-src data:; script-src '{}'; \
             style-src '{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            hash(SCRIPT),
            hash(STYLE),
        );
        Self {
            document: document.into(),
            policy: HeaderValue::from_str(&policy).expect("the policy is visible ASCII"),
        }
    }

    fn response(&self) -> Response {
        let headers: [(HeaderName, HeaderValue); 5] = [
            (
                CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            ),
            (CONTENT_SECURITY_POLICY, self.policy.clone()),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            // After an upgrade, a page of the previous version would show wrong names.
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        (headers, self.document.clone()).into_response()
    }
}

/// Returns the hash of the text of an element, as a policy names it.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(&Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_contains_the_style_and_the_script_once_and_whole() {
        let page = Page::new();
        let document = str::from_utf8(&page.document).unwrap();
        for (element, text) in [("style", STYLE), ("script", SCRIPT)] {
            let (start, end) = (format!("<{element}>"), format!("</{element}>"));
            let (_, rest) = document.split_once(&start).unwrap();
            let (found, rest) = rest.split_once(&end).unwrap();
            assert!(found == text, "the {element} is cut off");
            assert!(!rest.contains(&start), "a second {element}");
            let hash = hash(text);
            let policy = page.policy.to_str().unwrap();
            assert!(
                policy.contains(&format!("{element}-src '{hash}'")),
                "{policy}"
            );
        }
        assert!(
            !SCRIPT.contains("<!--"),
            "it would change how a script ends"
        );
    }

    #[test]
    fn the_page_has_nothing_that_its_policy_forbids_or_that_comes_from_elsewhere() {
        let page = Page::new();
        let document = str::from_utf8(&page.document).unwrap();
        for absent in [
            "http://",
            "https://",
            "src=",
            "@import",
            "url(",
            " style=",
            " onclick",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "cookie",
            "localStorage",
        ] {
            let found = document.find(absent);
            let found = found.map(|at| document[at..].lines().next());
            assert_eq!(found, None, "{absent}");
        }
    }
}
