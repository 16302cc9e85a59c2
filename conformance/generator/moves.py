"""Moves from one edge to another: moves.json.

Time 0 is when GOING_AWAY arrives. The client has been subscribed at address a for 5 s then.
"""

HINT = {"error": {"code": "SERVER_DRAINING", "retry_after_ms": 250}}
STEPPED = {"error": {"code": "TIME_STEPPED", "retry_after_ms": 300}}
RETRIES_MS = [[250, 500], [500, 1_000], [1_000, 2_000], [2_000, 4_000], [2_000, 4_000]]
# The time by which a client may be late, in a test with a clock of its own.
SLACK_MS = 20


def generate():
    """Returns the content of moves.json."""
    found = []

    def add(name, sentences, going_away, attempts, why=None, addresses=("a", "b"), **more):
        case = {"id": f"moves/{name}", "sentence": sentences}
        if why:
            case["why"] = why
        case["addresses"] = list(addresses)
        case["going_away"] = [{"at_ms": at, "deadline_ms": ms} for at, ms in going_away]
        case.update(attempts=attempts, **more)
        found.append(case)

    for fill in (_moments, _again, _outcomes, _retries, _ends):
        fill(add)
    return {"moves": found}


def _first(address, latest_ms, earliest_ms=0, **more):
    return {"address": address, "at_ms": [earliest_ms, latest_ms], **more}


def _next(address, wait_ms, **more):
    """A further attempt, and the wait from when the last one ended."""
    return {"address": address, "wait_ms": wait_ms, **more}


SERVES = {"edge_id": "other", "start": "resume point", "moves": True}
UNREACHABLE = {"unreachable": True}


def _moments(add):
    sentences = ["moving-07", "moving-03", "moving-06", "moving-09", "moving-10", "moving-14",
                 "moving-33", "moving-38"]
    for deadline, latest in (60_000, 55_000), (12_000, 9_000), (2_000, 1_500), (600, 100):
        add(f"deadline-{deadline}", sentences, [(0, deadline)], [_first("b", latest, **SERVES)])
    for deadline in 499, 1, 0:
        why = "a deadline below 0.5 s: at once"
        attempts = [_first("b", 0, **SERVES)]
        add(f"deadline-{deadline}", ["moving-08"], [(0, deadline)], attempts, why)
    attempts = [_first("a", 9_000, **SERVES)]
    add("one-address", ["moving-09"], [(0, 12_000)], attempts, addresses=["a"])


def _again(add):
    sentences = ["moving-22", "moving-23", "moving-37"]
    attempts = [_first("b", 1_600, **SERVES)]
    why = "the later frame leaves less time: 100 ms and three quarters of 2 s"
    add("again-earlier", sentences, [(0, 60_000), (100, 2_000)], attempts, why)
    attempts = [_first("b", 9_000, **SERVES)]
    why = "the moment that was chosen stays"
    add("again-later", sentences, [(0, 12_000), (100, 600_000)], attempts, why)
    attempts = [_first("b", 1_500, until_ms=2_000, repeats=True, **UNREACHABLE),
                _first("b", 11_000, earliest_ms=5_000, **SERVES)]
    why = "the first deadline has passed without a move, so everything begins again"
    add("again-after-the-deadline", ["moving-24", "moving-18", "moving-37"],
        [(0, 2_000), (5_000, 8_000)], attempts, why, any_address=True)


def _outcomes(add):
    same = {"edge_id": "same", "start": "resume point", "moves": False}
    attempts = [_first("b", 9_000, **same), _next("a", [250, 500], **SERVES)]
    why = "b leads to the same edge, so the new connection is closed"
    sentences = ["moving-13", "moving-15", "moving-16", "moving-39"]
    add("same-edge", sentences, [(0, 12_000)], attempts, why)
    late = {"edge_id": "other", "start": "too late", "moves": False}
    attempts = [_first("b", 9_000, **late), _next("a", [250, 500], **SERVES)]
    why = "its start is later than the last tick, so a move would lose ticks"
    add("start-too-late", sentences, [(0, 12_000)], attempts, why)
    for name, outcome in (
        ("refused", {"error": {"code": "AUTH_FAILED", "retry_after_ms": 0}, "answers": "AUTH"}),
        ("full", {"error": {"code": "SERVER_FULL", "retry_after_ms": 9_000}, "answers": "AUTH"}),
        ("cut-off", {"ends": "eof", "answers": "AUTH"}),
        ("breach", {"ends": "bad frame", "answers": "AUTH"}),
        ("unreachable", UNREACHABLE),
    ):
        attempts = [_first("b", 55_000, **outcome), _next("c", [250, 500], **SERVES)]
        add(f"attempt-{name}", ["moving-15", "moving-39"], [(0, 60_000)], attempts,
            addresses=["a", "b", "c"])
    no = {"error": {"code": "AUTH_FAILED", "retry_after_ms": 0}, "answers": "AUTH"}
    attempts = [_first("b", 9_000, ip_addresses=2, **no), _next("b", [250, 500], **SERVES)]
    why = "b is a name with two IP addresses, and only one of the edges there refuses the client"
    add("one-of-a-name-refuses", ["reconnecting-39", "moving-15"], [(0, 12_000)], attempts, why,
        addresses=["a", "b", "c"])
    timeless = {"error": {"code": "NO_TIME", "retry_after_ms": 9_000}, "answers": "AUTH"}
    attempts = [_first("b", 9_000, ip_addresses=2, **timeless), _next("b", [250, 500], **SERVES)]
    why = "the hint is about one of the edges behind the name"
    add("one-of-a-name-without-time", ["reconnecting-39", "moving-15"], [(0, 12_000)], attempts,
        why, addresses=["a", "b", "c"])
    unanswered = {"unanswered": True, "gives_up_ms": [3_000, 3_000 + SLACK_MS]}
    attempts = [_first("b", 55_000, **unanswered), _next("c", [250, 500], **SERVES)]
    why = "the old connection brings the ticks meanwhile, so there is no hurry"
    add("attempt-unanswered", ["reconnecting-44", "moving-19"], [(0, 60_000)], attempts, why,
        addresses=["a", "b", "c"])
    hangs = {"silent_after": "connect", "gives_up_ms": [10_000, 10_000 + SLACK_MS]}
    attempts = [_first("b", 595_000, **hangs), _next("c", [250, 500], **SERVES)]
    why = "the old connection brings the ticks meanwhile, and is sent HEARTBEATs"
    add("attempt-hangs", ["moving-11", "moving-19"], [(0, 600_000)], attempts, why,
        addresses=["a", "b", "c"])


def _retries(add):
    attempts = [_first("b", 15_000, **UNREACHABLE)]
    attempts += [_next(address, wait, **UNREACHABLE)
                 for address, wait in zip("ababa", RETRIES_MS)]
    attempts[-1]["repeats"] = True
    why = "as many attempts as fit before the deadline; then the client stays to the end"
    add("waits-double", ["moving-16", "moving-18", "moving-39"], [(0, 20_000)], attempts, why,
        until_ms=20_000, any_address=True,
        old_ends={"at_ms": 20_500, "ends": HINT}, then={"wait_ms": [250, 250]})
    full = {"error": {"code": "SERVER_FULL", "retry_after_ms": 5_000}, "answers": "AUTH"}
    attempts = [_first("b", 55_000, **full), _next("a", [250, 500], **UNREACHABLE),
                _next("a", [500, 1_000], **SERVES)]
    why = "b rests for 5 s, so a, which is in use, is tried again before it"
    add("address-rests", ["moving-17"], [(0, 60_000)], attempts, why)
    draining = {"error": {"code": "SERVER_DRAINING", "retry_after_ms": 500}, "answers": "AUTH"}
    attempts = [_first("b", 55_000, **draining), _next("a", [250, 500], **draining),
                _next("b", [500, 1_000], **SERVES)]
    add("draining-does-not-rest", ["moving-17"], [(0, 60_000)], attempts,
        "the hint of SERVER_DRAINING is about where to go")
    attempts = [_first("a", 595_000, **full), _next("a", [5_000, 5_000], **SERVES)]
    why = "the address is the one in use, so only the next attempt waits"
    add("address-in-use-rests", ["moving-17"], [(0, 600_000)], attempts, why, addresses=["a"])


def _ends(add):
    hangs = {"silent_after": "connect"}
    for name, ends in ("eof", "eof"), ("draining", HINT), ("full", _full()):
        attempts = [_first("b", 9_000, ack_of_auth_after_ms=1_500, **SERVES)]
        why = "the attempt needs 1.5 s, the old connection ends after 0.5 s, and the move is made"
        add(f"rescued-after-{name}", ["moving-20", "moving-12", "moving-40"], [(0, 12_000)],
            attempts, why, old_ends={"after_attempt_ms": 500, "ends": ends})
    attempts = [_first("b", 9_000, **hangs, gives_up_ms=[2_500, 2_500 + SLACK_MS])]
    why = "2 s after the end of the old connection, the attempt is dropped; c follows b"
    then = {"address": "c", "wait_ms": [250, 250], "resume_after": "last tick"}
    add("attempt-dropped", ["moving-20", "moving-21", "moving-40"], [(0, 12_000)], attempts, why,
        addresses=["a", "b", "c"], old_ends={"after_attempt_ms": 500, "ends": HINT}, then=then)
    attempts = [_first("b", 9_000, **UNREACHABLE)]
    why = "the attempt has failed when the old connection ends, and the next one is not due yet"
    then = {"address": "c", "wait_ms": [250, 250], "resume_after": "last tick"}
    add("no-attempt-under-way", ["moving-21", "moving-52"], [(0, 12_000)], attempts, why,
        addresses=["a", "b", "c"], old_ends={"after_attempt_ms": 100, "ends": HINT}, then=then)
    attempts = [_first("b", 9_000, ack_of_auth_after_ms=1_500, edge_id="other",
                       start="resume point", moves=False)]
    why = "authority time was stepped, so the resume point of the attempt is void"
    then = {"address": "c", "wait_ms": [300, 300], "resume_after": None}
    add("time-stepped", ["moving-12", "moving-41"], [(0, 12_000)], attempts, why,
        addresses=["a", "b", "c"], old_ends={"after_attempt_ms": 500, "ends": STEPPED}, then=then)
    attempts = [_first("b", 9_000, **SERVES)]
    why = "five failures came before; 20 s at a and 15 s at b are more than 30 s"
    add("counts-over-the-move", ["reconnecting-06", "moving-38"], [(0, 12_000)], attempts, why,
        any_address=True, failures_before=5,
        subscribed_before_ms=20_000, subscribed_after_ms=15_000,
        new_ends="eof", then={"wait_ms": [0, 1_000], "resume_after": "last tick"})


def _full():
    return {"error": {"code": "SERVER_FULL", "retry_after_ms": 5_000}}
