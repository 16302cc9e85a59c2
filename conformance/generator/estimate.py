"""Authority time learned from PONGs: estimate.json."""

from .samples import EPOCH_MS

BASE_US = EPOCH_MS * 1_000
MAX_AGE_US = 30_000_000
PPM = 200


class _Estimator:
    """Follows the rules of docs/protocol.md, without the rate over minutes."""

    def __init__(self):
        self.samples = []

    def pong(self, t1, t2, t3, t4, bound):
        if t2 == 0 or t3 == 0 or (t4 - t1) - (t3 - t2) < 0:
            return
        new = (((t2 - t1) + (t3 - t4)) / 2, ((t4 - t1) - (t3 - t2)) / 2, bound, t4)
        self.samples = [old for old in self.samples if t4 - old[3] <= MAX_AGE_US]
        if any(self._contradict(new, old, t4) for old in self.samples):
            self.samples.clear()
        self.samples.append(new)

    def _contradict(self, new, old, now):
        return abs(new[0] - old[0]) > self._error(new, now) + self._error(old, now)

    @staticmethod
    def _error(sample, now):
        return sample[1] + sample[2] + PPM * (now - sample[3]) / 1e6

    def at(self, now):
        valid = [each for each in self.samples if now - each[3] <= MAX_AGE_US]
        if not valid:
            return None
        best = min(valid, key=lambda each: each[1] + PPM * (now - each[3]) / 1e6)
        return {"offset_us": str(round(best[0])), "error_us": round(self._error(best, now))}


def generate():
    """Returns the content of estimate.json."""
    cases = []
    for add in (_arithmetic, _choice, _bad_samples, _contradictions, _stalls, _rates):
        add(cases)
    return {"tolerance_us": 2, "cases": cases}


def _case(cases, name, sentences, steps, expect=None, why=None):
    """Adds a case. Steps are PONGs as (t1, t2, t3, t4, error_bound_us), with t2 and t3 counted from
    the base; a time to estimate, as a number; or "stall" with a time. `expect` are the estimates
    as (offset, error) from the base, which the model here must find, too."""
    estimator, rows, found = _Estimator(), [], []
    for step in steps:
        if isinstance(step, int):
            estimate = estimator.at(step)
            rows.append({"at_us": str(step), "expect": estimate})
            found.append(estimate and (int(estimate["offset_us"]) - BASE_US, estimate["error_us"]))
        elif step[0] == "stall":
            estimator.samples.clear()
            rows.append({"stall_at_us": str(step[1])})
        else:
            t1, t2, t3, t4, bound = step
            t2, t3 = (t and t + BASE_US for t in (t2, t3))
            estimator.pong(t1, t2, t3, t4, bound)
            rows.append({"pong": _pong(t1, t2, t3, t4, bound)})
    assert found == expect, (name, found, expect)
    case = {"id": f"estimate/{name}", "sentence": sentences}
    if why:
        case["why"] = why
    cases.append({**case, "steps": rows})


def _pong(t1, t2, t3, t4, bound):
    times = {"t1_us": t1, "t2_us": t2, "t3_us": t3, "t4_us": t4}
    return {**{key: str(value) for key, value in times.items()}, "error_bound_us": bound}


def _arithmetic(cases):
    sentences = ["time-04", "time-05", "time-06", "time-07", "time-08", "time-09", "time-10"]
    example = (1_500_000, 250_000, 250_017, 1_500_617, 180)
    _case(cases, "example", [*sentences, "time-34", "time-35"], [example, 1_500_617],
          [(-1_250_300, 480)])
    _case(cases, "symmetric", sentences, [(0, 7_500, 7_500, 1_000, 300), 1_000], [(7_000, 800)])
    _case(cases, "aged-1-s", sentences, [(0, 7_500, 7_500, 1_000, 300), 1_001_000],
          [(7_000, 1_000)])
    why = "the edge held the HEARTBEAT for 400 µs, which is not part of the round trip"
    _case(cases, "edge-takes-time", sentences, [(0, 7_300, 7_700, 1_000, 0), 1_000],
          [(7_000, 300)], why)
    why = "the offset is half a microsecond; either way of rounding is right"
    _case(cases, "odd", sentences, [(0, 10, 10, 21, 0), 21], [(0, 10)], why)
    _case(cases, "no-round-trip", sentences, [(5_000, 5_000, 5_000, 5_000, 0), 5_000], [(0, 0)])
    why = "t1 and t4 may be far from Unix time"
    _case(cases, "large-t1", sentences,
          [(10**12, 500, 500, 10**12 + 1_000, 10), 10**12 + 1_000], [(-(10**12), 510)], why)


    _case(cases, "clock-error", ["time-12"], [(0, 7_500, 7_500, 1_000, 300), 1_000],
          [(7_000, 800)], "the clock's own error against UTC does not count")
    cases[-1]["steps"][0]["pong"]["clock_error_us"] = 2**32 - 1


def _choice(cases):
    best = (0, 7_500, 7_500, 1_000, 300)
    worse = (1_000_000, 1_008_600, 1_008_600, 1_003_000, 100)
    why = "error_bound_us is part of the error, but not of the choice"
    _case(cases, "least-half-round-trip", ["time-13"],
          [(0, 7_500, 7_500, 1_000, 900), worse, 1_103_000], [(7_000, 1_620)], why)
    why = "10 s later, 200 ppm of the age are 2,000 µs, so the newer sample is better"
    newer = (10_000_000, 10_008_000, 10_008_000, 10_002_000, 100)
    _case(cases, "age-counts", ["time-13"], [best, newer, 10_002_000], [(7_000, 1_100)], why)
    _case(cases, "older-than-30-s", ["time-13"],
          [best, (30_000_000, 30_017_500, 30_017_500, 30_020_000, 300), 30_020_000],
          [(7_500, 10_300)])
    _case(cases, "exactly-30-s", ["time-13"], [best, 30_001_000], [(7_000, 6_800)])
    why = "the last sample is too old, so there is no estimate"
    _case(cases, "too-old", ["time-13"], [best, 30_001_500], [None], why)
    _case(cases, "never", ["ahead-09"], [1_000], [None], "no PONG has arrived")


def _bad_samples(cases):
    for name, times in (
        ("both-0", (0, 0, 0, 1_000, 2**32 - 1)),
        ("received-0", (0, 0, 5_000, 1_000, 10)),
        ("sent-0", (0, 5_000, 0, 1_000, 10)),
    ):
        _case(cases, f"pong-with-{name}", ["time-15"], [times, 1_000], [None])
    good = (0, 7_500, 7_500, 1_000, 300)
    _case(cases, "pong-without-time-between", ["time-15"],
          [good, (500_000, 0, 0, 500_400, 2**32 - 1), 501_000], [(7_000, 900)])
    why = "t3 − t2 is larger than t4 − t1"
    _case(cases, "negative-round-trip", ["time-16", "errors-32"],
          [(0, 5_000, 6_001, 1_000, 0), 1_000], [None], why)
    _case(cases, "read-before-written", ["time-16"], [(1_001, 5_000, 5_000, 1_000, 0), 1_001],
          [None])
    _case(cases, "negative-round-trip-between", ["time-16"],
          [good, (500_000, 507_000, 508_000, 500_100, 0), 501_000], [(7_000, 900)])


def _contradictions(cases):
    old = (0, 7_500, 7_500, 1_000, 300)
    sentences = ["time-17", "time-18", "moving-43"]
    why = "authority time was stepped by 5 s; the older sample is dropped, though it is better"
    _case(cases, "stepped-by-5-s", sentences,
          [old, (2_000_000, 7_017_000, 7_017_000, 2_020_000, 300), 2_020_000],
          [(5_007_000, 10_300)], why)
    _case(cases, "stepped-back", sentences,
          [old, (2_000_000, 1_907_500, 1_907_500, 2_001_000, 300), 2_001_000],
          [(-93_000, 800)])
    why = "the intervals touch, so the older and better sample still counts"
    touching = (0, 50, 50, 100, 150)
    _case(cases, "touching", ["time-17"], [touching, (200, 700, 700, 400, 100), 400],
          [(0, 200)], why)
    why = "one microsecond further, and they do not overlap"
    _case(cases, "not-touching", sentences, [touching, (200, 701, 701, 400, 100), 400],
          [(401, 200)], why)
    why = "the third sample contradicts the first, so the second is dropped, too"
    _case(cases, "one-of-two", sentences,
          [(0, 1_000, 1_000, 2_000, 0), (2_000, 1_150, 1_150, 2_100, 1_050),
           (3_000, 1_200, 1_200, 3_200, 0), 3_200],
          [(-1_900, 100)], why)


def _stalls(cases):
    """Suspensions and stalls, whose discovery at a moment is a step."""
    good = (0, 7_500, 7_500, 1_000, 300)
    sentences = ["time-22", "moving-34", "moving-35"]
    _case(cases, "stall", sentences, [good, 1_500, ("stall", 2_000), 2_000],
          [(7_000, 800), None])
    later = (3_000, 10_500, 10_500, 4_000, 300)
    _case(cases, "stall-then-a-pong", sentences, [good, ("stall", 2_000), later, 4_000],
          [(7_000, 800)])


def _rates(cases):
    """Clocks that run at another rate. The error must cover the drift, and may exceed it."""
    sentences = ["time-25", "time-26"]
    for name, ppm, floor, ceiling in (
        ("1000-ppm", 1_000, 1_000, 1_300),
        ("minus-1000-ppm", -1_000, 1_000, 1_300),
        ("50-ppm", 50, 200, 200),
    ):
        steps = [{"pong": _pong(*_drifting(second, ppm))} for second in range(0, 202, 2)]
        # 10 s after the last PONG, at 200 s.
        best = _drifting(200, ppm)
        at = 210_000_000
        offset = (best[1] - best[0] + best[2] - best[3]) // 2
        expect = {"offset_us": str(offset), "error_us": [70 + floor * 10, 70 + ceiling * 10]}
        steps.append({"at_us": str(at), "expect": expect})
        case = {"id": f"estimate/rate-{name}", "sentence": sentences, "steps": steps}
        cases.append(case)
    steps = [{"pong": _pong(*_drifting(second, 1_000))} for second in range(0, 202, 2)]
    steps.append({"new_connection": True})
    offset = 5_000_000
    t1 = 202_000_000
    t2 = BASE_US + t1 + offset + 50
    steps.append({"pong": _pong(t1, t2, t2, t1 + 100, 20)})
    expect = {"offset_us": str(BASE_US + offset), "error_us": [70 + 10_000, 70 + 13_000]}
    steps.append({"at_us": str(t1 + 100 + 10_000_000), "expect": expect})
    why = "the rate is one of this machine, and is kept with another edge, whose offset differs"
    cases.append({"id": "estimate/rate-is-kept", "sentence": ["time-27", "time-28"], "why": why,
                  "steps": steps})
    steps = []
    for second in range(0, 202, 2):
        jumps = second // 20 * 30_000 if second % 40 < 20 else 0
        t1 = second * 1_000_000
        t2 = BASE_US + t1 + jumps + 50
        steps.append({"pong": _pong(t1, t2, t2, t1 + 100, 20)})
    at = 200_000_100 + 1_000_000
    last = int(steps[-1]["pong"]["t2_us"]) - 50 - 200_000_000
    steps.append({"at_us": str(at), "expect": {"offset_us": str(last), "error_us": [270, 270]}})
    why = "authority time jumps back and forth, which is no rate"
    cases.append({"id": "estimate/jumps-are-no-rate", "sentence": ["time-26"], "why": why,
                  "steps": steps})


def _drifting(second, ppm):
    """Returns a PONG whose offset has drifted for `second` seconds: a round trip of 100 µs."""
    t1 = second * 1_000_000
    t2 = BASE_US + t1 + second * ppm + 50
    return t1, t2, t2, t1 + 100, 20
