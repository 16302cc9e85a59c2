"""Units of time. Inside this package, times and durations are integers in nanoseconds, unless the
name ends with another unit; ``now`` is a reading of the machine's monotonic clock."""

from __future__ import annotations

US = 1_000
MS = 1_000_000
S = 1_000_000_000

NEVER = 1 << 62
"""Later than any reading of a clock."""


def fraction(whole: int, random: float) -> int:
    """Returns ``random`` (from 0 to 1) of a duration."""
    return int(whole * random)
