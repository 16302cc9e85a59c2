""":class:`Comebacks`: when and where to connect after a failure, by the kind of the failure."""

from __future__ import annotations

from typing import Callable, Optional, Union

from ._backoff import HINT_MAX, Addresses, Backoff
from ._first import FirstConnection, is_refusal, retry_after, timeless_rest
from ._units import MS, fraction
from .errors import Awaited, ComeBack, EdgeTimeout, TickstormError, TimeUnknown

_LEAVING_WAIT_MAX = 500 * MS
"""The upper limit of the first wait after this client left an edge on its own account."""


class Comebacks:
    """The waits, and the ``count`` addresses. ``random`` returns numbers from 0 to 1. In all
    methods, ``is_no`` is true for a refusal that will recur."""

    def __init__(self, count: int, random: Callable[[], float]) -> None:
        self.addresses = Addresses(count)
        self.sparing = False
        """Whether an edge has answered RATE_LIMITED, so that this client must send fewer frames."""
        self._backoff = Backoff()
        self._first = FirstConnection(count)
        self._random = random

    def after_first(
        self, index: int, error: TickstormError, is_no: bool, now: int
    ) -> Union[int, TickstormError]:
        """Returns when to make the next attempt to connect for the first time, or the error with
        which to give up."""
        self._handle_failed_address(index, error, is_no, now)
        self._first.handle_failure(index, error, is_no, now)
        return self._first.next_attempt(self.addresses.advance(now), now)

    def after_end(
        self, error: TickstormError, subscribed_for: Optional[int], is_no: bool, now: int
    ) -> int:
        """Returns when to connect after a connection ended, or could not be made: then there was no
        subscription, and ``subscribed_for`` is ``None``."""
        was_subscribed = subscribed_for is not None
        # A single name may lead to other edges, such as those behind a balancer. One attempt shows
        # whether it leads to one that knows the time.
        is_single = len(self.addresses) == 1
        if not (is_refusal(error, "NO_TIME") and was_subscribed and is_single):
            self._handle_failed_address(self.addresses.current, error, is_no, now)
        hint = self._hint(error, was_subscribed)
        wait = self._backoff.wait(hint, subscribed_for or 0, self._random())
        return max(now + wait, self.addresses.advance(now))

    def after_failed_move(
        self, target: int, error: TickstormError, is_no: bool, now: int
    ) -> int:
        """Returns from when on the address after ``target`` may be tried."""
        current, earliest = self.addresses.current, now
        is_later = error.come_back in (ComeBack.LATER, ComeBack.ELSEWHERE)
        # The hint of SERVER_DRAINING is about where to go, and not about that edge.
        if is_later and not is_refusal(error, "SERVER_DRAINING"):
            earliest = now + min(retry_after(error), HINT_MAX)
        # The name that is in use leads to different edges. What one of them hinted does not keep
        # the client from coming back to that name when its connection has ended.
        if target != current or not is_refusal(error, "NO_TIME"):
            self._handle_failed_address(target, error, is_no, now)
        if target != current:
            self.addresses.rest(target, earliest)
            earliest = now
        return max(self.addresses.after(target, now)[1], earliest)

    def _handle_failed_address(
        self, index: int, error: TickstormError, is_no: bool, now: int
    ) -> None:
        self.sparing = self.sparing or is_refusal(error, "RATE_LIMITED")
        if is_no:
            self.addresses.handle_refusal(index, now, self._random())
        elif is_refusal(error, "NO_TIME"):
            self.addresses.rest(index, now + timeless_rest(error))

    def _hint(self, error: TickstormError, was_subscribed: bool) -> int:
        left_by_itself = was_subscribed and (
            isinstance(error, TimeUnknown)
            or (isinstance(error, EdgeTimeout) and error.awaited is not Awaited.AUTHENTICATION)
        )
        # The hint of NO_TIME is about that edge. Another one may well know the time.
        may_go_elsewhere = is_refusal(error, "NO_TIME") and (
            len(self.addresses) > 1 or was_subscribed
        )
        if left_by_itself or may_go_elsewhere:
            return max(MS, fraction(_LEAVING_WAIT_MAX, self._random()))
        return retry_after(error)
