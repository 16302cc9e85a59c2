//! Interprets any bytes as a login on one of several edges, and as changes to the cookie that it
//! gets. A cookie must be valid for the login and the key that it was issued for, and for nothing
//! else; any other bytes must be valid for nobody.

use std::sync::OnceLock;

use tickstorm_edge::fuzzing::Credentials;
use tickstorm_edge::{CredentialSource, CredentialSources};
use tickstorm_protocol::message::Auth;

use super::text_file::TextFile;

const PASSWORD: &str = "right";
/// Two tokens, of which the second has the name that most users have.
const TOKENS: [&str; 2] = ["s3cret-0", "s3cret-1"];
const TOKENS_FILE: &str = "\
till-7 bfc98b22c25cc7988b4185531549ca78b43b347d2478421cb918f7f47d69ba82
stream_user 6d837e5f0dbb0dc7ecc83248fc728f1ff4c776d6ee650605666eb1c03bc49811
";
/// The keys of edges that share one. Another edge has no key file, and derives keys of tokens only.
const KEYS: [&str; 2] = [
    "0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdeg",
];
const COOKIE_LEN: usize = 41;

/// The files that all edges read.
struct Files {
    tokens: TextFile,
    keys: [TextFile; 2],
}

/// A login: which edge, who, and on which device.
#[derive(Clone, Copy, PartialEq)]
struct Login {
    edge: usize,
    /// 0 is the user, the others are the owners of tokens.
    owner: usize,
    device: [u8; 16],
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script(data);
    let name_len = usize::from(script.byte() % 80);
    let name = String::from_utf8_lossy(script.take(name_len)).into_owned();
    let edges: [Credentials; 3] = std::array::from_fn(|edge| credentials(&name, edge));
    let auths = [
        auth(&name, PASSWORD, ""),
        auth("", "", TOKENS[0]),
        auth("", "", TOKENS[1]),
    ];
    let [first, second] = [script.login(), script.login()];
    let issue = |login: Login| edges[login.edge].issue(&auths[login.owner], login.device);
    let issued = [issue(first), issue(second)];
    for (login, cookie) in [first, second].into_iter().zip(&issued) {
        assert_eq!(*cookie, issue(login), "a cookie is always the same");
        let has_key = login.edge < KEYS.len() || login.owner > 0;
        assert_eq!(cookie.is_some(), has_key);
        if let Some(cookie) = cookie {
            assert_eq!(cookie.len(), COOKIE_LEN);
            assert_valid_only_for(Some(login), cookie, &name, &edges, &auths);
        }
    }
    let [base, donor] = issued.clone().map(Option::unwrap_or_default);
    let changed = script.change(base, &donor);
    let position = issued
        .iter()
        .position(|cookie| cookie.as_ref() == Some(&changed));
    let login = position.map(|position| [first, second][position]);
    assert_valid_only_for(login, &changed, &name, &edges, &auths);
}

/// Asserts that a cookie is valid for the login that it was issued for, if any, with a wrong
/// password too, and for no other.
fn assert_valid_only_for(
    login: Option<Login>,
    cookie: &[u8],
    name: &str,
    edges: &[Credentials; 3],
    auths: &[Auth; 3],
) {
    for (edge, credentials) in edges.iter().enumerate() {
        let device_of = |auth: &Auth| {
            credentials.device_of(&Auth {
                cookie: cookie.to_vec(),
                ..auth.clone()
            })
        };
        let expected = |owner: usize| {
            let login = login.filter(|login| (login.edge, login.owner) == (edge, owner));
            login.map(|login| login.device)
        };
        for (owner, auth) in auths.iter().enumerate() {
            assert_eq!(device_of(auth), expected(owner), "edge {edge}, {owner}");
        }
        assert_eq!(device_of(&auth(name, "wrong", "")), expected(0));
        let other_name = format!("{name}x");
        for auth in [
            auth(&other_name, PASSWORD, ""),
            auth("till-7", PASSWORD, ""),
            auth(name, PASSWORD, "no-token"),
        ] {
            if auth.username != name || !auth.token.is_empty() {
                assert_eq!(device_of(&auth), None, "edge {edge}");
            }
        }
    }
}

fn credentials(name: &str, edge: usize) -> Credentials {
    static FILES: OnceLock<Files> = OnceLock::new();
    let files = FILES.get_or_init(|| Files {
        tokens: TextFile::new(TOKENS_FILE.as_bytes()),
        keys: KEYS.map(|key| TextFile::new(key.as_bytes())),
    });
    let source = |value: &str| {
        Some(CredentialSource {
            value: value.into(),
            file: None,
        })
    };
    let sources = CredentialSources {
        user: source(name),
        password: source(PASSWORD),
        tokens: Some(files.tokens.path()),
        cookie_key: files.keys.get(edge).map(TextFile::path),
        ..CredentialSources::default()
    };
    Credentials::load(&sources).expect("valid files")
}

fn auth(username: &str, password: &str, token: &str) -> Auth {
    Auth {
        username: username.to_owned(),
        password: password.to_owned(),
        token: token.to_owned(),
        ..Auth::default()
    }
}

/// The rest of the input. Beyond its end, all bytes are 0.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn login(&mut self) -> Login {
        let mut device = [0; 16];
        let place = self.byte();
        let taken = self.take(16);
        device[..taken.len()].copy_from_slice(taken);
        Login {
            edge: usize::from(place % 3),
            owner: usize::from(place / 3 % 3),
            device,
        }
    }

    /// Changes a cookie: single bits, its length, and parts of it.
    fn change(&mut self, mut cookie: Vec<u8>, donor: &[u8]) -> Vec<u8> {
        while !self.0.is_empty() {
            let (operation, at) = (self.byte(), usize::from(self.byte()));
            match operation % 5 {
                0 => {
                    if let Some(byte) = cookie.get_mut(at) {
                        *byte ^= 1 << (operation >> 5);
                    }
                }
                1 => cookie.truncate(at),
                2 => cookie.extend_from_slice(self.take(at)),
                3 => {
                    let part = cookie.iter_mut().skip(at);
                    part.zip(self.take(usize::from(operation >> 3)))
                        .for_each(|(byte, new)| *byte = *new);
                }
                _ => {
                    let part = cookie.iter_mut().zip(donor).skip(at);
                    part.take(usize::from(operation >> 2))
                        .for_each(|(byte, new)| *byte = *new);
                }
            }
        }
        cookie
    }
}
