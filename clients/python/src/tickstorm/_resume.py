""":class:`Resume`: the position of a subscription, which outlives its connections."""

from __future__ import annotations

import enum
from typing import Optional

from .errors import ComeBack
from .events import Mode


class Continuity(enum.Enum):
    """The relation of a tick to the last one."""

    NEXT = enum.auto()
    AFTER_GAP = enum.auto()
    """The ticks in between cannot be obtained."""
    AGAIN = enum.auto()
    """The tick is not later than the last one."""


class Resume:
    """The last tick, or the point at which the subscription started."""

    def __init__(self, mode: Mode, point_ms: Optional[int]) -> None:
        self.mode = mode
        self.point_ms = point_ms
        """The resume point of the next SUBSCRIBE."""
        self._other_ms: Optional[int] = None
        """The point up to which the program has received the ticks of the other mode, if the mode
        was changed."""
        self._refused_once = False

    def point_in(self, mode: Mode, present_ms: Optional[int]) -> Optional[int]:
        """Returns the resume point for a change to another mode. After SECOND ticks, the MINUTE
        ticks after the last of them follow. After MINUTE ticks, the SECOND ticks from the present
        on follow, and not those of the minute before. No tick is repeated that the program has
        received in an earlier use of that mode."""
        point_ms = self.point_ms
        if mode.period_ms < self.mode.period_ms:
            # The millisecond has begun, but a tick at its very start may still be to come.
            last_ms, point_ms = point_ms, None if present_ms is None else present_ms - 1
            if last_ms is not None and point_ms is not None:
                # A tick of the old mode may be due that has not arrived. The SECOND tick at the
                # same moment takes its place.
                due_ms = self.mode.next_after(point_ms) - self.mode.period_ms
                if due_ms > last_ms:
                    point_ms = due_ms - 1
        if point_ms is None or self._other_ms is None:
            return point_ms
        return max(point_ms, self._other_ms)

    def handle_change(
        self, mode: Mode, point_ms: Optional[int], start_ms: int, dropped_ms: Optional[int]
    ) -> None:
        """Records that an edge accepted ``mode`` with the resume point ``point_ms``, and sends the
        ticks after ``start_ms``. ``dropped_ms`` is the first tick of the old mode that the program
        will not receive because of the change."""
        if mode is not self.mode:
            received_ms = self.point_ms
            if received_ms is not None and dropped_ms is not None:
                received_ms = min(received_ms, dropped_ms - 1)
            if point_ms is None and self._other_ms is not None:
                start_ms = max(start_ms, self._other_ms)
            self.mode, self._other_ms = mode, received_ms
        self.point_ms = point_ms
        self.handle_start(start_ms)

    def handle_start(self, start_ms: int) -> None:
        """Records that an edge accepted the subscription and sends the ticks after ``start_ms``."""
        self._refused_once = False
        if self.point_ms is None:
            self.point_ms = start_ms

    def handle_tick(self, epoch_ms: int) -> Continuity:
        """Records a tick, and returns how it relates to the last one."""
        point_ms = self.point_ms
        if point_ms is not None and epoch_ms <= point_ms:
            return Continuity.AGAIN
        self.point_ms = epoch_ms
        if point_ms is not None and epoch_ms > self.mode.next_after(point_ms):
            return Continuity.AFTER_GAP
        return Continuity.NEXT

    def classify(self, come_back: ComeBack) -> ComeBack:
        """Returns how to come back, considering whether there was a resume point."""
        if come_back is ComeBack.RETRY_RESUME_ONCE and self.point_ms is None:
            return ComeBack.NO
        return come_back

    def handle_end(self, come_back: ComeBack) -> ComeBack:
        """Records that a connection ended or could not be made. Returns how to come back;
        AT_ONCE_WITHOUT_RESUME means that there no longer is a resume point."""
        come_back = self.classify(come_back)
        if come_back is ComeBack.RETRY_RESUME_ONCE and not self._refused_once:
            self._refused_once = True
            return ComeBack.AT_ONCE
        if come_back in (ComeBack.RETRY_RESUME_ONCE, ComeBack.AT_ONCE_WITHOUT_RESUME):
            self.point_ms = self._other_ms = None
            self._refused_once = False
            return ComeBack.AT_ONCE_WITHOUT_RESUME
        return come_back
