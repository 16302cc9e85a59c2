"""How a client comes back: reconnect.json."""

from .client_model import CODES
from .samples import COOKIE

# The bounds of consecutive random waits.
BOUNDS_MS = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
OTHER_COOKIE = bytes(range(41))
# The time by which a client may be late, in a test with a clock of its own.
SLACK_MS = 20


def generate():
    """Returns the content of reconnect.json."""
    found = []

    def add(name, sentences, addresses, attempts, why=None, gives_up=False, **more):
        case = {"id": f"reconnect/{name}", "sentence": sentences}
        if why:
            case["why"] = why
        case.update(addresses=addresses, **more)
        case["attempts"] = attempts
        if gives_up:
            case["gives_up"] = True
        found.append(case)

    for fill in (_waits, _hints, _refusals, _first, _no_time, _resume_points, _limits, _cookies,
                 _addresses, _unanswered, _names_refused, _names_without_time):
        fill(add)
    return {"codes": _codes(), "comebacks": found}


def _codes():
    rows = []
    for code, (come_back, hint) in CODES.items():
        row = {"id": f"reconnect/code-{code}", "sentence": ["frames-21", "reconnecting-11"],
               "code": code, "come_back": come_back, "retry_after_ms": hint}
        if code == "INVALID_SUBSCRIPTION":
            row["with_resume_point"] = {"come_back": "once more with it, then without",
                                        "retry_after_ms": [1_100, 2_100]}
        rows.append(row)
    return rows


def _attempt(address, low_ms=0, high_ms=None, **more):
    """An attempt to connect, and the wait before it, from when the last one ended."""
    return {"address": address, "wait_ms": [low_ms, low_ms if high_ms is None else high_ms], **more}


def _error(code, retry_after_ms=0):
    return {"error": {"code": code, "retry_after_ms": retry_after_ms}}


def _serves(ms, ends="eof", **more):
    """An edge that accepts, and serves ticks and the time for `ms` after the ACK of SUBSCRIBE."""
    return {"serves_ms": ms, "ends": ends, **more}


UNREACHABLE = {"unreachable": True}


def _waits(add):
    first = _attempt("a", **_serves(5_000))
    sentences = ["reconnecting-01", "reconnecting-02", "reconnecting-03", "reconnecting-16",
                 "moving-42", "moving-44"]
    failing = [_attempt("a", 0, bound, **UNREACHABLE) for bound in BOUNDS_MS]
    add("waits-double", sentences, ["a"], [first, *failing])
    cut_off = [_attempt("a", 0, bound, **_serves(100)) for bound in BOUNDS_MS]
    why = "connections that are cut off soon count as failures, too"
    add("waits-double-after-short-subscriptions", sentences, ["a"], [first, *cut_off], why)
    attempts = [first, _attempt("a", 0, 1_000, **_serves(29_000)),
                _attempt("a", 0, 2_000, **_serves(31_000)),
                _attempt("a", 0, 1_000, **_serves(1_000)), _attempt("a", 0, 2_000, **UNREACHABLE)]
    add("waits-begin-again-after-30-s", ["reconnecting-04", "moving-43"], ["a"], attempts)
    attempts = [_attempt("a", **_serves(5_000, _error("BAD_CHECKSUM"))),
                _attempt("a", 0, 1_000, **_serves(5_000, _error("SLOW_CONSUMER"))),
                _attempt("a", 0, 2_000, **_serves(5_000, "reset")),
                _attempt("a", 0, 4_000, **_serves(5_000, "bad frame")),
                _attempt("a", 0, 8_000, **UNREACHABLE)]
    add("waits-at-once", ["reconnecting-02", "reconnecting-16", "errors-27", "errors-28"], ["a"],
        attempts, "even *at once* has a random wait")


def _hints(add):
    sentences = ["reconnecting-07", "reconnecting-10"]
    for code, hint in ("SERVER_DRAINING", 250), ("HEARTBEAT_TIMEOUT", 4_321), ("INTERNAL", 10_000):
        attempts = [_attempt("a", **_serves(5_000, _error(code, hint))),
                    _attempt("a", hint, **UNREACHABLE)]
        name = f"hint-{code.lower().replace('_', '-')}"
        add(name, [*sentences, "reconnecting-17"], ["a"], attempts, "the hint itself, no more")
    cut = _attempt("a", **_serves(5_000))
    attempts = [cut, _attempt("a", 0, 1_000, **_serves(0, _error("INTERNAL", 9_000))),
                _attempt("a", 9_000, **_serves(0, _error("INTERNAL", 5))),
                _attempt("a", 5, 4_000, **UNREACHABLE)]
    why = "from the second failure on, the longer of the hint and the random wait"
    add("hint-of-a-second-failure", ["reconnecting-07"], ["a"], attempts, why)
    attempts = [_attempt("a", **_serves(5_000, _error("INTERNAL", 8_000))),
                _attempt("a", 8_000, **UNREACHABLE), _attempt("a", 0, 2_000, **UNREACHABLE)]
    add("hint-counts-once", ["reconnecting-08"], ["a"], attempts)
    attempts = [_attempt("a", **_serves(5_000, _error("INTERNAL", 2**32 - 1))),
                _attempt("a", 60_000, **UNREACHABLE)]
    add("hint-of-49-days", ["reconnecting-09"], ["a"], attempts)
    attempts = [_attempt("a", **_serves(5_000, _error("NEW_TROUBLE", 3_000))),
                _attempt("a", 3_000, **UNREACHABLE)]
    add("hint-of-an-unknown-code", ["errors-27"], ["a"], attempts)
    attempts = [_attempt("a", **_serves(5_000, _error("SERVER_DRAINING", 400))),
                _attempt("b", 400, **_serves(5_000))]
    add("hint-to-another-edge", ["reconnecting-18", "errors-21"], ["a", "b"], attempts)


def _refused(code="AUTH_FAILED"):
    return {**_error(code), "answers": "AUTH"}


def _refusals(add):
    attempts = [_attempt("a", **_serves(5_000)), _attempt("a", 0, 1_000, **_refused()),
                _attempt("a", 60_000, 61_000, **_refused()),
                _attempt("a", 60_000, 62_000, **_refused()),
                _attempt("a", 60_000, 64_000, **_serves(1_000)),
                _attempt("a", 0, 16_000, **_refused()),
                _attempt("a", 60_000, 61_000, **UNREACHABLE)]
    why = "refusals are counted until a subscription is made there"
    sentences = ["reconnecting-13", "reconnecting-15", "moving-47"]
    add("no-with-one-address", sentences, ["a"], attempts, why)
    attempts = [_attempt("a", **_serves(5_000)), _attempt("b", 0, 1_000, **_refused()),
                _attempt("a", 0, 2_000, **_serves(5_000)),
                _attempt("a", 0, 4_000, **_serves(5_000))]
    why = "b is left alone for 60 s, and a is tried meanwhile"
    sentences = ["reconnecting-14", "reconnecting-30", "moving-31"]
    add("no-with-two-addresses", sentences, ["a", "b"], attempts, why)
    attempts = [_attempt("a", **_serves(5_000, _error("AUTH_FAILED"))),
                _attempt("b", 0, 1_000, **_serves(5_000)), _attempt("b", 0, 2_000, **UNREACHABLE)]
    why = "the code *no* ends a subscription, for instance after the password has been changed"
    add("no-ends-a-subscription", ["moving-31", "reconnecting-30"], ["a", "b"], attempts, why)
    attempts = [_attempt("a", **_serves(5_000)), _attempt("b", 0, 1_000, **_refused()),
                _attempt("a", 0, 2_000, **_serves(5_000)), _attempt("a", 0, 4_000, **_refused()),
                _attempt("b", 49_000, 56_000, **_serves(5_000))]
    why = "both rest, and b is free first: 60 to 61 s after its refusal, which came 5 s before a's"
    add("no-everywhere", ["reconnecting-30"], ["a", "b"], attempts, why)


def _first(add):
    sentences = ["reconnecting-33", "moving-27"]
    attempts = [_attempt("a", **_refused()), _attempt("b", **UNREACHABLE),
                _attempt("c", **_serves(5_000))]
    add("first-tries-each", sentences, ["a", "b", "c"], attempts)
    attempts = [_attempt("a", **_refused()), _attempt("b", **_refused())]
    add("first-gives-up", sentences, ["a", "b"], attempts, gives_up=True)
    attempts = [_attempt("a", **UNREACHABLE), _attempt("b", **UNREACHABLE)]
    add("first-unreachable", sentences, ["a", "b"], attempts, gives_up=True)


def _timeless(hint):
    return {**_error("NO_TIME", hint), "answers": "SUBSCRIBE"}


def _no_time(add):
    first = ["reconnecting-34", "moving-28"]
    attempts = [_attempt("a", **_timeless(3_000)), _attempt("a", 3_000, **_timeless(200)),
                _attempt("a", 1_000, **_serves(5_000))]
    add("no-time-at-first", first, ["a"], attempts, "but not within 1 s")
    attempts = [_attempt("a", **_timeless(5_000)), _attempt("b", **_timeless(2_000)),
                _attempt("b", 2_000, **_serves(5_000))]
    add("no-time-at-two-edges", first, ["a", "b"], attempts)
    attempts = [_attempt("a", **_timeless(4_000)), _attempt("b", **_refused()),
                _attempt("a", 4_000, **_serves(5_000))]
    add("no-time-and-no", first, ["a", "b"], attempts)
    ends = _error("NO_TIME", 5_000)
    attempts = [_attempt("a", **_serves(5_000, ends)), _attempt("b", 1, 500, **_serves(5_000))]
    again = ["reconnecting-19", "reconnecting-20"]
    add("no-time-with-two-addresses", [*again, "moving-50"], ["a", "b"], attempts)
    attempts = [_attempt("a", **_serves(5_000, ends)), _attempt("b", 1, 500, **UNREACHABLE),
                _attempt("b", 0, 2_000, **UNREACHABLE)]
    why = "the address of the edge without the time is left alone for 5 s"
    add("no-time-rests", [*again, "reconnecting-30"], ["a", "b"], attempts, why)
    attempts = [_attempt("a", **_serves(5_000, ends)), _attempt("a", 1, 500, **_timeless(4_000)),
                _attempt("a", 4_000, **_timeless(9_000)), _attempt("a", 9_000, **_serves(5_000))]
    why = "once to the same address, which may be that of a balancer; then as the hints say"
    sentences = ["reconnecting-21", "reconnecting-19", "moving-50", "moving-51"]
    add("no-time-with-one-address", sentences, ["a"], attempts, why)


def _resume_points(add):
    last, none = {"resume_after": "last tick"}, {"resume_after": None}
    attempts = [_attempt("a", **none, **_serves(5_000)),
                _attempt("a", 0, 1_000, **last, **_serves(5_000)),
                _attempt("a", 0, 2_000, **last, **_serves(5_000))]
    add("resumes-after-the-last-tick", ["resuming-01", "moving-29"], ["a"], attempts)
    start = {"resume_after": "start"}
    attempts = [_attempt("a", **none, **_serves(100)),
                _attempt("a", 0, 1_000, **start, **UNREACHABLE),
                _attempt("a", 0, 2_000, **start, **_serves(5_000)),
                _attempt("a", 0, 4_000, **last, **_serves(5_000))]
    why = "no tick comes within the first 100 ms"
    add("resumes-from-the-start", ["resuming-02", "moving-43"], ["a"], attempts, why, mode="MINUTE")
    refused = {**_error("INVALID_SUBSCRIPTION", 1_500), "answers": "SUBSCRIBE"}
    attempts = [_attempt("a", **_serves(5_000)), _attempt("a", 0, 1_000, **last, **refused),
                _attempt("a", 1_500, 2_000, **last, **refused),
                _attempt("a", 1_500, 4_000, **none, **_serves(5_000)),
                _attempt("a", 0, 8_000, **last, **_serves(5_000))]
    sentences = ["reconnecting-23", "reconnecting-24", "moving-45", "moving-46"]
    add("resume-point-refused-twice", sentences, ["a"], attempts)
    attempts = [_attempt("a", **_serves(5_000)), _attempt("a", 0, 1_000, **last, **refused),
                _attempt("a", 1_500, 2_000, **last, **_serves(5_000)),
                _attempt("a", 0, 4_000, **last, **refused),
                _attempt("a", 1_500, 8_000, **last, **_serves(5_000))]
    why = "a resume point that was accepted has both attempts again"
    add("resume-point-refused-once", sentences[:2], ["a"], attempts, why)
    stepped = _error("TIME_STEPPED", 700)
    attempts = [_attempt("a", **_serves(5_000, stepped)),
                _attempt("a", 700, **none, **_serves(5_000))]
    add("time-stepped", ["reconnecting-26", "moving-30", "errors-19"], ["a"], attempts)
    attempts = [_attempt("a", **_serves(5_000, stepped)),
                _attempt("a", 700, **none, authority_jumps_ms=-60_000, **_serves(5_000))]
    why = "the times come again, and are no repetition"
    add("ticks-come-again", ["reconnecting-27"], ["a"], attempts, why)
    attempts = [_attempt("a", **_serves(5_000, "bad frame")),
                _attempt("a", 0, 1_000, **last, **_serves(5_000))]
    add("resumes-after-a-breach", ["errors-28", "errors-30"], ["a"], attempts)
    attempts = [_attempt("a", **_serves(5_000, "other schema")),
                _attempt("a", 60_000, 61_000, **last, **_serves(5_000))]
    add("unknown-schema", ["errors-31"], ["a"], attempts)


def _limits(add):
    """Edges that do not answer."""
    silent = {"silent_after": "connect", "gives_up_ms": [10_000, 10_000 + SLACK_MS]}
    attempts = [_attempt("a", **_serves(5_000)), _attempt("b", 0, 1_000, **silent),
                _attempt("a", 0, 2_000, **_serves(5_000))]
    add("no-answer-to-auth", ["session-45", "session-05"], ["a", "b"], attempts)
    slow = {"ack_of_auth_after_ms": 9_000}
    attempts = [_attempt("a", **slow, **_serves(5_000)), _attempt("a", 0, 1_000, **UNREACHABLE)]
    why = "an edge may delay the answer to AUTH by a little more than 8 s"
    add("slow-answer-to-auth", ["session-05"], ["a"], attempts, why)
    silent = {"silent_after": "ACK of AUTH", "gives_up_ms": [8_000, 8_000 + SLACK_MS]}
    attempts = [_attempt("a", **_serves(5_000)), _attempt("b", 0, 1_000, **silent),
                _attempt("a", 0, 2_000, **_serves(5_000))]
    why = "PONGs without a time arrive meanwhile"
    add("no-answer-to-subscribe", ["session-46"], ["a", "b"], attempts, why)
    slow = {"ack_of_subscribe_after_ms": 7_000}
    attempts = [_attempt("a", **slow, **_serves(5_000)), _attempt("a", 0, 1_000, **UNREACHABLE)]
    add("slow-answer-to-subscribe", ["session-46"], ["a"], attempts)
    old = {"protocol_minor": 0, "ack_of_subscribe_after_ms": 100_000}
    attempts = [_attempt("a", **old, **_serves(5_000)), _attempt("a", 0, 1_000, **UNREACHABLE)]
    why = "an edge of minor 0 never sends NO_TIME, and it is the only one"
    add("minor-0-alone", ["session-46"], ["a"], attempts, why)
    old = {"protocol_minor": 0, **silent}
    attempts = [_attempt("a", **_serves(5_000)), _attempt("b", 0, 1_000, **old),
                _attempt("a", 0, 2_000, **_serves(5_000))]
    add("minor-0-and-another", ["session-46"], ["a", "b"], attempts)
    beats = {"heartbeats": {"within_ms": 1_500, "count": [1, 1]}}
    many = {"heartbeats": {"within_ms": 1_500, "count": [8, 9]}}
    attempts = [_attempt("a", **many, **_serves(5_000, _error("RATE_LIMITED", 1_000))),
                _attempt("a", 1_000, **beats, **_serves(5_000))]
    add("sparing-after-rate-limited", ["session-30", "errors-16"], ["a"], attempts)


def _cookies(add):
    one, other = COOKIE.hex(), OTHER_COOKIE.hex()
    attempts = [
        _attempt("a", presents_cookie=None, gives_cookie=one, **_serves(1_000)),
        _attempt("b", 0, 1_000, presents_cookie=one, **_serves(1_000)),
        _attempt("a", 0, 2_000, presents_cookie=one, gives_cookie=other, **_serves(1_000)),
        _attempt("b", 0, 4_000, presents_cookie=other, gives_cookie="55" * 65, **_serves(1_000)),
        _attempt("a", 0, 8_000, presents_cookie=other, **_serves(1_000)),
    ]
    why = "an ACK without a cookie, or with one that is too long, leaves the one before in place"
    add("cookies", ["cookies-03", "cookies-04", "cookies-05"], ["a", "b"], attempts, why)


def _addresses(add):
    attempts = [_attempt("a", **_serves(5_000))]
    attempts += [_attempt(address, 0, bound, **UNREACHABLE)
                 for address, bound in zip("bcabc", BOUNDS_MS)]
    add("addresses-in-turn", ["reconnecting-29"], ["a", "b", "c"], attempts)


def _gives_up(ms):
    """No answer arrives, not even to the SYN."""
    return {"unanswered": True, "gives_up_ms": [ms, ms + SLACK_MS]}


BRIEF, USUAL = _gives_up(1_000), _gives_up(3_000)


def _unanswered(add):
    rule = ["reconnecting-35", "reconnecting-36"]
    served = _attempt("a", **_serves(5_000))
    attempts = [served, _attempt("b", 0, 1_000, **BRIEF), _attempt("c", **_serves(5_000)),
                _attempt("a", 0, 2_000, **BRIEF), _attempt("b", **BRIEF),
                _attempt("c", **_serves(5_000))]
    why = "the dead addresses cost a second each, and no further wait"
    add("brief-until-an-edge-answers", [*rule, "session-72", "moving-48"], ["a", "b", "c"],
        attempts, why)
    attempts = [served, _attempt("b", 0, 1_000, **BRIEF), _attempt("c", **BRIEF),
                _attempt("a", **USUAL), _attempt("b", 0, 2_000, **USUAL),
                _attempt("c", 0, 4_000, **_serves(5_000))]
    why = "once each address was tried, a slow one has its chance"
    add("brief-once-each", [*rule, "reconnecting-37", "session-72"], ["a", "b", "c"], attempts, why)
    attempts = [_attempt("a", **BRIEF),
                _of(2, _attempt("b", **_serves(5_000, _error("AUTH_FAILED")))),
                _attempt("b", 0, 1_000, **BRIEF), _attempt("a", **USUAL)]
    why = "a has not been tried since the subscription; b has two IP addresses, and is tried again"
    add("brief-again-after-a-subscription", ["reconnecting-35", "reconnecting-40"], ["a", "b"],
        attempts, why)
    attempts = [served, _attempt("b", 0, 1_000, **_refused()), _attempt("a", 0, 2_000, **USUAL),
                _attempt("a", 0, 4_000, **_serves(5_000)), _attempt("a", 0, 8_000, **USUAL)]
    why = "b rests, so there is no other address to hurry for, also after the next subscription"
    add("not-brief-while-the-others-rest", ["reconnecting-35"], ["a", "b"], attempts, why)
    attempts = [served, _attempt("a", 0, 1_000, **USUAL), _attempt("a", 0, 2_000, **USUAL)]
    add("not-brief-with-one-address", ["reconnecting-35"], ["a"], attempts)
    attempts = [_attempt("a", **BRIEF), _attempt("b", **BRIEF), _attempt("c", **_serves(5_000))]
    add("first-brief", ["reconnecting-35"], ["a", "b", "c"], attempts)
    again = ["reconnecting-38", "reconnecting-35"]
    attempts = [_attempt("a", **BRIEF), _attempt("b", **_refused()), _attempt("a", **USUAL)]
    add("first-cut-off-and-again", [*again, "moving-27"], ["a", "b"], attempts, gives_up=True)
    attempts = [_attempt("a", **BRIEF), _attempt("b", **BRIEF), _attempt("c", **USUAL),
                _attempt("a", **USUAL), _attempt("b", **_serves(5_000))]
    why = "c was tried with the usual limits, and a and b are tried again"
    add("first-slow", again, ["a", "b", "c"], attempts, why)
    attempts = [_attempt("a", **BRIEF), _attempt("b", **_timeless(3_000)),
                _attempt("a", 3_000, **USUAL), _attempt("b", **_serves(5_000))]
    add("first-cut-off-and-no-time", ["reconnecting-34", "reconnecting-35"], ["a", "b"], attempts)
    attempts = [_attempt("a", **BRIEF), _attempt("b", **_timeless(3_000)),
                _attempt("a", 3_000, **USUAL), _attempt("b", **_refused())]
    why = "each address was tried with the usual limits after a was cut off"
    add("first-cut-off-and-no-time-any-more", again, ["a", "b"], attempts, why, gives_up=True)


def _of(ip_addresses, attempt):
    """The attempt leads to a name with so many IP addresses."""
    return {**attempt, "ip_addresses": ip_addresses}


def _names_refused(add):
    rule = ["reconnecting-39", "reconnecting-40"]
    attempts = [_of(2, _attempt("a", **_refused())), _of(2, _attempt("a", **_serves(5_000)))]
    why = "one of the edges behind a name has an old password"
    add("name-first-one-refuses", [*rule, "moving-49"], ["a"], attempts, why)
    attempts = [_of(3, _attempt("a", **_refused())) for _ in range(3)]
    add("name-first-all-refuse", [*rule, "reconnecting-33"], ["a"], attempts, gives_up=True)
    attempts = [_of(2, _attempt("a", **_serves(5_000))),
                _of(2, _attempt("a", 0, 1_000, **_refused())),
                _of(2, _attempt("a", 0, 2_000, **_serves(5_000)))]
    add("name-one-refuses", [*rule, "moving-47"], ["a"], attempts)
    attempts = [_of(2, _attempt("a", **_serves(5_000, _error("AUTH_FAILED")))),
                _of(2, _attempt("a", 0, 1_000, **_serves(5_000)))]
    why = "the end of a subscription with *no* counts, too"
    add("name-no-ends-a-subscription", [*rule, "moving-31"], ["a"], attempts, why)
    attempts = [_of(2, _attempt("a", **_serves(5_000))),
                _of(2, _attempt("a", 0, 1_000, **_refused())),
                _of(2, _attempt("a", 0, 2_000, **_refused())),
                _of(2, _attempt("a", 60_000, 61_000, **_refused())),
                _of(2, _attempt("a", 0, 8_000, **_refused())),
                _of(2, _attempt("a", 60_000, 62_000, **_serves(5_000)))]
    why = "it rests once all may have refused, which counts as one refusal of the name"
    add("name-all-refuse", [*rule, "reconnecting-42", "reconnecting-15"], ["a"], attempts, why)
    attempts = [_attempt("a", **_serves(5_000)), _of(3, _attempt("b", 0, 1_000, **_refused())),
                _of(3, _attempt("b", 0, 2_000, **_refused())),
                _of(3, _attempt("b", 0, 4_000, **_refused())),
                _attempt("a", 0, 8_000, **_serves(5_000)), _attempt("a", 0, 16_000, **_serves(0))]
    add("name-of-three-refuses", [*rule, "moving-47"], ["a", "b"], attempts)
    attempts = [_attempt("a", **_serves(5_000)), _of(2, _attempt("b", 0, 1_000, **_refused())),
                _attempt("b", 0, 2_000, **UNREACHABLE), _attempt("a", 0, 4_000, **UNREACHABLE),
                _of(2, _attempt("b", 0, 8_000, **_refused())),
                _of(2, _attempt("b", 0, 16_000, **_serves(5_000)))]
    why = "only refusals in a row count, and another failure leads to the next address"
    add("name-refusals-in-a-row", ["reconnecting-39", "reconnecting-29"], ["a", "b"], attempts, why)
    attempts = [_of(500, _attempt("a", **_refused())) for _ in range(16)]
    add("name-of-500-refuses", ["reconnecting-39"], ["a"], attempts, gives_up=True)


def _names_without_time(add):
    rule = ["reconnecting-39", "reconnecting-40"]
    attempts = [_of(2, _attempt("a", **_timeless(3_000))), _of(2, _attempt("a", **_serves(5_000)))]
    add("name-first-one-without-time", ["reconnecting-39", "moving-49"], ["a"], attempts)
    attempts = [_of(2, _attempt("a", **_timeless(9_000))),
                _of(2, _attempt("a", **_timeless(4_000))),
                _of(2, _attempt("a", 4_000, **_serves(5_000)))]
    add("name-first-none-with-time", ["reconnecting-39", "reconnecting-42"], ["a"], attempts)
    ends = _error("NO_TIME", 5_000)
    attempts = [_of(2, _attempt("b", **_serves(5_000, ends))),
                _of(2, _attempt("b", 1, 500, **_serves(5_000)))]
    add("name-no-time-ends-a-subscription", [*rule, "moving-50"], ["b", "c"], attempts)
    attempts = [_attempt("a", **_serves(5_000)),
                _of(2, _attempt("b", 0, 1_000, **_timeless(9_000))),
                _of(2, _attempt("b", 1, 2_000, **_timeless(9_000))),
                _attempt("a", 1, 4_000, **_serves(5_000))]
    why = "b rests after two answers"
    add("name-without-time", [*rule, "moving-51"], ["a", "b"], attempts, why)
    attempts = [_of(2, _attempt("a", **_serves(5_000))),
                _of(2, _attempt("a", 0, 1_000, **_timeless(9_000))),
                _of(2, _attempt("a", 1, 2_000, **_timeless(9_000))),
                _of(2, _attempt("a", 9_000, **_serves(5_000)))]
    add("name-alone-without-time", [*rule, "moving-51"], ["a"], attempts)
