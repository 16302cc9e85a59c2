""":class:`FirstConnection`: what happens until a client is subscribed for the first time. Each
address is tried once, without a pause; one whose attempt was cut off is tried again, after the
others. If an edge does not know the time yet, further passes over the addresses follow until one
does."""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, NamedTuple, Optional, Union

from ._backoff import HINT_MAX
from ._units import MS, S
from .errors import ConnectError, Refused, TickstormError, TimeUnknown

TIMELESS_REST_MIN = 1 * S
"""The shortest rest of an address whose edge does not know the time."""


class Again(NamedTuple):
    """The next attempt is made at this address at once, because the last one was cut off."""

    address: int


class FirstConnection:
    """The attempts at ``count`` addresses."""

    def __init__(self, count: int) -> None:
        self._count = self._left = count
        self._refused: Optional[TickstormError] = None
        self._last: Optional[TickstormError] = None
        self._timeless_until: Dict[int, int] = {}
        """When each address whose edge did not know the time may be asked again."""
        self._cut_off: Deque[int] = deque()
        """The addresses whose attempt was cut off in this pass."""

    def handle_failure(self, index: int, error: TickstormError, is_no: bool, now: int) -> None:
        """Records a failed attempt at an address. ``is_no`` is true if it will fail again."""
        if knows_no_time(error):
            self._timeless_until[index] = now + timeless_rest(error)
        elif is_no:
            self._refused = self._refused or error
        else:
            if was_cut_off(error):
                self._cut_off.append(index)
            self._last = error

    def next_attempt(self, rested: int, now: int) -> Union[int, Again, TickstormError]:
        """Returns when to make the next attempt, after all edges of an address have failed, or the
        error with which to give up. The next address may be tried from ``rested`` on."""
        self._left = max(0, self._left - 1)
        if self._left > 0 and rested <= now:
            return now
        error = self._refused or self._last
        if not self._timeless_until and error is not None:
            if not self._cut_off:
                return error
            self._left = 0
            return Again(self._cut_off.popleft())
        soonest = min(self._timeless_until.values(), default=now)
        begins = max(soonest, now + TIMELESS_REST_MIN)
        self._begin_pass(begins)
        return begins

    def _begin_pass(self, now: int) -> None:
        """Begins another pass over the addresses at ``now``."""
        self._left, self._last = self._count, None
        self._cut_off.clear()
        later = {at: until for at, until in self._timeless_until.items() if until > now}
        self._timeless_until = later


def knows_no_time(error: TickstormError) -> bool:
    """Returns whether no subscription was made because the edge does not know the time yet."""
    return isinstance(error, TimeUnknown) or is_refusal(error, "NO_TIME")


def was_cut_off(error: TickstormError) -> bool:
    """Returns whether an attempt was cut off for the sake of other addresses."""
    return isinstance(error, ConnectError) and error.was_cut_off


def is_refusal(error: TickstormError, code: str) -> bool:
    """Returns whether the edge gave this reason."""
    return isinstance(error, Refused) and error.code == code


def timeless_rest(error: TickstormError) -> int:
    """Returns how long the address of an edge that does not know the time rests."""
    return min(max(retry_after(error), TIMELESS_REST_MIN), HINT_MAX)


def retry_after(error: TickstormError) -> int:
    """Returns the edge's hint for how long to wait, or 0."""
    return error.retry_after_ms * MS if isinstance(error, Refused) else 0
