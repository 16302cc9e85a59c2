//! Settings of those who serve a stream and those who take it: who may.

use std::path::PathBuf;

use super::settings;
use crate::env::{Group, Secret, Setting, Text};

settings! { STREAM_OF_BOTH of [Group::Edge, Group::Client];
    /// The user that clients log in as.
    STREAM_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, "an edge must not be open by mistake").or_file().formerly("AUTH_USERNAME");
    /// The password of STREAM_USER.
    STREAM_PASS: Option<Secret> = Setting::unset(Text::CREDENTIAL, "a password known to all is none")
        .secret()
        .or_file()
        .formerly("AUTH_PASSWORD");
}

settings! { STREAM_OF_EDGE of [Group::Edge];
    /// A password that is also accepted, while STREAM_PASS is rotated.
    STREAM_PASS_PREVIOUS: Option<Secret> =
        Setting::unset(Text::CREDENTIAL, "only a rotation needs it").secret().or_file();
    /// The file with clients' tokens: lines of a name and the SHA-256 of its token in hex.
    STREAM_TOKENS_FILE: Option<PathBuf> = Setting::unset((), "one user and password do for one operator");
}

settings! { STREAM_OF_CLIENT of [Group::Client];
    /// The token to log in with, instead of user and password.
    STREAM_TOKEN: Option<Secret> =
        Setting::unset(Text::CREDENTIAL, "only edges with tokens take one").secret().or_file();
}
