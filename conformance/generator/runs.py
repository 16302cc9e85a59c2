"""HEARTBEATs, and subscriptions over time: the heartbeats and runs of sessions.json.

A run has a client that is subscribed at time 0, when authority time is AUTHORITY_MS, and an edge
whose behaviour changes at given times. The next ticks are due at 750 ms, 1,750 ms and so on. Times
are those of the edge, which go on while the client's machine is suspended.
"""

from .samples import EPOCH_MS

AUTHORITY_MS = EPOCH_MS + 250
TO_FIRST_MS = 750
# A resume point from before the connection.
EARLIER_MS = EPOCH_MS - 5_000
# The time by which a client may be late.
SLACK_MS = 1_000
# The time by which a release may be late in a test without real time.
RELEASE_MS = 20

HEALTHY = {"ticks": "on time", "pongs": "with time"}
AHEAD = {"ticks": "ahead", "pongs": "with time"}
DEAD = {"ticks": "none", "pongs": "none"}
TIMELESS = {"ticks": "none", "pongs": "without time"}
BLIND = {"ticks": "ahead", "pongs": "without time"}
MUTE = {"ticks": "ahead", "pongs": "none"}
TICKLESS = {"ticks": "none", "pongs": "with time"}


def heartbeats():
    """Returns the schedules of HEARTBEATs. Each interval is the time from the HEARTBEAT before, and
    the first one from the ACK of AUTH."""
    opening = [[0, 50]] + [[90, 130]] * 7
    second, two, usual = [900, 1_100], [1_800, 2_200], [9_000, 11_000]
    # When a PONG carries a time, the next HEARTBEAT may have been planned already.
    either = [900, 11_000]
    rows = []

    def add(name, sentences, intervals, pongs, why=None, interval_ms=15_000, **client):
        case = {"id": f"sessions/heartbeats-{name}", "sentence": sentences}
        if why:
            case["why"] = why
        case.update(heartbeat_interval_ms=interval_ms, **client)
        case.update(pong_has_time=pongs, intervals_ms=intervals)
        rows.append(case)

    known, unknown = [True], [False]
    why = "what the edge demands; a client may send more often"
    add("demanded", ["session-14"], opening + [[1, 15_000]] * 3, known, why)
    why = "the good habit: two thirds of the interval, varied by up to 10 %"
    add("usual", ["session-15", "time-29", "time-30"], opening + [usual] * 3, known, why)
    add("ahead", ["time-30"], opening + [two] * 3, known, ahead=True)
    add("of-3-s", ["session-15"], opening + [two] * 3, known, interval_ms=3_000)
    add("ahead-of-1500-ms", ["session-15", "time-30"], opening + [second] * 3, known,
        interval_ms=1_500, ahead=True)
    for interval_ms in 0, 1, 100:
        why = "an interval of less than 100 ms counts as one of 100 ms"
        add(f"of-{interval_ms}-ms", ["session-71"], opening + [[59, 75]] * 3, known, why,
            interval_ms=interval_ms)
    add("without-time", ["time-30", "session-56"], opening + [second] * 3, unknown)
    pongs = [False] * 10 + [True]
    add("time-comes", ["time-30"], opening + [second] * 3 + [either, usual],
        pongs)
    pongs = [True] * 9 + [False, False, True]
    add("time-is-lost", ["time-30", "session-56"],
        opening + [usual] * 2 + [second] * 2 + [either, usual], pongs)
    sparing = {"after_rate_limited": True}
    first, slow = [[0, 50]], [2_000, 2_500]
    add("sparing", ["session-30"], first + [[2_000, 11_000], usual], known, **sparing)
    add("sparing-without-time", ["session-30"], first + [slow] * 3, unknown, **sparing)
    add("sparing-ahead", ["session-30"], first + [slow] * 3, known, ahead=True, **sparing)
    why = "two thirds of the interval are shorter than 2 s, and no wait is shorter than that"
    add("sparing-of-1500-ms", ["session-30"], first + [[999, 1_100]] * 3, known, why,
        interval_ms=1_500, **sparing)
    kept = ["session-66"]
    # The lower ends leave 1 ms to a client that rounds its waits.
    why = "1.2 times the time of a frame, although PONGs carry no time"
    add("strictest-rate-without-time", kept, opening + [[1_199, 1_500]] * 3, unknown, why,
        frame_rate_limit=1)
    why = "at least 1.2 times the time of a frame, although the edge asks for more"
    two_frames = [1_199, 2_000]
    add("strictest-rate-of-1-s", kept, opening + [two_frames] * 3, known, why,
        interval_ms=1_000, frame_rate_limit=1)
    add("strictest-rate-of-1-s-ahead", kept, opening + [two_frames] * 3, known, why,
        interval_ms=1_000, frame_rate_limit=1, ahead=True)
    add("rate-of-10-of-100-ms", kept, opening + [[119, 200]] * 3, known, why,
        interval_ms=100, frame_rate_limit=10)
    why = "the limit allows more than the client needs"
    add("strictest-rate", kept, opening + [usual] * 3, known, why, frame_rate_limit=1)
    add("strictest-rate-ahead", kept, opening + [two] * 3, known, why, frame_rate_limit=1,
        ahead=True)
    add("rate-of-10-without-time", kept, opening + [second] * 3, unknown, why, frame_rate_limit=10)
    add("sparing-strictest-rate-without-time", [*kept, "session-30"], first + [slow] * 3, unknown,
        frame_rate_limit=1, **sparing)
    return rows


def runs():
    """Returns the list of runs."""
    found = []

    def add(name, sentences, phases, expect, why=None, **more):
        case = {"id": f"sessions/run-{name}", "sentence": sentences}
        if why:
            case["why"] = why
        case.update(authority_ms=str(AUTHORITY_MS), start_epoch_ms=str(EPOCH_MS), **more)
        case["edge"] = [{"from_ms": at, **phase} for at, phase in phases]
        case["expect"] = expect
        found.append(case)

    _judgements(add)
    _stays(add)
    _releases(add)
    _held(add)
    return found


def _leaves(first_ms, last_ms=None, come_back="at once", **more):
    span = [first_ms, last_ms or first_ms + SLACK_MS]
    return {"leaves_ms": span, "come_back": come_back, "next_dial_ms": [1, 500], **more}


def _judgements(add):
    """Edges that are of no use. The last tick comes at 9,750, and the next is due at 10,750."""
    left = ["session-61", "reconnecting-28", "moving-32"]
    due = 10_750
    asks = [{"from_ms": due + 900, "to_ms": due + 4_000, "count": [3, 5]}]
    add("silent", ["session-51", "session-53", "session-54", *left],
        [(0, HEALTHY), (10_000, DEAD)], _leaves(due + 4_000, heartbeats=asks))
    why = "counted from the first PONG without a time, or from when the tick is overdue"
    add("timeless", ["session-55", "session-57", *left],
        [(0, HEALTHY), (10_000, TIMELESS)],
        _leaves(15_000, due + 5_000 + SLACK_MS, "another edge, later"), why)
    add("tickless", ["session-58", *left],
        [(0, HEALTHY), (10_000, TICKLESS)], _leaves(due + 5_000))
    why = "an edge that has just started has 10 s for its first tick"
    add("tickless-from-the-start", ["session-59", *left], [(0, TICKLESS)],
        _leaves(TO_FIRST_MS + 10_000), why)
    why = "authority time was never known, so a tick is overdue a period after the last one"
    unknown = {"ticks": "on time", "pongs": "none"}
    add("silent-without-time", ["session-51", "session-54", *left],
        [(0, unknown), (10_000, DEAD)], _leaves(due + 4_000), why)
    why = "the tick of 10,750 was received at 9,950, so that of 11,750 is the first one missing"
    add("silent-ahead", ["session-52", *left], [(0, AHEAD), (10_000, DEAD)],
        _leaves(due + 1_000 + 4_000), why, ahead=True)
    why = "no tick is due for 50 s, so the heartbeat timeout of 20 s decides"
    add("silent-minutes", ["session-48"], [(0, HEALTHY), (70_000, DEAD)],
        _leaves(59_750 + 20_000, 70_000 + 20_000 + SLACK_MS), why, mode="MINUTE")
    why = "a timer fires late, at 12,900, and what the edge did before that does not count"
    stalled = [{"at_ms": 11_000, "stalled_ms": 1_900}]
    add("silent-stalled", ["session-60", "moving-36"], [(0, HEALTHY), (10_000, DEAD)],
        _leaves(12_900 + 4_000), why, machine=stalled)


def _stays(add):
    stays = {"stays_until_ms": 40_000}
    add("healthy", ["session-51", "session-12", "ticks-04"], [(0, HEALTHY)], stays)
    why = "ticks arrive, so an edge whose PONGs carry no time is of use"
    timeless = {"ticks": "on time", "pongs": "without time"}
    add("ticks-without-time", ["session-57"], [(0, timeless)], stays, why)
    gaps = [(0, HEALTHY), (10_000, DEAD), (13_500, HEALTHY)]
    add("silent-for-3500-ms", ["session-54"], gaps, stays)
    gaps = [(0, HEALTHY), (10_000, TIMELESS), (13_500, HEALTHY)]
    add("timeless-for-3500-ms", ["session-57"], gaps, stays)
    gaps = [(0, HEALTHY), (10_000, TICKLESS), (14_500, HEALTHY)]
    add("tickless-for-4500-ms", ["session-58"], gaps, stays)
    add("first-tick-after-9-s", ["session-59"], [(0, TICKLESS), (9_000, HEALTHY)], stays)
    why = "suspended from 30 s to 60 s, while its monotonic clock stood still"
    suspended = [{"at_ms": 30_000, "suspended_ms": 30_000}]
    again = [{"from_ms": 60_000, "to_ms": 62_100, "count": [1, 3]}]
    expect = {"stays_until_ms": 90_000, "heartbeats": again}
    add("suspended", ["session-60", "moving-34"], [(0, HEALTHY)], expect, why, machine=suspended)


def _ticks(first_ms, last_ms, at_ms=None, **more):
    """Returns the releases of the ticks due from `first_ms` to `last_ms`."""
    rows = []
    for due in range(first_ms, last_ms + 1, 1_000):
        span = [due, due + RELEASE_MS] if at_ms is None else at_ms
        rows.append({"epoch_ms": str(AUTHORITY_MS + due), "at_ms": span, **more})
    return rows


def _replayed():
    """Returns the releases of the ticks after EARLIER_MS, which are sent as REPLAY at time 0."""
    return _ticks(-4_250, -250, [0, RELEASE_MS], quality="REPLAY")


def _ahead(add, name, sentences, phases, releases, why=None, **more):
    expect = {"ticks": releases, "stays_until_ms": 10_000}
    expect.update(more.pop("expect", {}))
    add(name, sentences, phases, expect, why, ahead=True, **more)


def _releases(add):
    """Ticks that are received 800 ms ahead, and when they are released."""
    _ahead(add, "ahead", ["ahead-03"], [(0, AHEAD)], _ticks(750, 8_750))
    why = "the first PONG with a time comes at 3 s or up to 1.1 s later; then all are due at once"
    late = _ticks(750, 2_750, [3_000, 4_200]) + _ticks(3_750, 3_750, [3_750, 4_200])
    _ahead(add, "ahead-time-comes-late", ["ahead-09"], [(0, BLIND), (3_000, AHEAD)],
           late + _ticks(4_750, 8_750), why)
    why = "35 s after the last PONG, by the last estimate"
    _ahead(add, "ahead-old-estimate", ["ahead-10"], [(0, AHEAD), (5_000, MUTE)],
           _ticks(750, 39_750), why, expect={"stays_until_ms": 41_000})
    why = "ticks from before the connection, which are released as they arrive"
    _ahead(add, "ahead-replay", ["ahead-05"], [(0, AHEAD)], _replayed() + _ticks(750, 3_750), why,
           resume_after_epoch_ms=str(EARLIER_MS))
    why = "suspended from 5,400 to 8,400; the ticks of 5,750 to 7,750 wait for a PONG with a time"
    suspended = [{"at_ms": 5_400, "suspended_ms": 3_000}]
    late = _ticks(5_750, 7_750, [8_400, 9_700]) + _ticks(8_750, 8_750, [8_750, 9_700])
    _ahead(add, "ahead-suspended", ["ahead-11", "moving-34"], [(0, AHEAD)],
           _ticks(750, 4_750) + late + _ticks(9_750, 11_750), why,
           machine=suspended, expect={"stays_until_ms": 12_000})
    why = "a timer fires 1,150 ms late, and the ticks are released without a further PONG"
    stalled = [{"at_ms": 5_400, "stalled_ms": 1_500}]
    late = _ticks(5_750, 6_750, [6_900, 6_900 + RELEASE_MS])
    _ahead(add, "ahead-stalled", ["moving-36"], [(0, AHEAD), (5_000, MUTE)],
           _ticks(750, 4_750) + late + _ticks(7_750, 11_750), why,
           machine=stalled, expect={"stays_until_ms": 12_000})


def _held(add):
    """Ticks that are held when the connection ends, or when a REPLAY tick shows their time."""
    why = "at 5,400 the tick of 5,750 is held; the connection ends, and the tick keeps its time"
    ends = {"at_ms": 5_400, "ends": "eof"}
    _ahead(add, "ahead-cut-off", ["ahead-06", "resuming-15", "moving-29"], [(0, AHEAD)],
           _ticks(750, 5_750), why, closes=ends,
           expect={"next_resume_after_epoch_ms": str(EPOCH_MS + 6_000), "stays_until_ms": 5_400})
    why = "authority time was stepped back, so the tick that is held is dropped"
    ends = {"at_ms": 5_400, "ends": {"error": {"code": "TIME_STEPPED", "retry_after_ms": 700}}}
    _ahead(add, "ahead-time-stepped", ["reconnecting-26", "moving-30", "errors-19"], [(0, AHEAD)],
           _ticks(750, 4_750), why, closes=ends,
           expect={"next_resume_after_epoch_ms": None, "stays_until_ms": 5_400,
                   "never_epoch_ms": [str(EPOCH_MS + 6_000)]})
    why = "the tick of 4,750 is sent late, at 6,000, and those of 5,750 and 6,750 wait for the time"
    phases = [(0, BLIND), (3_000, TIMELESS), (6_000, BLIND)]
    shown = [6_000, 6_100]
    releases = _ticks(750, 3_750, shown, quality="NORMAL")
    releases += _ticks(4_750, 4_750, shown, quality="REPLAY")
    waiting = [each["epoch_ms"] for each in _ticks(5_750, 6_750)]
    _ahead(add, "ahead-replay-releases", ["ahead-14"], phases, releases, why,
           expect={"stays_until_ms": 7_000, "never_epoch_ms": waiting})
    why = "at 5,400 the tick of 5,750 is held; the subscription ends, and the tick keeps its time"
    ends = {"at_ms": 5_400, "ends": "eof"}
    _ahead(add, "ahead-ends", ["ahead-13"], [(0, AHEAD)], _ticks(750, 5_750), why, closes=ends,
           comes_back=False, expect={"stays_until_ms": 5_400})
    why = "the time was never known, so the ticks that are held are dropped"
    ends = {"at_ms": 2_400, "ends": "eof"}
    waiting = [each["epoch_ms"] for each in _ticks(750, 2_750)]
    _ahead(add, "ahead-ends-without-time", ["ahead-13"], [(0, BLIND)], _replayed(), why,
           closes=ends, comes_back=False, resume_after_epoch_ms=str(EARLIER_MS),
           expect={"stays_until_ms": 2_400, "never_epoch_ms": waiting})
