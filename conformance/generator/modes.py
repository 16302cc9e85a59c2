"""Changes of mode, and the resume points of their SUBSCRIBEs: modes.json."""

from .client_model import point_in
from .samples import EPOCH_MS

# The base is the start of a minute.
assert EPOCH_MS % 60_000 == 0

KEEPS_PLACE = ["session-68"]
STARTS_NOW = ["session-69"]
FLOOR = ["session-70"]


def generate():
    """Returns the content of modes.json."""
    found = []
    for fill in (_to_minute, _to_second, _minutes_that_have_begun, _errors, _floors):
        fill(_Cases(found))
    return {"modes": found}


class _Cases:
    def __init__(self, found):
        self.found = found

    def to_minute(self, name, sentences, last, present, expect, why=None, before=None):
        """Adds a change from SECOND to MINUTE. Times are in ms after the base, and `present` is
        authority time and its error bound in µs after it, or None."""
        self._add(name, sentences, "SECOND", "MINUTE", last, present, expect, why, before)

    def to_second(self, name, sentences, last, present, expect, why=None, before=None):
        """Adds a change from MINUTE to SECOND."""
        self._add(name, sentences, "MINUTE", "SECOND", last, present, expect, why, before)

    def _add(self, name, sentences, old, new, last, present, expect, why, before):
        last_ms = EPOCH_MS + last
        authority = present and (EPOCH_MS * 1_000 + present[0], present[1])
        before_ms = None if before is None else EPOCH_MS + before
        point = point_in(new, last_ms, authority, before_ms)
        assert point == (None if expect is None else EPOCH_MS + expect), (name, point)
        case = {"id": f"modes/{name}", "sentence": sentences}
        if why:
            case["why"] = why
        case.update(old_mode=old, new_mode=new, last_epoch_ms=str(last_ms))
        case["present"] = authority and {"authority_us": str(authority[0]),
                                         "error_us": authority[1]}
        case["received_before_epoch_ms"] = _text(before_ms)
        case["resume_after_epoch_ms"] = _text(point)
        self.found.append(case)


def _text(number):
    return None if number is None else str(number)


def _to_minute(cases):
    add = cases.to_minute
    add("to-minute", KEEPS_PLACE, 41_000, (41_300_000, 480), 41_000)
    add("to-minute-without-an-estimate", KEEPS_PLACE, 41_000, None, 41_000)
    why = "the tick of the minute is still to come in the new mode"
    add("to-minute-before-a-minute", KEEPS_PLACE, 59_000, (60_000_500, 480), 59_000, why)
    add("to-minute-at-a-minute", KEEPS_PLACE, 60_000, (60_000_500, 480), 60_000)
    why = "the SECOND ticks came late, and a minute has begun since the last of them"
    add("to-minute-after-a-pause", KEEPS_PLACE, 41_000, (200_000_000, 480), 41_000, why)
    why = "ahead: the last tick has been received before its time"
    add("to-minute-ahead", KEEPS_PLACE, 60_000, (59_300_000, 480), 60_000, why)
    why = "no tick has come yet, and the subscription started between two"
    add("to-minute-from-the-start", KEEPS_PLACE, 40_500, (40_700_000, 480), 40_500, why)


def _to_second(cases):
    add = cases.to_second
    add("to-second", STARTS_NOW, 60_000, (83_456_000, 0), 83_455)
    why = "the tick of this second has perhaps not been sent yet, so it comes"
    add("to-second-at-a-second", STARTS_NOW, 60_000, (83_000_000, 0), 82_999, why)
    add("to-second-1-ms-after-a-second", STARTS_NOW, 60_000, (83_001_000, 0), 83_000)
    why = "the start of the subscription is no tick, but no minute has begun since"
    add("to-second-from-the-start", STARTS_NOW, 60_500, (83_456_000, 0), 83_455, why)
    why = "the edge then starts with the latest tick"
    add("to-second-without-an-estimate", STARTS_NOW, 60_000, None, None, why)


def _minutes_that_have_begun(cases):
    add = cases.to_second
    why = "1 ms before the present, the minute has not begun"
    add("to-second-at-a-minute", STARTS_NOW, 0, (60_000_000, 0), 59_999, why)
    why = "its tick has arrived, and the SECOND tick of the same moment comes, too"
    add("to-second-at-a-minute-with-its-tick", STARTS_NOW, 60_000, (60_000_000, 0), 59_999, why)
    why = "the tick of the minute has not arrived, so the SECOND tick takes its place"
    add("to-second-1-ms-after-a-minute", STARTS_NOW, 0, (60_001_000, 0), 59_999, why)
    add("to-second-5-s-after-a-minute", STARTS_NOW, 0, (65_432_000, 0), 59_999, why)
    why = "of the two minutes whose ticks are missing, the last one counts"
    add("to-second-after-two-minutes", STARTS_NOW, 0, (125_432_000, 0), 119_999, why)
    why = "the tick of the minute has arrived"
    add("to-second-1-ms-after-a-minute-with-its-tick", STARTS_NOW, 60_000, (60_001_000, 0), 60_000,
        why)
    add("to-second-5-s-after-a-minute-with-its-tick", STARTS_NOW, 60_000, (65_432_000, 0), 65_431,
        why)
    why = "a minute has begun since the start of the subscription, and its tick has not arrived"
    add("to-second-a-minute-after-the-start", STARTS_NOW, 30_500, (65_432_000, 0), 59_999, why)
    why = "ahead: the tick of the next minute has been received, and the seconds before it follow"
    add("to-second-ahead-of-a-minute", STARTS_NOW, 120_000, (119_300_000, 480), 119_298, why)


def _errors(cases):
    """The error bound is subtracted before anything is rounded, and the result is rounded down."""
    add = cases.to_second
    add("to-second-less-the-error", STARTS_NOW, 60_000, (83_456_000, 40_000), 83_415)
    add("to-second-less-1-us", STARTS_NOW, 60_000, (83_456_000, 1), 83_454)
    why = "83,455.7 ms"
    add("to-second-less-300-us", STARTS_NOW, 60_000, (83_456_000, 300), 83_454, why)
    why = "83,456.4 ms; rounded apart, the error would be lost or count as a whole millisecond"
    add("to-second-with-both-fractions", STARTS_NOW, 60_000, (83_456_900, 500), 83_455, why)
    why = "83,455.9 ms"
    add("to-second-with-the-larger-fraction", STARTS_NOW, 60_000, (83_456_200, 300), 83_454, why)
    add("to-second-less-the-same-fraction", STARTS_NOW, 60_000, (83_456_300, 300), 83_455)
    why = "within the error bound, the minute may not have begun"
    add("to-second-perhaps-after-a-minute", STARTS_NOW, 0, (60_020_000, 40_000), 59_979, why)
    why = "the minute has certainly begun"
    add("to-second-certainly-after-a-minute", STARTS_NOW, 0, (60_041_000, 40_000), 59_999, why)
    add("to-second-less-20-s", STARTS_NOW, 60_000, (83_456_000, 20_000_000), 63_455)


def _floors(cases):
    second, minute = cases.to_second, cases.to_minute
    why = "ahead: seconds up to 45,000 were received before the change to MINUTE and back"
    second("to-second-received-before", FLOOR, 0, (44_300_000, 480), 45_000, why, before=45_000)
    why = "the last SECOND tick was received long ago, and the present is later"
    second("to-second-received-long-before", FLOOR, 60_000, (83_456_000, 0), 83_455, why,
           before=12_000)
    why = "the minute's tick is missing, but the SECOND tick of the same moment was received"
    second("to-second-received-at-the-minute", FLOOR, 0, (60_500_000, 480), 60_000, why,
           before=60_000)
    why = "the edge knows the present; ticks that come again are dropped"
    second("to-second-received-before-without-an-estimate", [*STARTS_NOW, *FLOOR], 0, None, None,
           why, before=45_000)
    why = "ahead: the minute was received before its time, and the seconds have not reached it"
    minute("to-minute-received-before", FLOOR, 119_000, (119_300_000, 480), 120_000, why,
           before=120_000)
    minute("to-minute-received-before-without-an-estimate", FLOOR, 119_000, None, 120_000, why,
           before=120_000)
    why = "the last MINUTE tick was received long ago; minutes were missed, and seconds came"
    minute("to-minute-received-long-before", FLOOR, 185_000, (185_300_000, 480), 185_000, why,
           before=60_000)
