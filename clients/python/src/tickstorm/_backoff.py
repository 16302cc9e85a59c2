"""How long a client waits before it connects again (:class:`Backoff`), and to which address
(:class:`Addresses`). Nothing here reads a clock or draws random numbers: a ``random`` is any number
from 0 to 1, a different one each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

from ._units import S, fraction

_BOUND_MIN = 1 * S
"""The upper bound of the first random wait. It doubles with each further wait."""
_BOUND_MAX = 30 * S
_SETTLED_AFTER = 30 * S
"""A subscription that lasted this long resets the backoff."""
HINT_MAX = 60 * S
"""The longest wait that a hint can cause."""
_REFUSED_REST_MIN = 60 * S
"""The shortest rest of an address whose edge refused this client for a reason that will recur."""


class Backoff:
    """The waits between connections, which grow with each consecutive failure."""

    def __init__(self) -> None:
        self._bound = _BOUND_MIN

    def wait(self, hint: int, subscribed_for: int, random: float) -> int:
        """Returns the wait after a connection that was subscribed for a time, or after an attempt.
        ``hint`` is the edge's wish, or 0."""
        if subscribed_for >= _SETTLED_AFTER:
            self._bound = _BOUND_MIN
        is_first = self._bound == _BOUND_MIN
        drawn = fraction(self._bound, random)
        self._bound = min(self._bound * 2, _BOUND_MAX)
        hint = min(hint, HINT_MAX)
        return hint if is_first and hint > 0 else max(drawn, hint)


@dataclass
class _AddressState:
    refusals: int = 0
    """The number of refusals since a subscription was last made there."""
    rests_until: int = 0


class Addresses:
    """Which of ``count`` addresses to try next."""

    def __init__(self, count: int) -> None:
        self._states: List[_AddressState] = [_AddressState() for _ in range(count)]
        self._tried: Optional[int] = None
        self.current = 0
        """The index of the address that is in use, or was tried last."""

    def __len__(self) -> int:
        return len(self._states)

    def select(self, index: int) -> None:
        """Makes an address the one in use."""
        self.current = index
        self._tried = None

    def handle_attempt(self, index: int) -> None:
        """Records that an attempt was made at an address beside the one in use, so that the next
        attempt is made at the address after it."""
        self._tried = index

    def handle_refusal(self, index: int, now: int, random: float) -> None:
        """Records that the edge at an address refused this client, and will again."""
        state = self._states[index]
        bound = min(_BOUND_MIN << min(state.refusals, 10), _BOUND_MAX)
        state.refusals += 1
        state.rests_until = now + _REFUSED_REST_MIN + fraction(bound, random)

    def rest(self, index: int, until: int) -> None:
        """Lets an address rest, because its edge is of no use until then."""
        state = self._states[index]
        state.rests_until = max(state.rests_until, until)

    def handle_success(self, index: int) -> None:
        """Records that a subscription was made at an address."""
        self._states[index] = _AddressState()

    def after(self, index: int, now: int) -> Tuple[int, int]:
        """Returns the address to try after ``index``, and from when on: the next one that does not
        rest, or else the one whose rest ends first."""
        count = len(self._states)
        turn = [(index + step) % count for step in range(1, count + 1)]
        best = min(turn, key=lambda each: max(self._states[each].rests_until, now))
        return best, max(self._states[best].rests_until, now)

    def advance(self, now: int) -> int:
        """Moves on to the next address, and returns from when on it may be tried."""
        last = self.current if self._tried is None else self._tried
        index, since = self.after(last, now)
        self.select(index)
        return since
