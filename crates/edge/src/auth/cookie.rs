//! Device cookies, as docs/protocol.md defines them: the proof that a device has logged in before.
//! Any edge that has the key verifies a cookie, and none stores it. A cookie does not replace the
//! credentials: it only takes the device out of its address's limit on failures.

use std::num::NonZeroU32;

use aws_lc_rs::{hkdf, hmac, pbkdf2};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The only version so far, in a cookie's first byte.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 8;
const DEVICE_ID_LEN: usize = 16;
const MAC_LEN: usize = 16;
/// The length of what the MAC covers besides the name: version, key id and device id.
const HEAD_LEN: usize = 1 + KEY_ID_LEN + DEVICE_ID_LEN;
const COOKIE_LEN: usize = HEAD_LEN + MAC_LEN;

const KEY_LEN: usize = 32;
/// The rounds of PBKDF2, as OWASP recommends for SHA-256. A client can test guesses of a password
/// by forging cookies, and each guess costs it this much.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).expect("not zero");
/// The beginning of the salt of PBKDF2; the user name follows. It is fixed so that all edges with
/// the same credentials derive the same key.
const USER_SALT: &[u8] = b"tickstorm/cookie/user/";
/// The salt of HKDF.
const SALT: &[u8] = b"tickstorm/cookie";
/// The message whose MAC begins with a key's id. No cookie's MAC is over it: the first byte of a
/// cookie is its version.
const KEY_ID_LABEL: &[u8] = b"tickstorm/cookie/key-id";

/// A device that has logged in: a random number, drawn by the edge that issued its first cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceId([u8; DEVICE_ID_LEN]);

impl DeviceId {
    /// Draws an id for a device that has none.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn from_bytes(bytes: [u8; DEVICE_ID_LEN]) -> Self {
        Self(bytes)
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn to_bytes(self) -> [u8; DEVICE_ID_LEN] {
        self.0
    }
}

/// A cookie that was issued, or one that a client presents and that may be forged.
pub(crate) struct Cookie([u8; COOKIE_LEN]);

impl Cookie {
    /// Parses the cookie of an AUTH. Returns `None` if there is none, or if it is not one of this
    /// version.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let cookie = Self(bytes.try_into().ok()?);
        (cookie.0[0] == VERSION).then_some(cookie)
    }

    /// Returns the value for an ACK.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn head(&self) -> &[u8] {
        &self.0[..HEAD_LEN]
    }

    fn key_id(&self) -> &[u8] {
        &self.0[1..=KEY_ID_LEN]
    }

    fn device(&self) -> DeviceId {
        let mut id = [0; DEVICE_ID_LEN];
        id.copy_from_slice(&self.0[1 + KEY_ID_LEN..HEAD_LEN]);
        DeviceId(id)
    }

    fn mac(&self) -> &[u8] {
        &self.0[HEAD_LEN..]
    }
}

/// The kind of credentials that a key from COOKIE_KEY_FILE is for. A token and a user may have the
/// same name, but must not have the same cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyPurpose {
    User,
    Token,
}

/// A key that issues and verifies cookies. It can't be printed, and is wiped when it is dropped.
pub(super) struct CookieKey {
    id: [u8; KEY_ID_LEN],
    /// On the heap, so that moving the key leaves no copy behind.
    secret: Zeroizing<Vec<u8>>,
}

impl CookieKey {
    /// Derives the key from a password. This takes a large fraction of a second.
    pub(super) fn of_password(user: &str, password: &str) -> Self {
        let salt = [USER_SALT, user.as_bytes()].concat();
        Self::derive(|secret| {
            let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
            pbkdf2::derive(algorithm, ROUNDS, &salt, password.as_bytes(), secret);
        })
    }

    /// Derives the key from the SHA-256 digest of a token. Tokens are random, so this need not be
    /// slow.
    pub(super) fn of_token(digest: &[u8; 32]) -> Self {
        Self::expand(digest, b"token")
    }

    /// Derives a key from the text in COOKIE_KEY_FILE.
    pub(super) fn of_file(text: &str, purpose: KeyPurpose) -> Self {
        let info: &[u8] = match purpose {
            KeyPurpose::User => b"file/user",
            KeyPurpose::Token => b"file/token",
        };
        Self::expand(text.as_bytes(), info)
    }

    fn expand(material: &[u8], info: &[u8]) -> Self {
        Self::derive(|secret| {
            let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(material);
            extracted
                .expand(&[info], hkdf::HKDF_SHA256)
                .and_then(|expanded| expanded.fill(secret))
                .expect("HKDF yields as many bytes as its digest has");
        })
    }

    fn derive(fill: impl FnOnce(&mut [u8])) -> Self {
        let mut secret = Zeroizing::new(vec![0; KEY_LEN]);
        fill(&mut secret);
        let mut key = Self {
            id: [0; KEY_ID_LEN],
            secret,
        };
        let tag = key.sign(&[KEY_ID_LABEL]);
        key.id.copy_from_slice(&tag.as_ref()[..KEY_ID_LEN]);
        key
    }

    /// Issues the cookie of a device for the user or token with this name. The same arguments yield
    /// the same bytes.
    pub(super) fn issue(&self, device: DeviceId, name: &str) -> Cookie {
        let mut bytes = [0; COOKIE_LEN];
        bytes[0] = VERSION;
        bytes[1..=KEY_ID_LEN].copy_from_slice(&self.id);
        bytes[1 + KEY_ID_LEN..HEAD_LEN].copy_from_slice(&device.0);
        let tag = self.sign(&[&bytes[..HEAD_LEN], name.as_bytes()]);
        bytes[HEAD_LEN..].copy_from_slice(&tag.as_ref()[..MAC_LEN]);
        Cookie(bytes)
    }

    /// Returns the device of a cookie, if this key has issued it for this name. The MACs are
    /// compared in constant time.
    pub(super) fn verify(&self, cookie: &Cookie, name: &str) -> Option<DeviceId> {
        if cookie.key_id() != self.id {
            return None;
        }
        let tag = self.sign(&[cookie.head(), name.as_bytes()]);
        let is_valid = tag.as_ref()[..MAC_LEN].ct_eq(cookie.mac());
        bool::from(is_valid).then(|| cookie.device())
    }

    fn sign(&self, parts: &[&[u8]]) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        context.sign()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};
    use tickstorm_testkit::vectors;

    use super::*;

    const NAME: &str = "stream_user";
    /// The text of a COOKIE_KEY_FILE.
    const TEXT: &str = "0123456789abcdef0123456789abcdef";

    fn device() -> DeviceId {
        DeviceId(std::array::from_fn(|at| u8::try_from(at).unwrap()))
    }

    fn key() -> CookieKey {
        CookieKey::of_file(TEXT, KeyPurpose::User)
    }

    /// The key and the name that a cookie is made with, from what a case of the vectors says.
    fn source(from: &serde_json::Value) -> (CookieKey, &str) {
        let text = |member: &str| from[member].as_str();
        let (user, name) = (text("username"), text("name"));
        let key = match (text("file"), user, text("token"), text("password")) {
            (Some(file), Some(_), ..) => CookieKey::of_file(file.trim_end(), KeyPurpose::User),
            (Some(file), None, ..) => CookieKey::of_file(file.trim_end(), KeyPurpose::Token),
            (None, _, Some(token), _) => CookieKey::of_token(&Sha256::digest(token).into()),
            (None, Some(user), None, Some(password)) => CookieKey::of_password(user, password),
            other => panic!("{other:?}"),
        };
        (key, user.or(name).unwrap())
    }

    #[test]
    fn every_byte_of_a_cookie_is_as_the_vectors_say() {
        for case in vectors::cases("cookies.json", "cookies") {
            let (key, name) = source(&case["from"]);
            assert_eq!(*key.secret, vectors::bytes(&case["key"]), "{case}");
            let device = DeviceId(vectors::bytes(&case["device_id"]).try_into().unwrap());
            let cookie = key.issue(device, name);
            assert_eq!(cookie.as_bytes(), vectors::bytes(&case["cookie"]), "{case}");
            assert_eq!(key.verify(&cookie, name), Some(device));
        }
    }

    #[test]
    fn a_cookie_with_any_bit_flipped_is_invalid() {
        let key = key();
        let good = key.issue(device(), NAME);
        for bit in 0..8 * COOKIE_LEN {
            let mut bytes = good.0;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verified = Cookie::parse(&bytes).and_then(|cookie| key.verify(&cookie, NAME));
            assert_eq!(verified, None, "bit {bit}");
        }
    }

    #[test]
    fn a_cookie_is_valid_only_for_its_key_and_name() {
        let cookie = key().issue(device(), NAME);
        assert_eq!(key().verify(&cookie, "stream_use"), None);
        let others = [
            CookieKey::of_file(TEXT, KeyPurpose::Token),
            CookieKey::of_file(&TEXT[1..], KeyPurpose::User),
        ];
        for other in others {
            assert_eq!(other.verify(&cookie, NAME), None);
            // Not even if the key's id is replaced.
            let mut bytes = cookie.0;
            bytes[1..=KEY_ID_LEN].copy_from_slice(&other.id);
            assert_eq!(other.verify(&Cookie(bytes), NAME), None);
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_other_length_or_version_are_no_cookie(bytes: Vec<u8>) {
            let is_cookie = bytes.len() == COOKIE_LEN && bytes[0] == VERSION;
            prop_assert_eq!(Cookie::parse(&bytes).is_some(), is_cookie);
        }

        #[test]
        fn random_bytes_are_not_a_valid_cookie(tail: [u8; 32], name: String) {
            let mut bytes = key().issue(device(), &name).0;
            bytes[COOKIE_LEN - tail.len()..].copy_from_slice(&tail);
            let verified = Cookie::parse(&bytes).and_then(|cookie| key().verify(&cookie, &name));
            prop_assert_eq!(verified, None);
        }

        #[test]
        fn an_issued_cookie_is_verified(device: [u8; DEVICE_ID_LEN], name: String) {
            let issued = key().issue(DeviceId(device), &name);
            let cookie = Cookie::parse(issued.as_bytes()).expect("a cookie");
            prop_assert_eq!(key().verify(&cookie, &name), Some(DeviceId(device)));
        }
    }
}
