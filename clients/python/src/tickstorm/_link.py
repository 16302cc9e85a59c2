""":class:`Link`: one connection of a subscription, from the attempt to make it to its end. It adds
time to :class:`Session`: what the edge must answer by when, when HEARTBEATs are sent, and when the
edge is of no use."""

from __future__ import annotations

import enum
from typing import Iterator, Optional

from ._estimate import Estimator
from ._session import Batch, PongExchange, Request, Session, SessionEvent, Subscribed, Welcome
from ._units import MS, NEVER, S
from ._vitals import Vitals
from .errors import Awaited, EdgeTimeout, TickstormError, TimeUnknown
from .events import Mode
from .options import Credentials

_AUTH_MAX = 10 * S
"""The limit for the answer to AUTH, which an edge may delay by 8 s if others guess passwords."""
_SUBSCRIBE_MAX = 8 * S
_NO_TIME_SINCE_MINOR = 1
"""The minor revision since which an edge answers NO_TIME. An earlier one waits."""
_SILENCE_MIN = 5 * S
"""The shortest silence after which an edge is given up."""
_FRAMES_APART = 15
"""The frames for whose time a connection pauses between two SUBSCRIBEs. An edge counts each as ten,
and HEARTBEATs take the rest."""
_FRAME_RATE = 10
"""The frames per second of an edge that does not tell its limit, which is the default."""
_APART_MIN = 500 * MS
_SPARING_APART_MIN = 2 * S
"""The same for a client to which an edge has answered RATE_LIMITED."""


class Stage(enum.Enum):
    """How far a connection has come."""

    DIALLING = enum.auto()
    AUTHENTICATING = enum.auto()
    SUBSCRIBING = enum.auto()
    SUBSCRIBED = enum.auto()


class Link:
    """A connection to the address with an index."""

    def __init__(self, number: int, address: int, session: Session, estimator: Estimator) -> None:
        self.number = number
        self.address = address
        self.session = session
        self.estimator = estimator
        self.stage = Stage.DIALLING
        self.welcome: Optional[Welcome] = None
        self.start_ms = 0
        self.since = 0
        """Since when the subscription has lasted. A move continues it."""
        self.vitals: Optional[Vitals] = None
        self.is_read = True
        self.knows_time = False
        """Whether the edge has told the time since the connection was made or this machine was last
        suspended. Until then it must be read, however many ticks wait for the time."""
        self.is_writable = True
        self.credentials: Optional[Credentials] = None
        """The credentials that were sent."""
        self.leave_at: Optional[int] = None
        """When the edge closes the connection, if it said so."""
        self.mode = Mode.SECOND
        """The mode of the last SUBSCRIBE that was acknowledged."""
        self.changes_mode = False
        """Whether the first SUBSCRIBE asks for a change of mode."""
        self._stage_since = 0
        self._heard_at = 0
        self._silence_max = NEVER
        self._asked_since: Optional[int] = None
        """Since when a further SUBSCRIBE has not been acknowledged."""
        self._subscribe_at = 0
        """When the last SUBSCRIBE was sent or, if it is the first one, acknowledged."""

    @property
    def edge_id(self) -> str:
        """The name that the edge gives itself."""
        return self.welcome.edge_id if self.welcome else ""

    @property
    def connection_id(self) -> Optional[str]:
        """The name that the edge gives the connection."""
        return self.welcome.connection_id if self.welcome else None

    def handle_connected(self, now: int) -> None:
        """Records that the connection is made, and AUTH is sent."""
        self.stage = Stage.AUTHENTICATING
        self._stage_since = self._heard_at = now

    def handle_bytes(self, data: bytes, now: int) -> Iterator[SessionEvent]:
        """Yields the events in ``data``. If the caller stops early, the rest is kept."""
        if data:
            self._heard_at = now
            if self.vitals is not None:
                self.vitals.handle_bytes(now)
        for event in self.session.handle_bytes(data, now):
            if isinstance(event, PongExchange):
                self.estimator.handle_exchange(event)
                if event.has_time and self.estimator.authority_at(now) is not None:
                    self.knows_time = True
                if self.vitals is not None:
                    self.vitals.handle_pong(event.has_time, self.estimator, now)
            elif isinstance(event, Batch):
                if self.vitals is not None:
                    self.vitals.handle_ticks(event.ticks[-1].epoch_ms, now)
            elif isinstance(event, Welcome):
                self.welcome = event
                self.stage = Stage.SUBSCRIBING
                self._stage_since = now
                self._silence_max = max(event.heartbeat_timeout, _SILENCE_MIN)
            elif isinstance(event, Subscribed):
                if self.stage is not Stage.SUBSCRIBED:
                    self._subscribe_at = now
                self.stage = Stage.SUBSCRIBED
                self._stage_since = now
                self._asked_since = None
                self.mode, self.start_ms = event.request.mode, event.start_ms
            yield event

    def subscribe(self, request: Request, now: int) -> bytes:
        """Returns a further SUBSCRIBE, which replaces the subscription."""
        self._asked_since = self._subscribe_at = now
        return self.session.subscribe(request)

    def next_subscribe(self, sparing: bool) -> int:
        """Returns from when on a further SUBSCRIBE may be sent without exceeding the frame rate;
        NEVER until the last one is acknowledged."""
        if self.stage is not Stage.SUBSCRIBED or self.awaits_ack:
            return NEVER
        rate = self.welcome.frame_rate_limit if self.welcome else 0
        apart = max(_FRAMES_APART * S // (rate or _FRAME_RATE), _APART_MIN)
        if sparing:
            apart = max(2 * apart, _SPARING_APART_MIN)
        return self._subscribe_at + apart

    @property
    def awaits_ack(self) -> bool:
        """Whether a further SUBSCRIBE has not been acknowledged yet."""
        return self._asked_since is not None

    def watch(self, now: int) -> None:
        """Judges the edge from now on by the ticks of its subscription."""
        self.vitals = Vitals(self.mode, self.start_ms, now)

    def forgive(self, now: int) -> None:
        """Judges the edge only by what it does from now on."""
        self._heard_at = self._stage_since = now
        if self._asked_since is not None:
            self._asked_since = now
        if self.vitals is not None:
            self.vitals.forgive(now)

    def sample_again(self, now: int) -> None:
        """Learns the time again, because this machine was suspended or stalled."""
        self.knows_time = False
        self.session.sample_again(now)

    def set_read(self, is_read: bool, now: int) -> None:
        """Records whether the connection is read. What the edge sends meanwhile is not known."""
        if is_read != self.is_read:
            self.is_read = is_read
            self.forgive(now)

    def poll_output(self, now: int, random: float) -> bytes:
        """Returns a HEARTBEAT if one is due. A frame that waits for space in the socket's buffer is
        as good a sign of life, so none is added to it."""
        if not self.is_writable:
            return b""
        if self.vitals is not None and self.is_read:
            if self.vitals.wants_answer(self.estimator, now):
                self.session.hasten_heartbeat(now)
            if self.session.next_heartbeat <= now:
                self.vitals.handle_heartbeat(self.estimator, now)
        return self.session.poll_heartbeat(now, random)

    def poll_failure(self, now: int, knows_others: bool) -> Optional[TickstormError]:
        """Returns why to leave the edge, if there is a reason."""
        waited = now - self._stage_since
        if self.stage is Stage.DIALLING or not self.is_read:
            return None
        if self.stage is Stage.AUTHENTICATING and waited >= _AUTH_MAX:
            return EdgeTimeout(Awaited.AUTHENTICATION, waited / S)
        if self.stage is Stage.SUBSCRIBING and waited >= self._subscribe_max(knows_others):
            return TimeUnknown(waited / S)
        if self._asked_since is not None and now - self._asked_since >= _SUBSCRIBE_MAX:
            return TimeUnknown((now - self._asked_since) / S)
        if now - self._heard_at >= self._silence_max:
            return EdgeTimeout(Awaited.ANYTHING, (now - self._heard_at) / S)
        if self.stage is Stage.SUBSCRIBED and self.vitals is not None:
            return self.vitals.poll(self.estimator, now)
        return None

    def next_change(self, now: int, knows_others: bool) -> int:
        """Returns when :meth:`poll_output` or :meth:`poll_failure` may next have another result."""
        if self.stage is Stage.DIALLING:
            return NEVER
        moments = [self.session.next_heartbeat if self.is_writable else NEVER]
        if self.is_read:
            moments.append(self._heard_at + self._silence_max)
            if self._asked_since is not None:
                moments.append(self._asked_since + _SUBSCRIBE_MAX)
            if self.stage is Stage.AUTHENTICATING:
                moments.append(self._stage_since + _AUTH_MAX)
            elif self.stage is Stage.SUBSCRIBING:
                moments.append(self._stage_since + self._subscribe_max(knows_others))
            elif self.vitals is not None:
                moments.append(self.vitals.next_change(self.estimator, now))
        return min(moments)

    def _subscribe_max(self, knows_others: bool) -> int:
        minor = self.welcome.protocol_minor if self.welcome else 0
        return _SUBSCRIBE_MAX if knows_others or minor >= _NO_TIME_SINCE_MINOR else NEVER
