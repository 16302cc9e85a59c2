"""What a subscription yields: ticks, and the other events of its life."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Optional, Union

from .errors import TickstormError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Mode(enum.IntEnum):
    """What a subscription's ticks mark."""

    SECOND = 0
    MINUTE = 1

    @property
    def period_ms(self) -> int:
        """The time from one tick to the next, in milliseconds."""
        return 60_000 if self is Mode.MINUTE else 1_000

    def next_after(self, epoch_ms: int) -> int:
        """Returns the first tick of this mode after a time."""
        return (epoch_ms // self.period_ms + 1) * self.period_ms


class Quality(enum.IntEnum):
    """The grounds on which the edge released a tick."""

    NORMAL = 0
    """A clock that the edge accepts announced the tick."""
    HOLDOVER = 1
    """No such announcement arrived, and the edge continued from its own disciplined time."""
    REPLAY = 2
    """The tick was sent more than a second after its time, or because the client resumed."""


@dataclass(frozen=True)
class Estimate:
    """Authority time at one moment, as far as a client can tell."""

    unix_us: int
    """Microseconds since 1970-01-01T00:00:00Z, without leap seconds."""
    error_us: int
    """The bound of the error against the clock that the edge follows."""

    @property
    def time(self) -> datetime:
        """The same as a ``datetime`` in UTC."""
        return _EPOCH + timedelta(microseconds=self.unix_us)


@dataclass(frozen=True)
class Tick:
    """A second or a minute has begun. Each tick is later than all before it, except after a
    :class:`Reconnecting` with ``resumes`` false and after a :class:`ModeChanged`."""

    mode: Mode
    epoch_ms: int
    """The Unix time of the tick in milliseconds, a multiple of the mode's period."""
    quality: Quality = Quality.NORMAL
    read: Optional[Estimate] = None
    """The authority time at which this client read the tick or, if it held the tick until its
    time, released it. ``None`` if authority time was not known then."""

    @property
    def time(self) -> datetime:
        """The time of the tick as a ``datetime`` in UTC."""
        return _EPOCH + timedelta(milliseconds=self.epoch_ms)

    @property
    def late_us(self) -> Optional[int]:
        """How long after its time this client read or released the tick, in microseconds, give or
        take ``read.error_us``. ``None`` if authority time was not known."""
        return None if self.read is None else self.read.unix_us - self.epoch_ms * 1_000


@dataclass(frozen=True)
class Gap:
    """The ticks between ``after_ms`` and ``before_ms`` are missing and cannot be obtained. The tick
    ``before_ms`` comes next."""

    after_ms: int
    """The last tick before the gap or, if there was none, the point after which ticks were
    requested."""
    before_ms: int


@dataclass(frozen=True)
class Reconnecting:
    """The connection ended, or the last attempt to make a new one failed. The next attempt follows
    by itself."""

    why: TickstormError
    connection_id: Optional[str]
    """The name of the connection that ended, by which the edge's operator finds it in the log."""
    after: float
    """The wait before the next attempt, in seconds."""
    resumes: bool
    """Whether ticks continue after the last tick received, as they nearly always do. If false,
    authority time was stepped back or the edges refuse the resume point, and some ticks may be
    repeated."""


@dataclass(frozen=True)
class Reconnected:
    """A new connection was made, and the client is subscribed again."""

    address: str
    edge_id: str
    connection_id: Optional[str]


@dataclass(frozen=True)
class Moved:
    """The subscription moved to another edge, because its edge is going away or asked for it. No
    tick was lost or delayed."""

    address: str
    edge_id: str
    connection_id: Optional[str]


@dataclass(frozen=True)
class ModeChanged:
    """The edge has accepted a change of mode. All ticks after this event are of the new mode, and
    later than ``start_ms``."""

    mode: Mode
    start_ms: int


Event = Union[Tick, Gap, Reconnecting, Reconnected, Moved, ModeChanged]
"""Anything that a subscription yields."""
