"""Device cookies, which only edges make and verify: cookies.json."""

import hashlib
import hmac

from .samples import COOKIE

SALT = b"tickstorm/cookie"
DEVICE = bytes(range(16))


def generate():
    """Returns the content of cookies.json."""
    user = hashlib.pbkdf2_hmac("sha256", b"stream_pass", SALT + b"/user/stream_user", 600_000)
    assert user.hex() == "71fbab6e2bacf9c97d51f143fbd49a5839b42dde0894f2ccaef1b6c01280bca5"
    assert _cookie(user, DEVICE, "stream_user") == COOKIE
    token = _hkdf(hashlib.sha256(b"s3cret").digest(), b"token")
    file_text = b"0123456789abcdef0123456789abcdef"
    keys = ["cookies-17", "cookies-18"]
    cases = [
        _case("password", ["cookies-19", "cookies-22", *keys], user, "stream_user",
              username="stream_user", password="stream_pass"),
        _case("token", ["cookies-20", *keys], token, "till-7", token="s3cret", name="till-7"),
        _case("file-user", ["cookies-21", *keys], _hkdf(file_text, b"file/user"), "stream_user",
              file=file_text.decode() + "\n", username="stream_user"),
        _case("file-token", ["cookies-21", *keys], _hkdf(file_text, b"file/token"), "till-7",
              file=file_text.decode() + "\n", name="till-7"),
    ]
    return {"cookies": cases}


def _case(title, sentences, key, signed_name, **source):
    layout = ["cookies-10", "cookies-11", "cookies-12", "cookies-13", "cookies-14", "cookies-15"]
    return {
        "id": f"cookies/{title}",
        "sentence": [*sentences, *layout],
        "from": source,
        "key": key.hex(),
        "device_id": DEVICE.hex(),
        "cookie": _cookie(key, DEVICE, signed_name).hex(),
    }


def _cookie(key, device_id, name):
    head = b"\1" + _hmac(key, b"tickstorm/cookie/key-id")[:8] + device_id
    return head + _hmac(key, head + name.encode())[:16]


def _hmac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def _hkdf(secret, info):
    """HKDF-SHA256 (RFC 5869) for an output of 32 bytes."""
    return _hmac(_hmac(SALT, secret), info + b"\1")
