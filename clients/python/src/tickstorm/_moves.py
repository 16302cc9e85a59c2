""":class:`Move`: when a client that its edge has asked to move tries another edge."""

from __future__ import annotations

from typing import Optional

from ._units import MS, S, fraction

_MARGIN_MIN = 500 * MS
_MARGIN_MAX = 5 * S
_RETRY_MIN = 500 * MS
_RETRY_MAX = 4 * S


class Move:
    """A move that must be over ``within`` a time from now. Many clients are asked at once, so each
    moves at a random moment. ``random`` is any number from 0 to 1."""

    def __init__(self, within: int, now: int, random: float) -> None:
        self._deadline = now + within
        self._next = now + fraction(_span(within), random)
        self._retry = _RETRY_MIN

    def handle_again(self, within: int, now: int, random: float) -> None:
        """Records that the edge asks again. Its new deadline holds. An attempt that is planned
        stays planned, unless that leaves too little time."""
        again = Move(within, now, random)
        if now > self._deadline:
            self._next, self._retry = again._next, again._retry
        elif self._next > now + _span(within):
            self._next = min(self._next, again._next)
        self._deadline = again._deadline

    @property
    def next_attempt(self) -> Optional[int]:
        """When to make the next attempt, or ``None`` if there is no time for another one."""
        return self._next if self._next <= self._deadline else None

    def handle_failure(self, rested: int, now: int, random: float) -> None:
        """Records that an attempt has failed, or led back to the same edge, and that the next
        address may be tried from ``rested`` on."""
        half = self._retry // 2
        self._next = max(now + half + fraction(half, random), rested)
        self._retry = min(self._retry * 2, _RETRY_MAX)


def _span(within: int) -> int:
    """Returns the time over which clients spread their first attempts."""
    return max(0, within - min(max(within // 4, _MARGIN_MIN), _MARGIN_MAX))
