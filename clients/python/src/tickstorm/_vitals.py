""":class:`Vitals`: whether an edge is still of use to a subscription. An edge may be connected and
yet send no ticks, because it has lost the time, or because it or the path to it has died without a
word."""

from __future__ import annotations

from typing import Optional

from ._estimate import Estimator
from ._units import MS, NEVER, S
from .errors import Awaited, EdgeTimeout, TickstormError, TimeUnknown
from .events import Mode

_ASK_AFTER = 1 * S
"""How late a tick must be before the client asks the edge for signs of life."""
_SILENT_AFTER = 4 * S
_ANSWER_MAX = 2 * S
_TIMELESS_MAX = 5 * S
_TICKLESS_MAX = 5 * S
_FIRST_TICK_MAX = 10 * S


class Vitals:
    """The signs of life of the edge of a subscription that was acknowledged at ``now``."""

    def __init__(self, mode: Mode, start_ms: int, now: int) -> None:
        self._mode = mode
        self._last_ms = start_ms
        self._has_ticked = False
        self._listening_since = now
        self._heard_at = now
        self._asked_at: Optional[int] = None
        self._timeless_since: Optional[int] = None

    def handle_bytes(self, now: int) -> None:
        """Records that bytes of any kind arrived."""
        self._heard_at = now
        self._asked_at = None

    def handle_ticks(self, last_ms: int, now: int) -> None:
        """Records that ticks arrived, and which was the last."""
        self._last_ms = last_ms
        self._has_ticked = True
        self._listening_since = max(self._listening_since, now)
        self._timeless_since = None

    def handle_pong(self, has_time: bool, estimator: Estimator, now: int) -> None:
        """Records a PONG, and whether it carried the time."""
        if has_time:
            self._timeless_since = None
        elif self._timeless_since is None:
            self._timeless_since = min(now, self._due(estimator, now))

    def handle_heartbeat(self, estimator: Estimator, now: int) -> None:
        """Records that a HEARTBEAT is sent."""
        if self._asked_at is None and self.wants_answer(estimator, now):
            self._asked_at = now

    def forgive(self, now: int) -> None:
        """Records that until now this client could not tell, because it did not read or its machine
        stalled. Only what the edge does afterwards counts."""
        self._listening_since = now
        self._heard_at = now
        self._asked_at = None
        self._timeless_since = None

    def wants_answer(self, estimator: Estimator, now: int) -> bool:
        """Returns whether a tick is so late that HEARTBEATs should be sent often."""
        return now >= self._due(estimator, now) + _ASK_AFTER

    def poll(self, estimator: Estimator, now: int) -> Optional[TickstormError]:
        """Returns why to leave the edge, if there is a reason."""
        due = self._due(estimator, now)
        if now >= self._silent_at(due):
            return EdgeTimeout(Awaited.ANYTHING, (now - self._heard_at) / S)
        if self._timeless_since is not None and now >= self._timeless_since + _TIMELESS_MAX:
            return TimeUnknown((now - self._timeless_since) / S)
        if now - due >= self._tickless_max() and estimator.authority_at(now) is not None:
            return EdgeTimeout(Awaited.TICK, (now - due) / S)
        return None

    def next_change(self, estimator: Estimator, now: int) -> int:
        """Returns when :meth:`wants_answer` or :meth:`poll` may next have another result."""
        due = self._due(estimator, now)
        since = self._timeless_since
        moments = (
            due + _ASK_AFTER,
            due + self._tickless_max(),
            self._silent_at(due),
            NEVER if since is None else since + _TIMELESS_MAX,
        )
        return min((at for at in moments if at > now), default=NEVER)

    def _tickless_max(self) -> int:
        return _TICKLESS_MAX if self._has_ticked else _FIRST_TICK_MAX

    def _silent_at(self, due: int) -> int:
        if self._asked_at is None:
            return NEVER
        return max(due + _SILENT_AFTER, self._asked_at + _ANSWER_MAX)

    def _due(self, estimator: Estimator, now: int) -> int:
        """Returns when the next tick is due: at its own time or, without an estimate, a period
        after the last one arrived. A client that subscribes ahead gets its ticks earlier, but they
        are late only from their own time on."""
        authority = estimator.authority_at(now)
        if authority is None:
            return self._listening_since + self._mode.period_ms * MS
        due = now + self._mode.next_after(self._last_ms) * MS - authority
        return max(due, self._listening_since)
