//! Attacks on the admin port: requests that take forever, requests that cost much, answers that
//! are never read, and requests that only an operator may send.

use std::time::Duration;

use super::Ingredients;
use crate::script::{Script, Step};

/// The interval between the bytes of a slow request.
const TRICKLE: Duration = Duration::from_millis(500);
/// A receive buffer that holds next to nothing, in bytes. The kernel rounds it up.
const RECEIVE_BUFFER: usize = 1_024;

/// Header lines that a request of an operator on this machine does not have.
const FOREIGN: [&str; 7] = [
    "Host: evil.example",
    "Host: evil.example:8081",
    "Host: localhost.evil.example",
    "Host: 127.0.0.1.evil.example",
    "Host: localhost\r\nOrigin: http://evil.example",
    "Host: localhost\r\nOrigin: null",
    "Host: evil.example\r\nX-Forwarded-Host: localhost",
];

/// Header lines without the token, with a wrong one, or with something else.
const WITHOUT_TOKEN: [&str; 5] = [
    "",
    "Authorization: Bearer",
    "Authorization: Bearer wrong",
    "Authorization: Basic d3Jvbmc6d3Jvbmc=",
    "Authorization: wrong",
];

/// Requests that never become complete, and connections without one.
pub(super) fn slow(_: &Ingredients) -> Vec<Script> {
    let send = |text: &str| Step::Send(text.as_bytes().into());
    let trickle = |text: &str| Step::Trickle(text.as_bytes().into(), TRICKLE);
    vec![
        Script::new([Step::Hold]),
        Script::new([send("GET /metrics HTTP/1.1\r\nX: "), Step::Hold]),
        Script::new([trickle("GET /health/live HTTP/1.1\r\nHost: localhost\r\n")]),
        Script::new([
            send("POST /connections HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"),
            trickle("body"),
        ]),
    ]
}

/// Lists all connections, again and again.
pub(super) fn list(_: &Ingredients) -> Vec<Script> {
    let order = ["age", "backlog"];
    order
        .into_iter()
        .map(|order| request("GET", &listing(order), "Host: localhost"))
        .collect()
}

/// Scrapes the metrics, again and again.
pub(super) fn scrape(_: &Ingredients) -> Vec<Script> {
    vec![request("GET", "/metrics", "Host: localhost")]
}

/// Asks for the longest answers and does not read them.
pub(super) fn unread(_: &Ingredients) -> Vec<Script> {
    [listing("age"), "/metrics".to_owned()]
        .into_iter()
        .map(|path| Script {
            receive_buffer: Some(RECEIVE_BUFFER),
            is_http: false,
            ..request("GET", &path, "Host: localhost").then([Step::StopReading, Step::Hold])
        })
        .collect()
}

/// Lists and closes connections as a page in an operator's browser would.
pub(super) fn foreign(ingredients: &Ingredients) -> Vec<Script> {
    operators_requests(ingredients, &FOREIGN)
}

/// Lists and closes connections without the token.
pub(super) fn without_token(ingredients: &Ingredients) -> Vec<Script> {
    let headers = WITHOUT_TOKEN.map(|line| match line {
        "" => "Host: localhost".to_owned(),
        line => format!("Host: localhost\r\n{line}"),
    });
    operators_requests(ingredients, &headers)
}

fn operators_requests(ingredients: &Ingredients, headers: &[impl AsRef<str>]) -> Vec<Script> {
    let ids = ingredients.connection_ids.iter();
    let closing = ids.map(|id| ("DELETE", format!("/connections/{id}")));
    let listing = [("GET", "/connections".to_owned())];
    let requests: Vec<_> = closing.chain(listing).collect();
    let scripts = headers.iter().flat_map(|header| {
        let requests = requests.iter();
        requests.map(|(method, path)| request(method, path, header.as_ref()))
    });
    scripts.collect()
}

fn listing(order: &str) -> String {
    format!("/connections?limit=10000&sort={order}")
}

/// Returns a script that sends one request and waits until the edge has closed the connection.
fn request(method: &str, path: &str, header: &str) -> Script {
    let text = format!("{method} {path} HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n");
    Script {
        is_http: true,
        ..Script::new([Step::Send(text.into_bytes().into())])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ingredients, sent};
    use super::*;

    fn texts(scripts: &[Script]) -> Vec<String> {
        let sent = scripts.iter().flat_map(sent);
        sent.map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    }

    #[test]
    fn no_slow_request_is_complete() {
        for script in slow(&ingredients(false)) {
            let all = sent(&script).concat();
            let text = String::from_utf8(all).unwrap();
            let is_complete = text.contains("\r\n\r\n") && !text.contains("Content-Length");
            assert!(!is_complete, "{text}");
            assert!(!script.is_http, "no answer is expected");
        }
    }

    #[test]
    fn each_connection_of_the_crowd_is_to_be_closed_with_each_foreign_header() {
        let with_ids = Ingredients {
            connection_ids: vec!["17".into(), "18".into()],
            ..ingredients(false)
        };
        for (scripts, headers) in [
            (foreign(&with_ids), FOREIGN.len()),
            (without_token(&with_ids), WITHOUT_TOKEN.len()),
        ] {
            let texts = texts(&scripts);
            for id in ["17", "18"] {
                let line = format!("DELETE /connections/{id} HTTP/1.1\r\n");
                let closing = texts.iter().filter(|text| text.starts_with(&line));
                assert_eq!(closing.count(), headers);
            }
            let listing = texts.iter().filter(|text| text.starts_with("GET "));
            assert_eq!(listing.count(), headers);
            assert!(texts.iter().all(|text| text.ends_with("\r\n\r\n")));
            assert!(scripts.iter().all(|script| script.is_http));
        }
    }

    #[test]
    fn a_reader_that_does_not_read_has_asked_before() {
        for script in unread(&ingredients(false)) {
            let stops = script
                .steps
                .iter()
                .position(|step| matches!(step, Step::StopReading));
            assert!(stops > Some(0) && sent(&script).len() == 1, "{script:?}");
        }
    }
}
