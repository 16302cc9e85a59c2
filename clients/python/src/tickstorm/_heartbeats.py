"""The schedule of a connection's HEARTBEATs: a few in quick succession at the start, to learn the
time, and then often enough for the edge, and for a client that releases ticks itself."""

from __future__ import annotations

from ._units import MS, S

_OPENING_COUNT = 8
_OPENING_INTERVAL = 100 * MS
_EXACT_INTERVAL = 2 * S
_TIMELESS_INTERVAL = 1 * S
_SPARING_INTERVAL = 2 * S
"""The interval that replaces the one before it, for a client to which an edge has answered
RATE_LIMITED. It is also the shortest one, unless the edge's own interval is shorter."""
_INTERVAL_MIN = 100 * MS
"""The shortest interval that is accepted, so that no edge can make a client send continuously."""
_FRAMES_INTERVAL = 2 * S
"""The shortest interval at an edge that allows one frame per second, and that divided by the rate
at others. A client sends at two thirds of the interval, less the jitter, which leaves 1.2 times the
time of a frame."""
_JITTER = 0.1


class Heartbeats:
    """The schedule, starting with the ACK of AUTH. The first HEARTBEAT is due at once. The edge
    allows ``frame_rate`` frames per second; 0 means that it did not say how many. Those at the
    start fit into the burst that every edge allows; the later ones keep to the rate."""

    def __init__(self, interval: int, frame_rate: int, now: int, sparing: bool) -> None:
        allowed = _FRAMES_INTERVAL // frame_rate if frame_rate else 0
        self._interval = max(interval, _INTERVAL_MIN, allowed)
        self._last = 0
        self._exact = False
        self._random = 0.5
        self._opening_left = 1 if sparing else _OPENING_COUNT
        timeless = _SPARING_INTERVAL if sparing else _TIMELESS_INTERVAL
        self._timeless = max(timeless, allowed * 2 // 3)
        steady = self._interval * 2 // 3
        self._least = min(steady, _SPARING_INTERVAL) if sparing else 0
        self._edge_knows_time = False
        self.next = now

    def require_exact_time(self, now: int) -> None:
        """Brings the next HEARTBEAT forward, because the client now needs the exact time."""
        self.next = min(self.next, now + _EXACT_INTERVAL)

    def handle_pong(self, has_time: bool) -> None:
        """Records whether a PONG carried the time. HEARTBEATs are frequent until one does."""
        knew_time, self._edge_knows_time = self._edge_knows_time, has_time
        if not has_time:
            self.hasten(self._last)
        elif not knew_time and self._opening_left == 0:
            self.next = self._last + self._wait()

    def hasten(self, now: int) -> None:
        """Brings the next HEARTBEAT forward to ``now``, but not too close to the last one."""
        self.next = min(self.next, max(now, self._last + self._timeless))

    def handle_sent(self, now: int, exact: bool, random: float) -> None:
        """Records that a HEARTBEAT is sent, and schedules the next one."""
        self._last, self._exact, self._random = now, exact, random
        self._opening_left = max(0, self._opening_left - 1)
        self.next = now + (_OPENING_INTERVAL if self._opening_left > 0 else self._wait())

    def _wait(self) -> int:
        wait = self._interval * 2 // 3
        if not self._edge_knows_time:
            wait = min(wait, self._timeless)
        elif self._exact:
            wait = min(wait, _EXACT_INTERVAL)
        return max(self._least, int(wait * (1 - _JITTER + 2 * _JITTER * self._random)))
