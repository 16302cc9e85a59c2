""":class:`Comebacks`: when and where to connect after a failure, by the kind of the failure."""

from __future__ import annotations

from typing import Callable, Optional, Union

from ._backoff import HINT_MAX, Addresses, Backoff
from ._first import (
    Again,
    FirstConnection,
    is_refusal,
    retry_after,
    timeless_rest,
    was_cut_off,
)
from ._units import MS, S, fraction
from .errors import Awaited, ComeBack, EdgeTimeout, TickstormError, TimeUnknown

_LEAVING_WAIT_MAX = 500 * MS
"""The upper limit of the first wait after this client left an edge on its own account."""
_BRIEF_MAX = 1 * S
"""The limit for an attempt to connect while other addresses are left to try."""


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

    def limit(self, now: int) -> Optional[int]:
        """Returns the limit of an attempt to connect to the current address that begins now, or
        ``None`` for the usual limits."""
        return _BRIEF_MAX if self.addresses.handle_attempt_in_use(now) else None

    def after_first(
        self, index: int, error: TickstormError, is_no: bool, now: int
    ) -> Union[int, TickstormError]:
        """Returns when to make the next attempt to connect for the first time, or the error with
        which to give up."""
        self._handle_failed_address(index, error, is_no, now)
        self._first.handle_failure(index, error, is_no, now)
        if self.addresses.has_more_edges(index):
            return now
        outcome = self._first.next_attempt(self.addresses.advance(now), now)
        if isinstance(outcome, Again):
            self.addresses.select(outcome.address)
            return now
        return outcome

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
        if was_cut_off(error):
            # The time of the attempt was wait enough: clients whose edge failed are as spread out
            # as before it.
            return self.addresses.advance(now)
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
        if self.addresses.has_more_edges(target):
            # Another edge of the name did not give this hint.
            earliest = now
        if target != current:
            self.addresses.rest(target, earliest)
            earliest = now
        return max(self.addresses.after(target, now)[1], earliest)

    def _handle_failed_address(
        self, index: int, error: TickstormError, is_no: bool, now: int
    ) -> None:
        self.sparing = self.sparing or is_refusal(error, "RATE_LIMITED")
        is_timeless = is_refusal(error, "NO_TIME")
        if not self.addresses.handle_failure(index, is_no or is_timeless):
            return
        if is_no:
            self.addresses.handle_refusal(index, now, self._random())
        else:
            self.addresses.rest(index, now + timeless_rest(error))

    def _hint(self, error: TickstormError, was_subscribed: bool) -> int:
        left_by_itself = was_subscribed and (
            isinstance(error, TimeUnknown)
            or (isinstance(error, EdgeTimeout) and error.awaited is not Awaited.AUTHENTICATION)
        )
        # The hint of NO_TIME is about that edge. Another one may well know the time.
        may_go_elsewhere = is_refusal(error, "NO_TIME") and (
            len(self.addresses) > 1
            or was_subscribed
            or self.addresses.has_more_edges(self.addresses.current)
        )
        if left_by_itself or may_go_elsewhere:
            return max(MS, fraction(_LEAVING_WAIT_MAX, self._random()))
        return retry_after(error)
