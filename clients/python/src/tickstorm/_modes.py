""":class:`ModeChange`: a change of a subscription's mode, on the connection in use."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ._estimate import Estimator
from ._resume import Resume
from ._session import Request
from ._units import MS
from .events import Mode


class _Wanted(NamedTuple):
    mode: Mode
    resume_after_ms: Optional[int]


class ModeChange:
    """The change that is wanted, until the edge has accepted it."""

    def __init__(self) -> None:
        self._wanted: Optional[_Wanted] = None

    def want(self, mode: Mode, resume_after_ms: Optional[int], current: Mode) -> None:
        """Records that a mode is wanted, in place of any other that has not been accepted."""
        latest = self._wanted.mode if self._wanted else current
        if mode is not latest or resume_after_ms is not None:
            self._wanted = _Wanted(mode, resume_after_ms)

    def request(
        self, resume: Resume, estimator: Estimator, ahead: bool, now: int
    ) -> Optional[Request]:
        """Returns what to ask the edge for, or ``None`` if no change is wanted."""
        if self._wanted is None:
            return None
        mode, point_ms = self._wanted
        if point_ms is None:
            point_ms = _point(mode, resume, estimator, now)
        return Request(mode, ahead, point_ms)

    def handle_accepted(self, request: Request) -> None:
        """Records that the edge has accepted a request."""
        if self._wanted is not None and self._wanted.mode is request.mode:
            self._wanted = None

    def handle_refused(self) -> None:
        """Records that the edge has refused the request. Its resume point is not tried again."""
        if self._wanted is not None:
            self._wanted = self._wanted._replace(resume_after_ms=None)


def _point(mode: Mode, resume: Resume, estimator: Estimator, now: int) -> Optional[int]:
    """Returns the point after which no tick of the new mode may be missing: the last tick received,
    but at most a period of the new mode ago."""
    point_ms = resume.point_ms
    if point_ms is None or mode.period_ms >= resume.mode.period_ms:
        return point_ms
    authority = estimator.authority_at(now)
    return None if authority is None else max(point_ms, authority // MS - mode.period_ms)
