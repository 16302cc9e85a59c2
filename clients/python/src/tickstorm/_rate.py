"""The rate of this machine's clock against authority time, over minutes. Error bounds assume a
drift of at most 200 ppm; a machine whose clock is worse is noticed here. The rate is a property of
this machine, so it is kept when offsets begin again, until it has been measured again."""

from __future__ import annotations

from collections import deque
from typing import Deque, List, NamedTuple, Optional, Tuple

from ._units import S

ASSUMED_PPM = 200
_PPM_MAX = 100_000
"""The largest drift that is believed. Beyond it, the bound would say nothing anyway."""
_WINDOW = 20 * S
"""The time over which the best sample is chosen."""
_APART_MIN = 5 * S
"""The shortest time between two points that shows a rate."""
_POINTS = 5
"""The number of points kept. The rates between all neighbours must agree, so that a jump of a clock
is not taken for a rate."""
_RATES_MIN = 3
_SPAN_MIN = 60 * S


class Point(NamedTuple):
    """An offset at one moment."""

    at: int
    offset: int
    error: int


class RateWatch:
    """The points of the last minutes."""

    def __init__(self, measured_ppm: int = 0) -> None:
        self._points: Deque[Point] = deque(maxlen=_POINTS)
        self._current: Optional[Tuple[int, Point]] = None
        self._measured_ppm = measured_ppm

    def handle_sample(self, point: Point) -> None:
        """Records a sample."""
        if self._current is None:
            self._current = (point.at, point)
            return
        since, best = self._current
        if point.error < best.error:
            best = point
        self._current = (since, best)
        if point.at - since >= _WINDOW:
            self._points.append(best)
            self._current = None
            self._measure()

    def restart(self) -> None:
        """Forgets all points, because offsets to come do not continue those so far."""
        self._points.clear()
        self._current = None

    def apart(self) -> RateWatch:
        """Returns another watch without points that knows the same rate."""
        return RateWatch(self._measured_ppm)

    @property
    def drift_ppm(self) -> int:
        """The drift to assume, in parts per million."""
        return max(self._measured_ppm, ASSUMED_PPM)

    def _measure(self) -> None:
        if self._points[-1].at - self._points[0].at < _SPAN_MIN:
            return
        rates: List[Tuple[int, int]] = []
        earlier = self._points[0]
        for later in list(self._points)[1:]:
            if later.at - earlier.at >= _APART_MIN:
                rates.append(_rate_between(earlier, later))
                earlier = later
        if len(rates) < _RATES_MIN:
            return
        least, most = max(rate[0] for rate in rates), min(rate[1] for rate in rates)
        # A clock that jumped has no rate, and another rate each time. The edge's clock may be
        # slewed meanwhile.
        if least > most + ASSUMED_PPM:
            return
        is_excessive = all(rate[0] > ASSUMED_PPM for rate in rates) or all(
            rate[1] < -ASSUMED_PPM for rate in rates
        )
        bound = max(min(max(abs(rate[0]), abs(rate[1])), _PPM_MAX) for rate in rates)
        self._measured_ppm = bound if is_excessive else min(self._measured_ppm, bound)


def _rate_between(earlier: Point, later: Point) -> Tuple[int, int]:
    """Returns the interval in which the rate lies, in parts per million."""
    apart, moved = later.at - earlier.at, later.offset - earlier.offset
    errors = earlier.error + later.error
    return _ppm(moved - errors, apart), _ppm(moved + errors, apart)


def _ppm(moved: int, apart: int) -> int:
    ppm = abs(moved) * 1_000_000 // apart
    return ppm if moved >= 0 else -ppm
