""":class:`FirstConnection`: what happens until a client is subscribed for the first time. Each
address is tried once, without a pause. If an edge does not know the time yet, further passes over
the addresses follow until one does."""

from __future__ import annotations

from typing import Dict, Optional, Union

from ._backoff import HINT_MAX
from ._units import MS, S
from .errors import Refused, TickstormError, TimeUnknown

TIMELESS_REST_MIN = 1 * S
"""The shortest rest of an address whose edge does not know the time."""


class FirstConnection:
    """The attempts at ``count`` addresses."""

    def __init__(self, count: int) -> None:
        self._count = self._left = count
        self._refused: Optional[TickstormError] = None
        self._last: Optional[TickstormError] = None
        self._timeless_until: Dict[int, int] = {}
        """When each address whose edge did not know the time may be asked again."""

    def handle_failure(self, index: int, error: TickstormError, is_no: bool, now: int) -> None:
        """Records a failed attempt at an address. ``is_no`` is true if it will fail again."""
        self._left -= 1
        self._timeless_until.pop(index, None)
        if knows_no_time(error):
            self._timeless_until[index] = now + timeless_rest(error)
        elif is_no:
            self._refused = self._refused or error
        else:
            self._last = error

    def next_attempt(self, rested: int, now: int) -> Union[int, TickstormError]:
        """Returns when to make the next attempt, or the error with which to give up. The next
        address may be tried from ``rested`` on."""
        if self._left > 0 and rested <= now:
            return now
        error = self._refused or self._last
        if not self._timeless_until and error is not None:
            return error
        self._left, self._last = self._count, None
        soonest = min(self._timeless_until.values(), default=now)
        return max(soonest, now + TIMELESS_REST_MIN)


def knows_no_time(error: TickstormError) -> bool:
    """Returns whether no subscription was made because the edge does not know the time yet."""
    return isinstance(error, TimeUnknown) or is_refusal(error, "NO_TIME")


def is_refusal(error: TickstormError, code: str) -> bool:
    """Returns whether the edge gave this reason."""
    return isinstance(error, Refused) and error.code == code


def timeless_rest(error: TickstormError) -> int:
    """Returns how long the address of an edge that does not know the time rests."""
    return min(max(retry_after(error), TIMELESS_REST_MIN), HINT_MAX)


def retry_after(error: TickstormError) -> int:
    """Returns the edge's hint for how long to wait, or 0."""
    return error.retry_after_ms * MS if isinstance(error, Refused) else 0
