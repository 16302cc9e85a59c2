"""Sessions in which a client is tested: the client_sessions of sessions.json."""

from . import wire
from .client_model import CODES, Client
from .samples import CONNECTION_ID, COOKIE, EPOCH_MS
from .wire import frame, message

TIMING = {"heartbeat_interval_ms": 15_000, "heartbeat_timeout_ms": 20_000}
WELCOME = {"acked_type": 1, "edge_id": "edge-0", "protocol_minor": 1, **TIMING}
ACK_AUTH = message("ACK", connection_id=CONNECTION_ID, frame_rate_limit=10, **WELCOME)


def ack(start_ms=0):
    """Returns the ACK of a SUBSCRIBE whose ticks start `start_ms` after the base."""
    start = EPOCH_MS + start_ms
    return message("ACK", acked_type=2, start_epoch_ms=start, protocol_minor=1, **TIMING)


def batch(*epochs_ms, mode="SECOND", quality="NORMAL", schema_version=1):
    """Returns a batch with ticks at these times after the base."""
    ticks = [{"mode": mode, "epoch_ms": EPOCH_MS + ms, "quality": quality} for ms in epochs_ms]
    sent = (EPOCH_MS + max(epochs_ms, default=0)) * 1_000 + 42
    return message("DATA_BATCH", schema_version=schema_version, ticks=ticks, sent_unix_us=sent)


def error(code, **more):
    return message("ERROR", code=code, message="for people", **more)


OPEN = [ACK_AUTH, ack()]


def generate():
    """Returns the list of client_sessions."""
    sessions = _Sessions()
    for add in (_openings, _ids_and_cookies, _ticks, _later_minors, _breaches, _not_breaches, _ends,
                _codes, _switches):
        add(sessions)
    return sessions.found


class _Sessions:
    def __init__(self):
        self.found = []

    def add(self, name, sentences, frames, why=None, subscribes=("SECOND",), resume=None,
            closes=None, come_back=None, breach=False):
        """Adds a session. `come_back` is how it ends, or None if the connection goes on; `breach`
        says that the edge broke the protocol."""
        point = None if resume is None else EPOCH_MS + resume
        data = b"".join(frames)
        client = Client(subscribes, point)
        ends = client.run(data, closes)
        come_back = "at once" if breach else come_back
        assert (ends or {}).get("come_back") == come_back, (name, ends)
        assert (ends or {}).get("broke_the_protocol", False) == breach, (name, ends)
        case = {"id": f"sessions/client-{name}", "sentence": sentences}
        if why:
            case["why"] = why
        case["subscribes"] = [{"mode": mode} for mode in subscribes]
        if resume is not None:
            case["subscribes"][0]["resume_after_epoch_ms"] = str(point)
        case["hex"] = data.hex()
        if closes:
            case["closes"] = closes
        case["events"] = client.events
        if ends:
            case["ends"] = ends
        self.found.append(case)


def _openings(sessions):
    add = sessions.add
    both = ["frames-12", "frames-10", "ticks-03", "messages-11", "session-37"]
    add("opening", both, [*OPEN, batch(1_000), batch(2_000, 3_000)])
    add("minutes", ["ticks-03", "messages-09"],
        [*OPEN, batch(60_000, mode="MINUTE"), batch(120_000, mode="MINUTE")],
        subscribes=["MINUTE"])
    add("no-tick-yet", ["resuming-02"], OPEN, closes="eof", come_back="at once")
    replay = [ACK_AUTH, ack(-4_500), batch(-4_000, -3_000, quality="REPLAY"),
              batch(-2_000, -1_000, 0)]
    add("resumes", ["resuming-01", "resuming-14", "messages-18"], replay, resume=-4_500)
    why = "the loop over `ticks` must not stop at the first"
    add("caught-up", ["ticks-10"], [*OPEN, batch(*range(1_000, 31_000, 1_000))], why)
    pong = message("PONG", client_time_us=5, error_bound_us=2**32 - 1)
    why = "an edge that does not know the time answers HEARTBEAT before SUBSCRIBE"
    add("pong-before-ack", ["session-38", "time-15"], [ACK_AUTH, pong, ack(), batch(1_000)], why)
    minor_0 = message("ACK", acked_type=1, edge_id="edge-0", **TIMING)
    why = "an edge of minor 0 sends no connection id, rate or cookie"
    add("minor-0", ["compat-03", "messages-01"], [minor_0, ack(), batch(1_000)], why)


def _ids_and_cookies(sessions):
    for name, text in (
        ("of-40", "x" * 40),
        ("of-41", "x" * 41),
        ("with-a-space", "two words"),
        ("with-a-newline", "4821\n"),
        ("with-an-escape", "\x1b[2J"),
        ("with-an-umlaut", "é"),
    ):
        welcome = message("ACK", connection_id=text, **WELCOME)
        ended = error("INTERNAL", connection_id=text)
        sessions.add(f"id-{name}", ["session-21"], [welcome, ack(), ended], come_back="later")
    for length in 1, 41, 64, 65, 4_000:
        cookie = (COOKIE * 100)[:length]
        welcome = message("ACK", cookie=cookie, **WELCOME)
        sentences = ["cookies-03", "cookies-04", "errors-32"]
        sessions.add(f"cookie-of-{length}", sentences, [welcome, ack(), batch(1_000)])


def _ticks(sessions):
    add = sessions.add
    gap = ["ticks-05", "ticks-06", "errors-32"]
    add("gap", gap, [*OPEN, batch(1_000), batch(5_000)])
    add("gap-within-a-batch", gap, [*OPEN, batch(1_000, 2_000, 9_000)])
    add("gap-after-the-start", gap, [*OPEN, batch(2_000)])
    add("gap-of-minutes", gap,
        [*OPEN, batch(60_000, mode="MINUTE"), batch(180_000, mode="MINUTE")],
        subscribes=["MINUTE"])
    why = "the edge replays from 10 s after the resume point"
    late = [ACK_AUTH, ack(10_000), batch(11_000, 12_000)]
    add("start-later-than-the-resume-point", ["resuming-08", "errors-32"], late, why, resume=0)
    why = "the resume point is between two ticks, and the next tick follows without a gap"
    middle = [ACK_AUTH, ack(500), batch(1_000, 2_000)]
    add("resume-between-ticks", ["resuming-14"], middle, why, resume=500)
    why = "ticks at or before the resume point are not sent, and no gap is reported"
    future = [ACK_AUTH, ack(10_000), batch(11_000)]
    add("resume-in-the-future", ["resuming-15"], future, why, resume=10_000)


def _later_minors(sessions):
    """Frames and fields that a later revision may add."""
    add, later = sessions.add, ["compat-03"]
    add("unknown-types", [*later, "frames-23", "frames-24"],
        [frame(0x44, b"\xff"), ACK_AUTH, frame(0x99, b"later"), ack(), frame(0x08), batch(1_000)])
    other = message("ACK", acked_type=9, edge_id="edge-0")
    add("unknown-ack", later, [ACK_AUTH, other, ack(), other, batch(1_000)])
    tick = {"epoch_ms": EPOCH_MS + 1_000, "quality": 7}
    data = message("DATA_BATCH", schema_version=1, ticks=[tick])
    add("unknown-quality", [*later, "messages-19"], [*OPEN, data])
    payload = wire.encode(wire.FIELDS["ACK"], {**WELCOME, "protocol_minor": 200})
    more = frame(6, payload + wire.delimited(77, b"later"))
    add("unknown-fields", [*later, "messages-02"], [more, ack(), batch(1_000)])


def _breaches(sessions):
    def breach(name, frames, extra=(), **more):
        sentences = ["errors-28", "errors-29", *extra]
        sessions.add(f"breach-{name}", sentences, frames, breach=True, **more)

    good = batch(2_000)
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    kept = ["errors-30"]
    breach("magic", [*OPEN, batch(1_000), b"HTTP/1.1 400 Bad Request\r\n"], kept)
    breach("version", [*OPEN, batch(1_000), frame(4, version=2)], kept)
    breach("length", [*OPEN, frame(4, b"\0" * 65_537)[:8]], ["frames-17"])
    breach("checksum", [*OPEN, batch(1_000), flipped], kept)
    breach("checksum-of-the-first", [ACK_AUTH[:-1] + b"\0"])
    breach("payload", [*OPEN, frame(4, b"\x08\x01\x12\x07\x10\xe8")])
    for name in "AUTH", "SUBSCRIBE", "HEARTBEAT":
        breach(f"sends-{name.lower()}", [*OPEN, batch(1_000), message(name)], kept)
    breach("ack-of-auth-again", [*OPEN, ACK_AUTH])
    breach("ack-of-subscribe-again", [*OPEN, ack()])
    breach("ack-of-subscribe-first", [ack(), ACK_AUTH])
    breach("batch-before-the-acks", [batch(1_000)])
    breach("batch-before-the-ack", [ACK_AUTH, batch(1_000)])
    breach("batch-empty", [*OPEN, message("DATA_BATCH", schema_version=1)], ["frames-10"])
    breach("other-mode", [*OPEN, batch(60_000, mode="MINUTE")], ["ticks-03"])
    breach("unknown-mode", [*OPEN, batch(60_000, mode=2)])
    breach("tick-again", [*OPEN, batch(1_000), batch(1_000)], [*kept, "ticks-03"])
    breach("tick-back", [*OPEN, batch(2_000), batch(1_000)], ["ticks-03"])
    breach("tick-again-in-a-batch", [*OPEN, batch(1_000, 2_000, 2_000)], ["ticks-03"])
    breach("tick-at-the-start", [*OPEN, batch(0)], ["ticks-04"])
    why = "the second of two frames that arrive together is bad; the first counts"
    frames = [*OPEN, batch(1_000) + flipped]
    sessions.add("breach-after-a-tick", kept, frames, why, breach=True)
    frames = [*OPEN, batch(1_000, schema_version=2)]
    why = "its ticks may mean something else"
    sessions.add("unknown-schema", ["errors-31"], frames, why, come_back="no")


def _not_breaches(sessions):
    add, sentences = sessions.add, ["errors-32"]
    away = [message("GOING_AWAY", deadline_ms=ms, reason="x") for ms in (12_000, 8_000, 0)]
    add("going-away-again", [*sentences, "frames-14"], [*OPEN, *away, batch(1_000)])
    senseless = [
        message("PONG", client_time_us=2**63 - 1, received_unix_us=1, sent_unix_us=-1),
        message("PONG", client_time_us=-(2**63), received_unix_us=2**63 - 1, sent_unix_us=1),
        message("PONG"),
    ]
    add("senseless-pongs", sentences, [*OPEN, *senseless, batch(1_000)])
    why = "ticks between the seconds are handed out as they are, and are no gap"
    add("ticks-off-the-grid", sentences, [*OPEN, batch(1_000, 1_500), batch(2_000)], why)
    extremes = message("ACK", acked_type=2, start_epoch_ms=2**63 - 1)
    add("start-at-the-end-of-time", sentences, [ACK_AUTH, extremes])
    away = message("GOING_AWAY", deadline_ms=2**32 - 1)
    add("going-away-in-49-days", sentences, [*OPEN, away, batch(1_000)])


def _ends(sessions):
    add, cut = sessions.add, ["errors-27"]
    for closes in "eof", "reset":
        add(f"ends-{closes}", cut, [*OPEN, batch(1_000)], closes=closes, come_back="at once")
    frames = [*OPEN, batch(1_000), batch(2_000)[:17]]
    add("ends-within-a-frame", [*cut, "pitfalls-02"], frames, closes="eof", come_back="at once")
    add("ends-before-the-first-ack", cut, [], closes="eof", come_back="at once")
    frames = [*OPEN, error("INTERNAL"), batch(1_000), b"rubbish"]
    why = "ERROR is the last frame; what follows does not count"
    add("after-the-error", ["frames-11"], frames, why, come_back="later")


def _codes(sessions):
    rows = {}
    for number, code in enumerate(CODES, start=2):
        # INVALID_SUBSCRIPTION has two rows in the table of errors.
        rows[code] = f"errors-{number + (number > 13):02}"
    for code, (come_back, (_, hint)) in CODES.items():
        title = code.lower().replace("_", "-")
        ended = error(code, retry_after_ms=hint, connection_id=CONNECTION_ID)
        frames = [*OPEN, batch(1_000), ended]
        if come_back == "no":
            frames = [ACK_AUTH, ended] if code == "INVALID_SUBSCRIPTION" else [ended]
        sessions.add(f"error-{title}", [rows[code], "frames-22"], frames, come_back=come_back)
    ended = error("INVALID_SUBSCRIPTION", retry_after_ms=1_500)
    sentences = ["errors-14", "errors-26"]
    sessions.add("error-invalid-resume-point", sentences, [ACK_AUTH, ended], resume=0,
                 come_back="once more with it, then without")
    ended = error("INVALID_SUBSCRIPTION")
    sessions.add("error-invalid-mode", ["errors-13", "errors-26"], [ACK_AUTH, ended],
                 come_back="no")
    ended = error("NEW_TROUBLE", retry_after_ms=3_000)
    sessions.add("error-unknown-code", ["errors-27"], [*OPEN, ended], come_back="later")
    ended = message("ERROR", code="BAD_CHECKSUM", message="AUTH_FAILED: password wrong")
    sessions.add("error-message-differs", ["errors-25"], [*OPEN, ended], come_back="at once")
    ended = message("ERROR", code="bad_checksum")
    sessions.add("error-code-in-lower-case", ["errors-25", "errors-27"], [*OPEN, ended],
                 "not a code of version 1", come_back="later")


def _switches(sessions):
    """Two SUBSCRIBEs that were both sent before anything arrived."""
    frames = [*OPEN, batch(1_000), batch(2_000), ack(2_000),
              batch(60_000, mode="MINUTE"), batch(120_000, mode="MINUTE")]
    sentences = ["session-31", "session-32"]
    sessions.add("mode-switch", sentences, frames, subscribes=["SECOND", "MINUTE"])
    frames = [*OPEN, ack(2_000), batch(3_000)]
    sessions.add("old-mode-after-the-switch", sentences, frames, breach=True,
                 subscribes=["SECOND", "MINUTE"])
    frames = [*OPEN, batch(60_000, mode="MINUTE")]
    sessions.add("new-mode-before-the-ack", sentences, frames, breach=True,
                 subscribes=["SECOND", "MINUTE"])
