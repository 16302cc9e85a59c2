""":class:`ModeChange`: a change of a subscription's mode, on the connection in use or with the next
one."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ._estimate import Estimator
from ._resume import Resume
from ._session import Request
from .events import Mode


class _Wanted(NamedTuple):
    mode: Mode
    resume_after_ms: Optional[int]


class ModeChange:
    """The change that is wanted, until the edge has accepted it."""

    def __init__(self) -> None:
        self._wanted: Optional[_Wanted] = None
        self._asked: Optional[_Wanted] = None
        """What the edge was last asked for."""

    def want(self, mode: Mode, resume_after_ms: Optional[int], current: Mode) -> None:
        """Records that a mode is wanted, in place of any other that has not been accepted."""
        latest = self._wanted.mode if self._wanted else current
        if mode is not latest or resume_after_ms is not None:
            self._wanted = _Wanted(mode, resume_after_ms)

    def is_wanted(self, current: Mode) -> bool:
        """Returns whether the edge must be asked. A program that wants the current mode again needs
        no SUBSCRIBE, unless it names a resume point."""
        wanted = self._wanted
        return wanted is not None and (
            wanted.mode is not current or wanted.resume_after_ms is not None
        )

    def request(
        self, resume: Resume, estimator: Estimator, ahead: bool, now: int
    ) -> Request:
        """Returns what to ask the edge for. A change must be wanted."""
        assert self._wanted is not None
        self._asked = self._wanted
        mode, point_ms = self._wanted
        if point_ms is None:
            point_ms = resume.point_in(mode, present_ms(estimator, now))
        return Request(mode, ahead, point_ms)

    def handle_accepted(self) -> None:
        """Records that the edge has accepted the request."""
        if self._wanted == self._asked:
            self._wanted = None

    def handle_refused(self) -> None:
        """Records that the edge has refused the request. Its resume point is not tried again."""
        if self._wanted is not None and self._wanted == self._asked:
            self._wanted = self._wanted._replace(resume_after_ms=None)


def present_ms(estimator: Estimator, now: int) -> Optional[int]:
    """Returns the latest millisecond that has certainly begun by authority time, or ``None`` if
    that is not known."""
    estimate = estimator.estimate_lateness(now)
    return None if estimate is None else (estimate.unix_us - estimate.error_us) // 1_000
