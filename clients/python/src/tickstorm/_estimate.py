"""Authority time, which a client learns from PONGs as in NTP: the offset between its own clock and
the edge's, with an error bound.

An error bound holds only if the machine's own clock does. A machine that was suspended, or stalled
for seconds, has no samples until it has learned new ones; what the old ones say is then only good
for telling how late something was."""

from __future__ import annotations

import sys
from collections import deque
from typing import Deque, NamedTuple, Optional

from ._rate import Point, RateWatch
from ._session import PongExchange
from ._units import MS, S, US
from .events import Estimate

SAMPLE_AGE_MAX = 30 * S
SUSPENSION_MIN = 10 * MS
"""The jump of the time suspended that shows a suspension: far more than the error of a reading."""
_DOUBT = 1 * S
"""What is added to the error of an offset from before a stall. Machines count the time for which
they were suspended by a clock that may have whole seconds only."""
_IS_SUSPENSION_CERTAIN = sys.platform == "linux"
"""Whether a jump of the time suspended can't be a step of the wall clock."""
_SAMPLES_MAX = 64
_INT64_MAX = (1 << 63) - 1


class _Offset(NamedTuple):
    """Authority time minus the client's clock, by one sample."""

    offset: int
    half_trip: int
    edge_bound: int
    read_at: int

    def counts_at(self, now: int) -> bool:
        return now - self.read_at <= SAMPLE_AGE_MAX

    def aged_half_trip(self, now: int, ppm: int) -> int:
        """The value by which samples are compared."""
        age_us = max(0, now - self.read_at) // US
        return self.half_trip + age_us * ppm // 1_000

    def error(self, now: int, ppm: int) -> int:
        return self.aged_half_trip(now, ppm) + self.edge_bound

    def agrees_with(self, other: _Offset, now: int, ppm: int) -> bool:
        reach = self.error(now, ppm) + other.error(now, ppm)
        return abs(self.offset - other.offset) <= reach

    def estimate(self, now: int, ppm: int, doubt: int) -> Estimate:
        error = self.error(now, ppm) + doubt
        return Estimate((now + self.offset) // US, -(-error // US))


class _Stall(NamedTuple):
    seen_at: int
    before: Optional[_Offset]


class Estimator:
    """Estimates authority time from the samples of the last 30 s."""

    def __init__(self, rate: Optional[RateWatch] = None) -> None:
        self._samples: Deque[_Offset] = deque(maxlen=_SAMPLES_MAX)
        self._rate = rate or RateWatch()
        self._suspended: Optional[int] = None
        self._stall: Optional[_Stall] = None

    def handle_exchange(self, exchange: PongExchange) -> None:
        """Learns from a PONG, unless it carries no time or its times make no sense."""
        newest = _offset_of(exchange)
        if newest is None:
            return
        # A HEARTBEAT from before a stall may have been under way for longer than this machine's
        # clock tells.
        if self._stall is not None and exchange.t1_us < self._stall.seen_at // US:
            return
        error = newest.half_trip + newest.edge_bound
        self._rate.handle_sample(Point(newest.read_at, newest.offset, error))
        self._insert(newest)

    def clear(self) -> None:
        """Discards all samples, because the time that they describe is no longer valid."""
        self._samples.clear()
        self._rate.restart()
        self._stall = None

    def handle_suspended(self, now: int, suspended: int) -> bool:
        """Notes for how long the machine has been suspended in all. If that has jumped, discards
        all samples and returns true."""
        before = suspended if self._suspended is None else self._suspended
        self._suspended = suspended
        if abs(suspended - before) < SUSPENSION_MIN:
            return False
        doubt = 0 if _IS_SUSPENSION_CERTAIN else abs(suspended - before)
        self._handle_stall(now, max(0, suspended - before), doubt)
        return True

    def handle_stall(self, now: int) -> None:
        """Discards all samples, because this machine was seen to have stalled for seconds."""
        self._handle_stall(now, 0, 0)

    def handle_connection(self) -> None:
        """Records that the samples to come are those of another connection, whose edge may follow
        another clock."""
        self._rate.restart()

    def apart(self) -> Estimator:
        """Returns an estimator without samples that knows the rate of this machine's clock."""
        other = Estimator(self._rate.apart())
        other._suspended = self._suspended
        return other

    def take_over(self, other: Estimator) -> None:
        """Continues with what ``other`` has learned over a connection of its own."""
        self.handle_connection()
        for sample in other._samples:
            if self._stall is None or sample.read_at > self._stall.seen_at:
                self._insert(sample)

    @property
    def stalled_at(self) -> Optional[int]:
        """When this machine was last seen to have stalled."""
        return None if self._stall is None else self._stall.seen_at

    def estimate(self, now: int) -> Optional[Estimate]:
        """Returns authority time, or ``None`` if no usable PONG was read in the last 30 s."""
        best = self._best(now)
        return None if best is None else best.estimate(now, self._rate.drift_ppm, 0)

    def authority_at(self, now: int) -> Optional[int]:
        """Returns the same as :meth:`estimate` in nanoseconds, without the error bound."""
        best = self._best(now)
        return None if best is None else now + best.offset

    def estimate_lateness(self, now: int) -> Optional[Estimate]:
        """Returns authority time for telling how late something was: the estimate or, until there
        is one again after a stall, what the samples from before say, with a larger error."""
        estimate = self.estimate(now)
        if estimate is not None or self._stall is None or self._stall.before is None:
            return estimate
        return self._stall.before.estimate(now, self._rate.drift_ppm, _DOUBT)

    def _best(self, now: int) -> Optional[_Offset]:
        ppm = self._rate.drift_ppm
        usable = (sample for sample in self._samples if sample.counts_at(now))
        return min(usable, key=lambda sample: sample.aged_half_trip(now, ppm), default=None)

    def _insert(self, newest: _Offset) -> None:
        now, ppm = newest.read_at, self._rate.drift_ppm
        kept = [older for older in self._samples if older.counts_at(now)]
        # If intervals contradict each other, either the edge's clock was stepped or this machine
        # was stalled. The older samples no longer describe the present time.
        if not all(older.agrees_with(newest, now, ppm) for older in kept):
            kept = []
        self._samples.clear()
        self._samples.extend(kept)
        self._samples.append(newest)
        if self._stall is not None:
            self._stall = self._stall._replace(before=None)

    def _handle_stall(self, now: int, suspended_for: int, doubt: int) -> None:
        ppm = self._rate.drift_ppm
        before = min(
            self._samples, key=lambda sample: sample.aged_half_trip(now, ppm), default=None
        )
        if before is None and self._stall is not None:
            before = self._stall.before
        if before is not None:
            before = before._replace(
                offset=before.offset + suspended_for, edge_bound=before.edge_bound + doubt
            )
        self._stall = _Stall(now, before)
        self._samples.clear()
        self._rate.restart()


def _offset_of(exchange: PongExchange) -> Optional[_Offset]:
    """Computes the offset, or returns ``None`` if the exchange is no sample."""
    if not exchange.has_time:
        return None
    t1, t2 = exchange.t1_us * US, exchange.t2_us * US
    t3, t4 = exchange.t3_us * US, exchange.t4_us * US
    round_trip = (t4 - t1) - (t3 - t2)
    offset = (t2 - t1 + t3 - t4) // 2
    if round_trip < 0 or t4 < 0 or max(map(abs, (t1, t2, t3, offset, round_trip))) > _INT64_MAX:
        return None
    return _Offset(offset, (round_trip + 1) // 2, exchange.error_bound_us * US, t4)
