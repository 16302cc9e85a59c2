"""The clock of this machine: the only place where this package reads one."""

from __future__ import annotations

import sys
import time

_RAW = getattr(time, "CLOCK_UPTIME_RAW", None)
"""On macOS, the clock that is not slewed and stops while the machine is suspended."""
if _RAW is None and sys.platform == "linux":
    # Plain CLOCK_MONOTONIC is slewed by programs that keep the wall clock.
    _RAW = time.CLOCK_MONOTONIC_RAW


def monotonic() -> int:
    """Returns a reading of the monotonic clock, in nanoseconds."""
    return time.monotonic_ns() if _RAW is None else time.clock_gettime_ns(_RAW)


_READING_MAX_NS = 1_000_000
"""The time between two readings beyond which they are repeated: a program that is interrupted
between them must not look like a machine that was suspended."""
_READINGS_MAX = 10


def suspended() -> int:
    """Returns for how long the machine has been suspended in all, in nanoseconds, up to a constant.
    Outside Linux, this also contains the drift and the steps of the wall clock."""
    took, best = 1 << 62, 0
    for _ in range(_READINGS_MAX):
        before, total, after = _before_suspensions(), _with_suspensions(), _before_suspensions()
        if after - before < took:
            took, best = after - before, total - (before + after) // 2
        if took < _READING_MAX_NS:
            break
    return best


if sys.platform == "linux":

    def _before_suspensions() -> int:
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def _with_suspensions() -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

else:
    _before_suspensions, _with_suspensions = monotonic, time.time_ns
