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
_REFUSALS_IN_A_ROW_MAX = 16
"""The largest number of refusals in a row before an address rests, however many IP addresses its
name has."""


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
    """The number of rests because of a refusal since a subscription was last made there."""
    rests_until: int = 0
    ip_addresses: int = 1
    """The number of IP addresses that the name had at the last connection."""
    refused_in_a_row: int = 0
    """The number of attempts in a row that were refused. It starts again after each rest."""
    was_tried: bool = False
    """Whether an attempt was made here since the last subscription."""


class Addresses:
    """Which of ``count`` addresses to try next, and whether briefly. All IP addresses of a name are
    tried before it rests."""

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

    def handle_attempt_in_use(self, now: int) -> bool:
        """Records that an attempt is made at the address in use. Returns whether it must be brief,
        because another address may be tried now, and was not tried since the last subscription."""
        self._states[self.current].was_tried = True
        return any(not each.was_tried and each.rests_until <= now for each in self._states)

    def handle_connection(self, index: int, ip_addresses: int) -> None:
        """Records that a connection was made to an address, whose name has so many IP addresses."""
        self._states[index].ip_addresses = ip_addresses

    def handle_failure(self, index: int, is_refused: bool) -> bool:
        """Records that a connection to an address ended, or was not made. Returns whether the
        address must rest: if it is refused, unless another IP address of its name may lead to
        another edge."""
        state = self._states[index]
        state.refused_in_a_row = state.refused_in_a_row + 1 if is_refused else 0
        must_rest = is_refused and state.refused_in_a_row >= min(
            state.ip_addresses, _REFUSALS_IN_A_ROW_MAX
        )
        if must_rest:
            state.refused_in_a_row = 0
        return must_rest

    def has_more_edges(self, index: int) -> bool:
        """Returns whether the next attempt at this address leads to another IP address of its name,
        because an edge at the last one has refused this client."""
        return self._states[index].refused_in_a_row > 0

    def handle_refusal(self, index: int, now: int, random: float) -> None:
        """Lets an address rest, because the edges there refused this client, and will again."""
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
        self._states[index] = _AddressState(ip_addresses=self._states[index].ip_addresses)
        for state in self._states:
            state.was_tried = False

    def after(self, index: int, now: int) -> Tuple[int, int]:
        """Returns the address to try after ``index``, and from when on: the same one while its name
        has more edges, or the next one that does not rest, or else the one whose rest ends first.
        """
        if self.has_more_edges(index):
            return index, max(self._states[index].rests_until, now)
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
