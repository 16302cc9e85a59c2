"""Cases of single frames and of streams of frames: frames.json."""

import struct
import zlib

from . import examples, wire
from .reader import Reader, decoded
from .samples import COOKIE, EPOCH_MS
from .wire import delimited, frame, message, tag, varint

INT64_MAX, INT64_MIN, UINT32_MAX = 2**63 - 1, -(2**63), 2**32 - 1


def generate():
    """Returns the content of frames.json."""
    cases = _Cases()
    for add in (examples.add, _fields, _payloads, _sizes, _headers, _checksums, _orders, _unknown):
        add(cases)
    return {
        "checksums": [
            {
                "id": "frames/checksum-123456789",
                "sentence": ["frames-05"],
                "hex": b"123456789".hex(),
                "crc32c": "e3069283",
            }
        ],
        "cases": cases.found,
        "streams": _streams(),
    }


class _Cases:
    def __init__(self):
        self.found = []

    def good(self, name, sentences, data, why=None, canonical=False, reader="both", **terms):
        """Adds a frame that is accepted. `canonical` frames are also what an encoder writes that
        orders fields by their number and leaves out default values."""
        case = self._case(name, sentences, data, why, reader, terms)
        for end in Reader("client"), Reader("edge", **terms):
            if reader in ("both", end.side):
                end.feed(data)
                assert end.error is None and len(end.frames) == 1, (name, end.error)
                case.update(decoded(*end.frames[0]))
        assert case["ok"], name
        if canonical:
            values = {key: _from_json(value) for key, value in case["payload"].items()}
            assert message(case["type"], **values) == data, f"{name} is not canonical"
            case["canonical"] = True

    def bad(self, name, sentences, data, error, after, why=None, reader="both", **terms):
        """Adds a frame that is refused with `error` after its first `after` bytes."""
        case = self._case(name, sentences, data, why, reader, terms)
        for end in Reader("client"), Reader("edge", **terms):
            if reader in ("both", end.side):
                end.feed(data)
                found = end.error or decoded(*end.frames[0]).get("error")
                assert (found, end.position) == (error, after), (name, found, end.position)
        case.update({"ok": False, "error": error, "after_bytes": after})

    def _case(self, name, sentences, data, why, reader, terms):
        case = {"id": f"frames/{name}", "sentence": sentences}
        if why:
            case["why"] = why
        case["reader"] = reader
        case.update(terms)
        case["hex"] = data.hex()
        self.found.append(case)
        return case


def _from_json(value):
    """Turns a value of a decoded payload into one to encode."""
    if isinstance(value, dict):
        return {key: _from_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    is_cookie = isinstance(value, str) and value == COOKIE.hex()
    return COOKIE if is_cookie else value


def _fields(cases):
    """Each message with the extremes of its fields."""
    auth = message(
        "AUTH",
        username="Zoë",
        password="a b",
        client_id="c",
        client_version="v",
        token="t",
        cookie=COOKIE,
    )
    cases.good("auth-all-fields", ["messages-05"], auth, canonical=True)
    zero = message("SUBSCRIBE", resume_after_epoch_ms=0)
    why = "an optional field that is present with the value 0"
    cases.good("subscribe-resume-after-0", ["messages-14"], zero, why, canonical=True)
    negative = message("SUBSCRIBE", resume_after_epoch_ms=-1)
    why = "a negative int64 has ten bytes"
    cases.good("subscribe-resume-after-negative", ["messages-14"], negative, why, canonical=True)
    for name, value in ("max", INT64_MAX), ("min", INT64_MIN):
        heartbeat = message("HEARTBEAT", client_time_us=value)
        sentences = ["messages-07", "pitfalls-13"]
        cases.good(f"heartbeat-int64-{name}", sentences, heartbeat, canonical=True)
    pong = message(
        "PONG",
        client_time_us=INT64_MIN,
        received_unix_us=INT64_MAX,
        sent_unix_us=INT64_MAX,
        error_bound_us=UINT32_MAX,
        clock_error_us=UINT32_MAX,
    )
    cases.good("pong-extremes", ["messages-08", "pitfalls-13"], pong, canonical=True)
    cases.good("pong-empty", ["messages-01"], message("PONG"), canonical=True)
    cases.good("ack-empty", ["messages-01"], message("ACK"), canonical=True)
    cases.good("batch-empty", ["messages-01"], message("DATA_BATCH"), canonical=True)
    ack = message("ACK", acked_type=2, start_epoch_ms=-5)
    cases.good("ack-negative-start", ["messages-11"], ack, canonical=True)
    away = message("GOING_AWAY", deadline_ms=UINT32_MAX, reason="wartung – kurz")
    cases.good("going-away-longest", ["messages-13"], away, canonical=True)
    ticks = [{"epoch_ms": EPOCH_MS + n * 1_000, "quality": "REPLAY"} for n in range(1_000)]
    batch = message("DATA_BATCH", schema_version=1, ticks=ticks, sent_unix_us=EPOCH_MS * 1_000)
    cases.good("batch-of-1000", ["messages-10"], batch, reader="client", canonical=True)


def _payloads(cases):
    """Payloads that another encoder may write, and payloads that do not decode."""
    subscribe, heartbeat, error = (wire.TYPES[name] for name in ("SUBSCRIBE", "HEARTBEAT", "ERROR"))

    def other(name, type_byte, payload, why, sentences=("example-17", "example-18")):
        cases.good(name, list(sentences), frame(type_byte, payload), why)

    resume = tag(5, 0) + varint(EPOCH_MS)
    other("subscribe-other-order", subscribe, b"\x30\x01" + resume + b"\x08\x01", "6, 5, 1")
    other("subscribe-twice", subscribe, b"\x08\x00\x08\x01", "the last value of a field holds")
    other("subscribe-default-present", subscribe, b"\x08\x00", "a default value that is present")
    other("heartbeat-long-varint", heartbeat, b"\x08\x85\x80\x80\x00", "5 as a varint of 4 bytes")
    why = "a repeated field of numbers may be packed or not"
    other("error-unpacked", error, b"\x0a\x01X\x20\x01\x20\x02", why)
    other("error-packed", error, b"\x0a\x01X\x22\x02\x01\x02", why)
    other("error-packed-in-two", error, b"\x0a\x01X\x22\x01\x01\x22\x01\x02", why)

    unknown = tag(99, 0) + varint(7) + delimited(100, b"later")
    unknown += tag(101, 5) + b"\1\2\3\4" + tag(102, 1) + b"\1\2\3\4\5\6\7\x08"
    why = "unknown fields of each wire type"
    ignored = ["messages-02", "compat-03"]
    for name, values in (
        ("AUTH", {"username": "u", "password": "p"}),
        ("SUBSCRIBE", {"mode": "MINUTE"}),
        ("HEARTBEAT", {"client_time_us": 9}),
        ("PONG", {"client_time_us": 9}),
        ("DATA_BATCH", {"schema_version": 1, "ticks": [{"epoch_ms": 1_000}]}),
        ("ACK", {"acked_type": 1}),
        ("ERROR", {"code": "INTERNAL"}),
        ("GOING_AWAY", {"deadline_ms": 5}),
    ):
        payload = unknown + wire.encode(wire.FIELDS[name], values) + unknown
        title = name.lower().replace("_", "-")
        cases.good(f"{title}-unknown-fields", ignored, frame(wire.TYPES[name], payload), why)
    tick = wire.encode(wire.TICK, {"epoch_ms": 1_000}) + unknown
    payload = b"\x08\x01" + delimited(2, tick)
    data = frame(wire.TYPES["DATA_BATCH"], payload)
    cases.good("tick-unknown-fields", ignored, data, "unknown fields within a tick")
    tick = wire.encode(wire.TICK, {"epoch_ms": 1_000}) + tag(3, 0) + varint(9)
    data = frame(wire.TYPES["DATA_BATCH"], b"\x08\x01" + delimited(2, tick))
    why = "an unknown value of an enum is a number here; a client then treats it as NORMAL"
    cases.good("tick-unknown-quality", ["messages-19", "compat-03"], data, why)
    _malformed(cases)


def _malformed(cases):
    for name, type_name, payload, why in (
        ("truncated-varint", "HEARTBEAT", b"\x08\x80", "a varint without its last byte"),
        ("missing-value", "HEARTBEAT", b"\x08", "a tag without a value"),
        ("long-varint", "HEARTBEAT", b"\x08" + b"\xff" * 10 + b"\x01", "a varint of 11 bytes"),
        ("truncated-string", "AUTH", b"\x0a\x05abc", "a string that exceeds the payload"),
        ("not-utf8", "AUTH", b"\x0a\x02\xc3\x28", "a string that is not UTF-8"),
        ("field-0", "SUBSCRIBE", b"\x00\x01", "field number 0"),
        ("wire-type-7", "SUBSCRIBE", b"\x0f\x01", "wire type 7, which does not exist"),
        ("end-of-group", "SUBSCRIBE", b"\x7c", "the end of a group that was not started"),
        ("truncated-tick", "DATA_BATCH", b"\x08\x01\x12\x07\x10\xe8", "a tick cut off"),
        ("tick-varint", "DATA_BATCH", b"\x08\x01\x12\x02\x10\x80", "a varint cut off in a tick"),
        ("truncated-code", "ERROR", b"\x0a\x09BAD", "a string that exceeds the payload"),
        ("truncated-fixed", "ACK", b"\x08\x01\xfd\x07\x01", "an unknown fixed32 field cut off"),
    ):
        data = frame(wire.TYPES[type_name], payload)
        sentences = ["errors-07", "frames-18"]
        cases.bad(f"malformed-{name}", sentences, data, "MALFORMED_PAYLOAD", len(data), why)


def _sizes(cases):
    auth = message("AUTH", username="u" * 4_093)
    cases.good("payload-4096", ["frames-15"], auth, "the largest payload of a client")
    for when in "before_auth", "after_auth":
        data = frame(1, b"\0" * 4_097)[:20]
        title = f"payload-4097-{when.replace('_', '-')}"
        sentences = ["frames-15", "errors-05", "frames-19"]
        too_large = {"reader": "edge", "when": when}
        cases.bad(title, sentences, data, "MESSAGE_TOO_LARGE", 8, **too_large)
    sentences = ["frames-16", "errors-05"]
    data = frame(0x90, b"\0" * 65_536)
    cases.good("ignorable-65536", ["frames-16", "frames-17", "frames-23"], data)
    data = frame(0x90, b"\0" * 4_096)
    cases.good("ignorable-4096", sentences, data, reader="edge", max_msg_size=4_096)
    for name, size, limit, when in (
        ("65537", 65_537, 65_536, "after_auth"),
        ("4097-of-4096", 4_097, 4_096, "after_auth"),
        ("4097-before-auth", 4_097, 65_536, "before_auth"),
    ):
        data = frame(0x90, b"\0" * size)[:12]
        terms = {"reader": "edge", "when": when, "max_msg_size": limit}
        cases.bad(f"ignorable-{name}", sentences, data, "MESSAGE_TOO_LARGE", 8, **terms)
    sentences = ["frames-17", "pitfalls-05", "errors-29"]
    for name, length in ("65537", 65_537), ("4-gib", UINT32_MAX):
        data = frame(4)[:4] + struct.pack(">I", length)
        cases.bad(f"payload-{name}", sentences, data, "MESSAGE_TOO_LARGE", 8)
    data = frame(4)[:4] + struct.pack("<I", 20)
    why = "a length in the wrong byte order"
    cases.bad("length-little-endian", ["frames-06"], data, "MESSAGE_TOO_LARGE", 8, why)


def _headers(cases):
    good = message("HEARTBEAT", client_time_us=5)
    cases.bad("magic-0", ["errors-02", "frames-18"], b"G" + good[1:], "BAD_MAGIC", 1)
    cases.bad("magic-1", ["errors-02", "frames-18"], b"\xf5E" + good[2:], "BAD_MAGIC", 2)
    cases.bad("http", ["errors-02"], b"GET / HTTP/1.1\r\n\r\n", "BAD_MAGIC", 1)
    hello = bytes.fromhex("1603010200010001fc0303")
    cases.bad("tls-client-hello", ["errors-02"], hello, "BAD_MAGIC", 1)
    for version in 0, 2, 255:
        sentences = ["errors-03", "frames-18"]
        data = frame(3, version=version)
        cases.bad(f"version-{version}", sentences, data, "UNSUPPORTED_VERSION", 3)
    for type_byte in 0x00, 0x08, 0x7F:
        sentences = ["errors-04", "frames-24", "frames-19"]
        data = frame(type_byte, b"x")
        name = f"type-{type_byte:02x}"
        cases.bad(f"{name}-at-an-edge", sentences, data, "UNKNOWN_TYPE", 4, reader="edge")
        cases.good(f"{name}-at-a-client", ["frames-24", "compat-03"], data, reader="client")


def _checksums(cases):
    sentences = ["errors-06", "frames-04"]

    def bad(name, data, why=None, extra=()):
        full = [*sentences, *extra]
        cases.bad(f"checksum-{name}", full, data, "BAD_CHECKSUM", len(data), why)

    good = message("SUBSCRIBE", mode="MINUTE", resume_after_epoch_ms=EPOCH_MS)
    for back in 1, 2, 3, 4:
        data = bytearray(good)
        data[-back] ^= 0x01
        bad(f"flip-{back}", bytes(data), f"one bit of byte {-back}")
    data = bytearray(good)
    data[10] ^= 0x80
    bad("payload-flip", bytes(data), "one bit of the payload")
    data = bytearray(good)
    data[3] = 0x03
    bad("type-changed", bytes(data), "SUBSCRIBE became HEARTBEAT in transit")
    body = good[:-4]
    zlib_crc = struct.pack(">I", zlib.crc32(body))
    bad("zlib", body + zlib_crc, "CRC32 as in zlib", ["pitfalls-04"])
    little = struct.pack("<I", wire.crc32c(body))
    bad("little-endian", body + little, "the wrong byte order", ["frames-06", "pitfalls-04"])
    bad("payload-only", body + struct.pack(">I", wire.crc32c(body[8:])), "without the header")
    bad("zero", body + b"\0\0\0\0")
    skipped = bytearray(frame(0x99, b"later"))
    skipped[-1] ^= 1
    bad("of-an-unknown-type", bytes(skipped), "checked also if it is skipped", ["frames-23"])


def _orders(cases):
    """Frames with two faults: the first check counts."""

    def first(name, data, error, after, **terms):
        sentences = ["frames-18", "frames-19"]
        cases.bad(f"order-{name}", sentences, data, error, after, **terms)

    first("magic-version", b"\xf5\x7e\x02\x7f", "BAD_MAGIC", 2)
    first("version-type", b"\xf5\x7d\x02\x7f" + b"\xff" * 4, "UNSUPPORTED_VERSION", 3)
    first("type-length", b"\xf5\x7d\x01\x7f" + b"\xff" * 4, "UNKNOWN_TYPE", 4, reader="edge")
    first("length-checksum", b"\xf5\x7d\x01\x03" + b"\xff" * 12, "MESSAGE_TOO_LARGE", 8)
    data = bytearray(frame(2, b"\x08"))
    data[-1] ^= 1
    first("checksum-payload", bytes(data), "BAD_CHECKSUM", len(data))


def _unknown(cases):
    for type_byte in 0x81, 0xFF:
        data = frame(type_byte, b"\xff\xff\xff")
        sentences = ["frames-23", "compat-03"]
        why = "skipped, whatever its payload"
        cases.good(f"type-{type_byte:02x}", sentences, data, why)


def _streams():
    """Streams that a reader must read in the same way however they are cut."""
    sentences = ["frames-01", "session-37", "pitfalls-01", "pitfalls-02"]
    client = [
        message("AUTH", username="stream_user", password="stream_pass"),
        message("SUBSCRIBE"),
        frame(0x99, b"later"),
        message("HEARTBEAT", client_time_us=1_500_000),
        message("HEARTBEAT"),
    ]
    ticks = [{"epoch_ms": EPOCH_MS + 1_000 * n} for n in (1, 2)]
    edge = [
        message("ACK", acked_type=1, edge_id="edge-0"),
        message("ACK", acked_type=2, start_epoch_ms=EPOCH_MS),
        message("DATA_BATCH", schema_version=1, ticks=ticks),
        frame(0x44, b"unknown"),
        message("PONG", client_time_us=1_500_000, error_bound_us=UINT32_MAX),
        message("GOING_AWAY", deadline_ms=12_000),
    ]
    bad_crc = edge[2][:-1] + b"\0"
    found = []
    for name, side, frames in (
        ("of-a-client", "edge", client),
        ("of-a-client-then-http", "edge", [*client[:2], b"GET / HTTP/1.1\r\n"]),
        ("of-an-edge", "client", edge),
        ("of-an-edge-bad-checksum", "client", [*edge[:2], bad_crc, edge[4]]),
        ("of-an-edge-cut-off", "client", [*edge[:2], edge[2][:11]]),
    ):
        data = b"".join(frames)
        reader = Reader(side).feed(data)
        stream = {
            "id": f"frames/stream-{name}",
            "sentence": sentences,
            "reader": side,
            "hex": data.hex(),
            "frames": [decoded(*each) for each in reader.frames],
        }
        if reader.error:
            stream.update(error=reader.error, after_bytes=reader.position)
        found.append(stream)
    return found
