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


def suspended() -> int:
    """Returns for how long the machine has been suspended in all, in nanoseconds, up to a constant.
    Outside Linux, this also contains the drift and the steps of the wall clock."""
    if sys.platform == "linux":
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - before
    before = monotonic()
    return time.time_ns() - before
