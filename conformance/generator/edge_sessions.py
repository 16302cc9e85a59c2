"""Sessions in which an edge is tested: the edge_sessions of sessions.json."""

from . import wire
from .samples import COOKIE
from .wire import frame, message

AUTH = message("AUTH", username="stream_user", password="stream_pass")
SECOND = message("SUBSCRIBE")
MINUTE = message("SUBSCRIBE", mode="MINUTE")
QUICK = {"heartbeat_interval_ms": 1_500, "heartbeat_timeout_ms": 2_000}
BURST = [message("HEARTBEAT", client_time_us=n) for n in range(1, 301)]


def generate():
    """Returns the list of edge_sessions."""
    sessions = []
    for add in (_openings, _credentials, _first_frames, _headers, _after_auth, _subscriptions,
                _earlier_schema, _resume_points, _replays, _timeouts, _rates, _without_time):
        add(sessions)
    return sessions


def _session(sessions, name, sentences, steps, why=None, **edge):
    case = {"id": f"sessions/edge-{name}", "sentence": sentences}
    if why:
        case["why"] = why
    if edge:
        case["edge"] = edge
    case["steps"] = steps
    sessions.append(case)


def _client(*frames, at_ms=0, **more):
    return {"at_ms": at_ms, "from": "client", "hex": b"".join(frames).hex(), **more}


def _edge(kind, at_ms=None, count=None, **payload):
    step = {"from": "edge", "type": kind}
    if at_ms:
        step["at_ms"] = at_ms
    if count:
        step["count"] = count
    step["payload"] = payload
    return step


def _ack(number, **payload):
    return _edge("ACK", acked_type=number, protocol_minor=1, **payload)


def _error(code, at_ms=None, **payload):
    return {**_edge("ERROR", at_ms, code=code, **payload), "closes": True}


def _openings(sessions):
    opening = [AUTH, SECOND, message("HEARTBEAT", client_time_us=42)]
    timing = {"heartbeat_interval_ms": 15_000, "heartbeat_timeout_ms": 20_000}
    answers = [
        _ack(1, frame_rate_limit=10, connection_id="$id", **timing),
        _ack(2, **timing),
        _edge("PONG", client_time_us="42"),
    ]
    sentences = ["frames-07", "frames-12", "frames-13", "messages-07", "messages-11", "session-01",
                 "session-06", "session-19", "session-24", "session-37", "session-38"]
    _session(sessions, "one-segment", sentences, [_client(*opening), *answers])
    for size in 1, 7:
        steps = [_client(*opening, pieces_of=size), *answers]
        name = f"pieces-of-{size}"
        _session(sessions, name, ["session-37", "pitfalls-01"], steps)
    steps = []
    for client, answer in zip(opening, answers):
        steps += [_client(client), answer]
    _session(sessions, "step-by-step", ["session-38", "frames-13"], steps)
    beats = [message("HEARTBEAT", client_time_us=n) for n in (5, -1, 2**63 - 1)]
    pongs = [_edge("PONG", client_time_us=n) for n in ("5", "-1", str(2**63 - 1))]
    steps = [_client(AUTH, *beats, message("HEARTBEAT")), _ack(1), *pongs, _edge("PONG")]
    _session(sessions, "echoes", ["messages-07", "messages-08", "frames-09"], steps)


def _credentials(sessions):
    def login(name, sentences, answer, why=None, **auth):
        steps = [_client(message("AUTH", **auth)), answer]
        _session(sessions, name, sentences, steps, why)

    user = {"username": "stream_user", "password": "stream_pass"}
    wrong = _error("AUTH_FAILED", connection_id="$id")
    failed = ["session-04", "errors-09", "session-19"]
    login("wrong-password", failed, wrong, username="stream_user", password="stream_pasS")
    login("wrong-user", failed, wrong, username="Stream_user", password="stream_pass")
    login("no-credentials", failed, wrong)
    login("token", ["messages-05"], _ack(1), token="s3cret")
    login("wrong-token", failed, wrong, token="s3creT")
    why = "a token replaces username and password, which are then ignored"
    login("wrong-token-right-password", ["messages-05"], wrong, why, token="x", **user)
    login("right-token-wrong-password", ["messages-05"], _ack(1), why, token="s3cret", password="x")
    ignored = ["cookies-07"]
    login("cookie-of-65-bytes", ignored, _ack(1), cookie=b"\1" * 65, **user)
    login("cookie-that-is-not-valid", ignored, _ack(1), cookie=COOKIE[:-1] + b"\0", **user)
    login("cookie-of-another-version", ignored, _ack(1), cookie=b"\2" + COOKIE[1:], **user)
    why = "a valid cookie for this user, but the wrong password"
    login("cookie-wrong-password", ["cookies-08"], wrong, why, cookie=COOKIE,
          username="stream_user", password="x")
    login("cookie-alone", ["cookies-08"], wrong, cookie=COOKIE)
    long = message("AUTH", client_id="i" * 200, client_version="\u2603" * 200, **user)
    _session(sessions, "long-client-id", ["messages-05"], [_client(long), _ack(1)])
    data = wire.encode(wire.FIELDS["AUTH"], user) + wire.delimited(99, b"later")
    steps = [_client(frame(1, data)), _ack(1)]
    _session(sessions, "auth-with-an-unknown-field", ["messages-02"], steps)


def _first_frames(sessions):
    required = _error("AUTH_REQUIRED", connection_id="$id")
    sentences = ["session-01", "session-02", "errors-08"]
    for name, data in (
        ("subscribe", SECOND),
        ("heartbeat", message("HEARTBEAT", client_time_us=5)),
        ("malformed-subscribe", frame(2, b"\x08")),
        ("ack", message("ACK", acked_type=1)),
        ("going-away", message("GOING_AWAY", deadline_ms=1)),
    ):
        _session(sessions, f"first-is-{name}", sentences, [_client(data), required])
    steps = [_client(frame(0x99, b"later")), required]
    _session(sessions, "first-is-unknown", ["frames-25"], steps)
    steps = [_client(frame(1, b"\x0a\x05abc")), _error("MALFORMED_PAYLOAD")]
    _session(sessions, "malformed-auth", ["errors-07"], steps)


def _headers(sessions):
    """Each error of a frame, as the first frame and after AUTH."""
    flipped = bytearray(SECOND)
    flipped[-1] ^= 1
    too_large = frame(1, b"\0" * 4_097)[:8]
    for name, data, code, payload, row in (
        ("bad-magic", b"G", "BAD_MAGIC", {}, "errors-02"),
        ("bad-magic-2", b"\xf5\x7e", "BAD_MAGIC", {}, "errors-02"),
        ("version-2", b"\xf5\x7d\x02", "UNSUPPORTED_VERSION", {"supported_versions": [1]},
         "errors-03"),
        ("unknown-type", b"\xf5\x7d\x01\x10", "UNKNOWN_TYPE", {}, "errors-04"),
        ("too-large", too_large, "MESSAGE_TOO_LARGE", {}, "errors-05"),
        ("bad-checksum", bytes(flipped), "BAD_CHECKSUM", {}, "errors-06"),
    ):
        sentences = ["frames-18", "frames-19", "frames-22", row]
        why = "the bytes end where the error is certain, and the edge does not wait for more"
        error = _error(code, connection_id="$id", **payload)
        steps = [_client(data), error]
        first = [*sentences, "frames-20", "frames-11"]
        _session(sessions, f"first-{name}", first, steps, why)
        steps = [_client(AUTH), _ack(1, connection_id="$id"), _client(data), error]
        _session(sessions, f"then-{name}", sentences, steps)
    steps = [_client(AUTH, SECOND, b"nonsense"), _ack(1), _ack(2), _error("BAD_MAGIC")]
    _session(sessions, "answers-before-the-error", ["session-38", "frames-11"], steps)


def _after_auth(sessions):
    sentences = ["session-08", "errors-10"]
    error = _error("ALREADY_AUTHENTICATED")
    _session(sessions, "auth-twice", sentences, [_client(AUTH, AUTH), _ack(1), error])
    steps = [_client(AUTH, frame(1, b"\x0a\x05abc")), _ack(1), error]
    _session(sessions, "auth-twice-malformed", sentences, steps)
    for name, data in (
        ("data-batch", message("DATA_BATCH", schema_version=1)),
        ("error", message("ERROR", code="INTERNAL")),
        ("ack", message("ACK", acked_type=1)),
        ("pong-malformed", frame(7, b"\x08")),
    ):
        steps = [_client(AUTH, data), _ack(1), _error("UNEXPECTED_MESSAGE")]
        _session(sessions, f"client-sends-{name}", ["errors-15", "frames-18"], steps)
    beat, pong = message("HEARTBEAT", client_time_us=7), _edge("PONG", client_time_us="7")
    for name, type_byte, size in (("99", 0x99, 5), ("ff", 0xFF, 0), ("80", 0x80, 2)):
        sentences = ["frames-26"] if type_byte == 0x80 else ["frames-23"]
        steps = [_client(AUTH, frame(type_byte, b"\xff" * size), beat), _ack(1), pong]
        _session(sessions, f"skips-{name}", sentences, steps)
    steps = [_client(AUTH, frame(0x90, b"\0" * 65_536), beat), _ack(1), pong]
    _session(sessions, "skips-65536", ["frames-16"], steps)
    steps = [_client(AUTH, frame(0x90, b"\0" * 65_537)[:8]), _ack(1), _error("MESSAGE_TOO_LARGE")]
    _session(sessions, "refuses-65537", ["frames-16", "errors-05"], steps)
    steps = [_client(AUTH, frame(0x90, b"\0" * 4_096), beat), _ack(1), pong]
    _session(sessions, "skips-4096-of-4096", ["frames-16"], steps, max_msg_size=4_096)
    steps = [_client(AUTH, frame(0x90, b"\0" * 4_097)[:8]), _ack(1), _error("MESSAGE_TOO_LARGE")]
    _session(sessions, "refuses-4097-of-4096", ["frames-16"], steps, max_msg_size=4_096)
    steps = [_client(AUTH, frame(3, b"\x08")), _ack(1), _error("MALFORMED_PAYLOAD")]
    _session(sessions, "malformed-heartbeat", ["errors-07"], steps)


def _subscriptions(sessions):
    invalid = _error("INVALID_SUBSCRIPTION")
    for mode in 2, 7, -1:
        sentences = ["errors-13", "compat-04", "session-34", "messages-06"]
        if mode == 2:
            sentences += ["messages-31", "errors-40"]
        steps = [_client(AUTH, message("SUBSCRIBE", mode=mode)), _ack(1), invalid]
        _session(sessions, f"mode-{mode}".replace("--", "-minus-"), sentences, steps)
    steps = [_client(AUTH, SECOND, message("SUBSCRIBE", mode=2)), _ack(1), _ack(2), invalid]
    why = "an invalid SUBSCRIBE closes the connection, although another one was served"
    _session(sessions, "second-subscribe-invalid", ["session-34"], steps, why)
    steps = [_client(AUTH, SECOND, MINUTE, SECOND), _ack(1), _ack(2), _ack(2), _ack(2)]
    _session(sessions, "three-subscribes", ["session-31", "session-38"], steps)


def _earlier_schema(sessions):
    """SUBSCRIBEs that a client of the earlier Go server sends. They decode as ours."""
    invalid = _error("INVALID_SUBSCRIPTION")
    metadata = wire.delimited(1, b"key") + wire.delimited(2, b"value")
    number = wire.varint(1_700_000_000_000)
    for name, payload, why in (
        ("symbols", wire.delimited(2, b"EURUSD"), None),
        ("symbols-of-no-length", wire.delimited(2, b""), None),
        ("start-time", wire.tag(3, 0) + number, None),
        ("start-time-of-0", wire.tag(3, 0) + b"\0", "the field counts, and not its value"),
        ("metadata", wire.delimited(4, metadata), None),
        ("minutes-of-a-symbol", wire.tag(1, 0) + b"\2" + wire.delimited(2, b"EURUSD"), None),
        ("seconds-of-a-symbol", wire.tag(1, 0) + b"\1" + wire.delimited(2, b"EURUSD"),
         "its mode 1 is SECOND there, and MINUTE here"),
        ("field-2-of-type-varint", wire.tag(2, 0) + b"\1", "whatever the type"),
        ("field-2-of-type-fixed64", wire.tag(2, 1) + b"\0" * 8, "whatever the type"),
        ("field-3-of-type-bytes", wire.delimited(3, b"x"), "whatever the type"),
        ("field-4-of-type-fixed32", wire.tag(4, 5) + b"\0" * 4, "whatever the type"),
        ("field-4-after-an-unknown-one", wire.delimited(99, b"later") + wire.tag(4, 0) + b"\1",
         None),
    ):
        steps = [_client(AUTH, frame(2, payload)), _ack(1), invalid]
        _session(sessions, f"earlier-{name}", ["messages-31", "errors-40"], steps, why)
    payload = wire.delimited(99, wire.delimited(2, b"EURUSD"))
    steps = [_client(AUTH, frame(2, payload)), _ack(1), _ack(2)]
    why = "a field 2 within an unknown field is none of the SUBSCRIBE"
    _session(sessions, "field-2-within-another", ["messages-31", "messages-02"], steps, why)


def _subscribe_from(offset_ms):
    """A step in which the client subscribes with a resume point so long after the present."""
    return {"at_ms": 0, "from": "client", "type": "SUBSCRIBE", "payload": {},
            "resume_after_now_ms": offset_ms}


def _resume_points(sessions):
    """Resume points near the present, which only an edge that knows the time can judge."""

    def resume(name, sentences, offset_ms, answer):
        request = _subscribe_from(offset_ms)
        _session(sessions, name, sentences, [_client(AUTH), _ack(1), request, answer])

    point = {"start": "resume_point"}
    resume("resume-10-s-ago", ["resuming-01", "resuming-07"], -10_000, {**_ack(2), **point})
    resume("resume-at-no-tick", ["resuming-14"], -10_123, {**_ack(2), **point})
    resume("resume-10-s-ahead", ["resuming-15"], 10_000, {**_ack(2), **point})
    window = {"start": "window"}
    resume("resume-an-hour-ago", ["resuming-06", "resuming-07"], -3_600_000, {**_ack(2), **window})
    too_far = _error("INVALID_SUBSCRIPTION")
    resume("resume-20-s-ahead", ["resuming-16", "errors-14"], 20_000, too_far)
    steps = [_client(AUTH, SECOND), _ack(1), {**_ack(2), "start": "now"}]
    _session(sessions, "without-a-resume-point", ["ticks-08"], steps)
    ahead = message("SUBSCRIBE", mode="SECOND", ahead=True)
    steps = [_client(AUTH, ahead), _ack(1), {**_ack(2), "start": "now"}]
    _session(sessions, "ahead-without-a-resume-point", ["ticks-08"], steps)


def _replays(sessions):
    full = _subscribe_from(-590_000)
    served = {**_ack(2), "start": "resume_point"}
    steps = [_client(AUTH), _ack(1), full, served, full, served]
    why = "1,180 ticks of the 1,200 that a connection may ask for in a minute"
    _session(sessions, "two-full-replays", ["resuming-09"], steps, why)
    steps = [*steps, full, _error("RATE_LIMITED")]
    why = "the third one is more than the connection may ask for"
    _session(sessions, "three-full-replays", ["resuming-11", "errors-16"], steps, why)


def _timeouts(sessions):
    sentences = ["session-03", "errors-11"]
    timeout = _error("AUTH_TIMEOUT", [5_000, 5_500], connection_id="$id")
    _session(sessions, "half-an-auth", sentences, [_client(AUTH[:20]), timeout])
    steps = [_client(AUTH[:20]), _client(AUTH[20:30], at_ms=3_000), timeout]
    why = "the time counts from accept, not from the last byte"
    _session(sessions, "auth-in-drops", sentences, steps, why)
    steps = [_client(b"", at_ms=0), _error("AUTH_TIMEOUT", [5_000, 5_500])]
    _session(sessions, "no-auth", sentences, steps)

    sentences = ["session-16", "session-17", "errors-17"]

    def silent(name, steps, at_ms, why=None, **edge):
        error = _error("HEARTBEAT_TIMEOUT", [at_ms, at_ms + 500], connection_id="$id")
        first = [_client(AUTH), _ack(1, connection_id="$id")]
        _session(sessions, name, sentences, [*first, *steps, error], why, **edge)

    silent("silent", [], 20_000)
    silent("silent-quick", [], 2_000, **QUICK)
    beat = _client(message("HEARTBEAT"), at_ms=1_500)
    silent("one-heartbeat", [beat, _edge("PONG")], 3_500, **QUICK)
    silent("one-subscribe", [_client(SECOND, at_ms=1_500), _ack(2)], 3_500, **QUICK)
    why = "a frame that is skipped is no sign of life"
    silent("one-unknown-frame", [_client(frame(0x99), at_ms=1_500)], 2_000, why, **QUICK)
    half = _client(message("HEARTBEAT")[:6], at_ms=1_500)
    silent("half-a-heartbeat", [half], 2_000, "nor is a part of a frame", **QUICK)


def _rates(sessions):
    opening = [SECOND, *BURST[:8]]
    steps = [_client(AUTH), _ack(1, frame_rate_limit=1), _client(*opening), _ack(2),
             _edge("PONG", count=[8, 8])]
    sentences = ["session-24", "session-29"]
    _session(sessions, "strictest-rate", sentences, steps, frame_rate_limit=1)
    limited = _error("RATE_LIMITED")
    steps = [_client(AUTH), _ack(1), _client(*BURST[:200]), _edge("PONG", count=[200, 200])]
    why = "200 frames may be sent at once; an implementation may send fewer PONGs before ERROR"
    sentences = ["session-24", "session-25"]
    _session(sessions, "burst-of-200", sentences, steps)
    steps = [_client(AUTH), _ack(1), _client(*BURST), _edge("PONG", count=[200, 299]), limited]
    _session(sessions, "burst-of-300", [*sentences, "session-26", "errors-16"], steps)
    many = {**_ack(2), "count": [20, 29]}
    steps = [_client(AUTH), _ack(1), _client(*[SECOND] * 30), many, limited]
    _session(sessions, "burst-of-subscribes", [*sentences, "session-26"], steps)
    steps = [_client(AUTH), _ack(1), _client(*[frame(0x99)] * 300), limited]
    _session(sessions, "burst-of-unknown-frames", ["session-24", "session-26"], steps)


def _without_time(sessions):
    def without(name, sentences, steps):
        _session(sessions, name, sentences, steps, knows_time=False)

    beat = message("HEARTBEAT", client_time_us=5)
    pong = _edge("PONG", client_time_us="5", received_unix_us="0", sent_unix_us="0",
                 error_bound_us=2**32 - 1)
    sentences = ["session-38", "session-40", "errors-22", "time-15"]
    error = _error("NO_TIME", [5_000, 6_000])
    without("no-time", sentences, [_client(AUTH, SECOND, beat), _ack(1), pong, error])
    learns = {"at_ms": 1_000, "edge": "learns_time"}
    steps = [_client(AUTH, SECOND, MINUTE, beat), _ack(1), pong, learns, _ack(2), _ack(2)]
    without("time-comes", ["session-38", "session-39"], steps)
