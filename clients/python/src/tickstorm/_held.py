""":class:`Held`: the events that have not been handed on yet. Ticks that arrive ahead of their time
are held until the estimate of authority time reaches it. All other events keep their positions
among the ticks.

After this machine was suspended or stalled, no tick is released until the time is known again.
Those whose time has passed meanwhile are then released at once."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Deque, Optional, Tuple

from ._estimate import Estimator
from ._units import MS, NEVER, US
from .events import Event, Gap, Mode, Quality, Tick

HELD_MAX = 64
"""The number of ticks that wait for their time beyond which the connection is not read. Since an
edge is 800 ms ahead, the usual number is one or two."""


class Held:
    """The events, in the order in which they arrived."""

    def __init__(self) -> None:
        self._events: Deque[Tuple[Event, bool]] = deque()
        self._last_known: Optional[Tuple[int, int]] = None
        self._passed_ms: Optional[int] = None
        """The last tick that arrived as REPLAY. Its time has passed, and that of all ticks before
        it, even if authority time is not known. They must not wait for it, because the PONG that
        tells it may be behind them."""

    def __len__(self) -> int:
        return len(self._events)

    @property
    def is_full(self) -> bool:
        """Whether so many ticks wait for their time that the connection should not be read. Events
        behind them do not count: the PONG that tells the time may come after those."""
        return sum(self._waits(*each) for each in self._events) >= HELD_MAX

    def push(self, event: Event, ahead: bool = False) -> None:
        """Appends an event. With ``ahead``, a tick is held until its time."""
        is_held = False
        if ahead and isinstance(event, Tick):
            is_held = event.quality is not Quality.REPLAY
            if not is_held and (self._passed_ms is None or event.epoch_ms > self._passed_ms):
                self._passed_ms = event.epoch_ms
        self._events.append((event, is_held))

    def drop_ticks(self) -> None:
        """Drops ticks, because authority time was stepped back or the resume point was given up."""
        self._last_known = self._passed_ms = None
        kept = [held for held in self._events if not isinstance(held[0], (Tick, Gap))]
        self._events = deque(kept)

    def drop_coarser(self, mode: Mode, present_ms: Optional[int]) -> Optional[int]:
        """Drops the ticks of a mode coarser than ``mode`` that are held until their time, because
        the ticks of ``mode`` would wait behind them. Those include the ticks at the same moments.
        Returns the first one that was dropped."""
        first_ms: Optional[int] = None
        kept: Deque[Tuple[Event, bool]] = deque()
        for event, is_held in self._events:
            if (
                isinstance(event, Tick)
                and self._waits(event, is_held)
                and event.mode.period_ms > mode.period_ms
                and (present_ms is None or event.epoch_ms > present_ms)
            ):
                first_ms = event.epoch_ms if first_ms is None else first_ms
            else:
                kept.append((event, is_held))
        self._events = kept
        return first_ms

    def handle_end(self, estimator: Estimator, now: int) -> None:
        """The subscription has ended for good: continues with what was known of the time. If the
        time was never known, drops the ticks."""
        if self.due(estimator, now) < NEVER or not self._events:
            return
        before = estimator.estimate_lateness(now)
        if before is None:
            self.drop_ticks()
        else:
            # Later than at its time, but not before.
            self._last_known = (now, (before.unix_us - before.error_us) * US)

    def due(self, estimator: Estimator, now: int) -> int:
        """Returns when the first event is due; NEVER if there is none, or if it is a tick and
        authority time was never known."""
        authority = estimator.authority_at(now)
        stalled_at = estimator.stalled_at
        if authority is not None:
            self._last_known = (now, authority)
        elif self._last_known and stalled_at is not None and stalled_at > self._last_known[0]:
            self._last_known = None
        if not self._events:
            return NEVER
        event, is_held = self._events[0]
        if not isinstance(event, Tick) or not self._waits(event, is_held):
            return now
        if self._last_known is None:
            return NEVER
        at, known = self._last_known
        return at + max(0, event.epoch_ms * MS - known)

    def pop(self, estimator: Estimator, now: int) -> Optional[Event]:
        """Removes and returns the first event if it is due."""
        if self.due(estimator, now) > now:
            return None
        event, is_held = self._events.popleft()
        if is_held and isinstance(event, Tick):
            return replace(event, read=estimator.estimate_lateness(now))
        return event

    def _waits(self, event: Event, is_held: bool) -> bool:
        """Returns whether an event is a tick whose time may not have come yet."""
        if not is_held or not isinstance(event, Tick):
            return False
        return self._passed_ms is None or event.epoch_ms > self._passed_ms
