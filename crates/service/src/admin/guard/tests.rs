//! Tests of the guard: every kind of peer, host, origin and token.

use axum::http::HeaderName;

use super::*;

const TOKEN: &str = "0123456789abcdef";

const LOCAL_PEERS: [&str; 4] = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"];
const OTHER_PEERS: [&str; 6] = [
    "192.0.2.1",
    "10.0.0.1",
    "0.0.0.0",
    "::ffff:192.0.2.1",
    "2001:db8::1",
    "fe80::1",
];

const LOCAL_HOSTS: [&str; 15] = [
    "localhost",
    "localhost:8081",
    "LocalHost:1",
    "localhost.",
    "localhost.:8081",
    "localhost:",
    "127.0.0.1",
    "127.0.0.1:8081",
    "127.0.0.1.",
    "127.255.255.254:65535",
    "[::1]",
    "[::1]:8081",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]:80",
    "[::FFFF:7f00:1]",
];
const OTHER_HOSTS: [&str; 29] = [
    "",
    ":8081",
    ".",
    "evil.example",
    "evil.example:8081",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io:8081",
    "localhost..",
    "xlocalhost",
    "evil@localhost",
    "localhost@evil.example",
    "localhost:8081@evil.example",
    "localhost:x",
    "localhost:808100",
    "localhost:80:81",
    "localhost, evil.example",
    "localhost/evil",
    "127.1",
    "127.0.0.01",
    "2130706433",
    "0x7f.0.0.1",
    "128.0.0.1",
    "0.0.0.0:8081",
    "::1",
    "[::1",
    "[::1]x",
    "[::2]:8081",
    "[::]:8081",
];

fn headers<'a>(pairs: impl IntoIterator<Item = (HeaderName, &'a str)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn without_token(peer: &str, target: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let (peer, target) = (peer.parse().unwrap(), target.parse().unwrap());
    Guard::default().check(peer, &target, headers)
}

fn with_token(peer: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let (_sender, digest) = watch::channel(TokenDigest::of(TOKEN.as_bytes()));
    let guard = Guard {
        token: Some(digest),
        refused: None,
    };
    guard.check(
        peer.parse().unwrap(),
        &Uri::from_static("/connections"),
        headers,
    )
}

fn is_host_refused(outcome: &Result<(), Refusal>) -> bool {
    matches!(outcome, Err(Refusal::Host(_)))
}

#[test]
fn without_a_token_only_local_peers_with_a_local_host_get_in() {
    for host in LOCAL_HOSTS {
        let given = headers([(HOST, host)]);
        for peer in LOCAL_PEERS {
            let outcome = without_token(peer, "/connections", &given);
            assert_eq!(outcome, Ok(()), "{peer} {host}");
        }
        for peer in OTHER_PEERS {
            let outcome = without_token(peer, "/connections", &given);
            let expected = peer.parse::<IpAddr>().unwrap().to_canonical();
            assert_eq!(outcome, Err(Refusal::Peer(expected)), "{host}");
        }
    }
    for host in OTHER_HOSTS {
        let given = headers([(HOST, host)]);
        for peer in LOCAL_PEERS {
            let outcome = without_token(peer, "/connections", &given);
            assert!(is_host_refused(&outcome), "{peer} {host:?}: {outcome:?}");
        }
    }
}

#[test]
fn without_a_token_there_must_be_exactly_one_host() {
    for hosts in [
        &[][..],
        &["localhost", "localhost"],
        &["localhost", "evil.example"],
    ] {
        let given = headers(hosts.iter().map(|host| (HOST, *host)));
        let outcome = without_token("::1", "/connections", &given);
        assert!(is_host_refused(&outcome), "{hosts:?}: {outcome:?}");
    }
    let mut given = HeaderMap::new();
    given.insert(HOST, HeaderValue::from_bytes(b"localhost\xff").unwrap());
    let outcome = without_token("::1", "/connections", &given);
    assert!(is_host_refused(&outcome), "{outcome:?}");
}

#[test]
fn a_host_in_the_target_counts_as_well() {
    let local = headers([(HOST, "localhost:8081")]);
    let foreign = headers([(HOST, "evil.example")]);
    for (target, given, is_in) in [
        ("http://localhost:8081/connections", &local, true),
        ("http://[::1]/connections", &local, true),
        ("http://evil.example/connections", &local, false),
        ("http://localhost@evil.example/connections", &local, false),
        ("http://localhost:8081/connections", &foreign, false),
        (
            "http://localhost:8081/connections",
            &HeaderMap::new(),
            false,
        ),
    ] {
        let outcome = without_token("127.0.0.1", target, given);
        assert_eq!(outcome.is_ok(), is_in, "{target} {given:?}");
        assert_eq!(is_host_refused(&outcome), !is_in, "{target} {given:?}");
    }
}

#[test]
fn without_a_token_any_origin_is_refused() {
    for origin in ["http://evil.example", "null", "http://localhost:8081", ""] {
        let given = headers([(HOST, "localhost"), (ORIGIN, origin)]);
        let outcome = without_token("127.0.0.1", "/connections", &given);
        assert_eq!(outcome, Err(Refusal::Origin), "{origin}");
    }
}

#[test]
fn without_a_token_requests_of_other_sites_are_refused_even_if_they_have_no_origin() {
    let site = HeaderName::from_static(SEC_FETCH_SITE);
    for (given, is_in) in [
        ("none", true),
        ("same-origin", true),
        ("same-site", false),
        ("cross-site", false),
        ("", false),
    ] {
        let given = headers([(HOST, "localhost"), (site.clone(), given)]);
        let outcome = without_token("127.0.0.1", "/connections", &given);
        assert_eq!(outcome == Err(Refusal::Origin), !is_in, "{given:?}");
        assert_eq!(outcome.is_ok(), is_in, "{given:?}");
    }
}

#[test]
fn headers_that_claim_another_peer_are_not_believed() {
    let claims = [
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-forwarded-host",
    ];
    let claims = claims.map(|name| (HeaderName::from_static(name), "127.0.0.1"));
    let given = headers([(HOST, "localhost")].into_iter().chain(claims));
    let outcome = without_token("192.0.2.1", "/connections", &given);
    assert!(matches!(outcome, Err(Refusal::Peer(_))), "{outcome:?}");
}

#[test]
fn with_a_token_it_alone_counts() {
    let right = format!("Bearer {TOKEN}");
    for peer in LOCAL_PEERS.into_iter().chain(OTHER_PEERS) {
        for host in LOCAL_HOSTS.into_iter().chain(OTHER_HOSTS) {
            let local = [(HOST, host)];
            assert_eq!(with_token(peer, &headers(local)), Err(Refusal::NoToken));
            let foreign = [(HOST, host), (ORIGIN, "http://evil.example")];
            let foreign = foreign.into_iter().chain([(AUTHORIZATION, right.as_str())]);
            assert_eq!(with_token(peer, &headers(foreign)), Ok(()), "{peer} {host}");
        }
    }
}

#[test]
fn only_the_whole_token_in_one_header_is_accepted() {
    let right = format!("Bearer {TOKEN}");
    for (given, expected) in [
        (vec![right.as_str()], Ok(())),
        (vec!["bearer 0123456789abcdef"], Ok(())),
        (vec!["BEARER   0123456789abcdef "], Ok(())),
        (vec![], Err(Refusal::NoToken)),
        (vec![""], Err(Refusal::NoToken)),
        (vec!["Bearer"], Err(Refusal::NoToken)),
        (vec!["Bearer "], Err(Refusal::NoToken)),
        (vec![TOKEN], Err(Refusal::NoToken)),
        (vec!["Basic 0123456789abcdef"], Err(Refusal::NoToken)),
        (vec!["Bearer0123456789abcdef"], Err(Refusal::NoToken)),
        (vec![right.as_str(), right.as_str()], Err(Refusal::NoToken)),
        (vec!["Bearer 0123456789abcde"], Err(Refusal::WrongToken)),
        (vec!["Bearer 0123456789abcdeff"], Err(Refusal::WrongToken)),
        (vec!["Bearer 0123456789ABCDEF"], Err(Refusal::WrongToken)),
        (vec!["Bearer 0123456789abcdef x"], Err(Refusal::WrongToken)),
    ] {
        let headers = headers(given.iter().map(|value| (AUTHORIZATION, *value)));
        assert_eq!(with_token("127.0.0.1", &headers), expected, "{given:?}");
    }
}

#[test]
fn a_refusal_says_what_is_wrong_and_what_is_allowed() {
    let long = "x".repeat(10_000);
    for (refusal, code, challenge, parts) in [
        (
            Refusal::NoToken,
            401,
            Some("Bearer"),
            vec!["Authorization: Bearer"],
        ),
        (
            Refusal::WrongToken,
            401,
            Some("Bearer error=\"invalid_token\""),
            vec!["ADMIN_TOKEN_FILE"],
        ),
        (
            Refusal::Peer([192, 0, 2, 1].into()),
            403,
            None,
            vec!["192.0.2.1", "127.0.0.0/8", "ADMIN_TOKEN_FILE"],
        ),
        (Refusal::Host(long), 403, None, vec!["xxx…", "localhost"]),
        (Refusal::Origin, 403, None, vec!["Origin"]),
    ] {
        let text = refusal.to_string();
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.len() < 600, "{text}");
        assert!(REASONS.contains(&refusal.reason()), "{refusal:?}");
        let response = refusal.into_response();
        let shown = response.headers().get(WWW_AUTHENTICATE);
        assert_eq!(response.status(), code);
        assert_eq!(shown.map(|shown| shown.to_str().unwrap()), challenge);
    }
}
