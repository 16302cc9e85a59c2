""":class:`Subscription`: one subscription, which may span many connections. It decides when to
connect and where, resumes, moves to another edge while the old one still sends, drops repeated
ticks, and reports every gap.

It does no I/O. Its driver tells it the time and what happens, performs the :data:`Action` values in
``actions``, and hands on the events that are due."""

from __future__ import annotations

import enum
import logging
from collections import deque
from typing import Callable, Deque, List, NamedTuple, Optional, Tuple

from ._actions import Action, Close, Dial, Send, Settle
from ._comebacks import Comebacks
from ._estimate import Estimator
from ._first import is_refusal
from ._held import Held
from ._link import Link
from ._modes import ModeChange, present_ms
from ._moves import Move
from ._resume import Continuity, Resume
from ._session import Batch, Leave, Request, Session, Subscribed, Welcome
from ._units import MS, NEVER, S
from .errors import ComeBack, Refused, TickstormError
from .events import (
    Event,
    Gap,
    Mode,
    ModeChanged,
    Moved,
    Quality,
    Reconnected,
    Reconnecting,
    Tick,
)
from .options import Credentials, Options

_log = logging.getLogger("tickstorm")

_STALL = 500 * MS
"""If a timer fires later than this, the machine was stalled, and no edge is to blame for it."""
_FREEZE = 2 * S
"""If a timer fires later than this, the machine's time may not be what it was, either."""
_TURN_MAX = 1 * S
"""The longest wait. It bounds how long it takes to notice that the machine was suspended."""
_RESCUE_MAX = 2 * S
"""For how long an attempt to move may continue after the old connection has ended."""
_KNOWN_QUALITIES = frozenset(Quality)


class Phase(enum.Enum):
    """What a subscription is doing."""

    FIRST = enum.auto()
    """Making the first connection, or waiting before the next pass over the addresses."""
    SUBSCRIBED = enum.auto()
    RESCUING = enum.auto()
    """The connection has ended while an attempt to move was under way."""
    WAITING = enum.auto()
    CONNECTING = enum.auto()
    ENDED = enum.auto()


class _Ended(NamedTuple):
    """How the connection in use ended."""

    error: TickstormError
    connection_id: Optional[str]
    subscribed_for: Optional[int]
    """For how long there was a subscription; ``None`` if there never was one."""


class Subscription:
    """The state that outlives the connections. ``random`` returns numbers from 0 to 1."""

    def __init__(
        self, options: Options, random: Callable[[], float], now: int, suspended: int
    ) -> None:
        self.actions: Deque[Action] = deque()
        self.phase = Phase.FIRST
        self.link: Optional[Link] = None
        """The connection that brings the ticks at present."""
        self.held = Held()
        self.estimator = Estimator()
        self.resume = Resume(options.mode, options.resume_after_ms)
        self.ended: Optional[TickstormError] = None
        self._options = options
        self._random = random
        self._comebacks = Comebacks(len(options.addresses), random)
        self._addresses = self._comebacks.addresses
        self._attempt: Optional[Link] = None
        self._links = 0
        self._wait_until = now
        self._wake_by = NEVER
        self._cookie: Optional[Tuple[Credentials, bytes]] = None
        self._mode_change = ModeChange()
        self._move: Optional[Move] = None
        self._target: Optional[int] = None
        """The address of the last attempt to move away from the connection in use."""
        self._edge_id = ""
        self._since = 0
        self._rescue_until = NEVER
        self._old: Optional[_Ended] = None
        self._has_room = True
        """Whether there is room for more events."""
        self._settling = False
        self._inbox: List[Tuple[bytes, int]] = []
        """What has arrived over the attempt while it was not decided whether to move."""
        self.estimator.handle_suspended(now, suspended)

    # Input

    def handle_time(self, now: int, suspended: int) -> None:
        """Must precede every other input: looks for suspensions and stalls of this machine."""
        late, self._wake_by = now - self._wake_by, NEVER
        links = [link for link in (self.link, self._attempt) if link is not None]
        estimators = [self.estimator]
        estimators += [link.estimator for link in links if link.estimator is not self.estimator]
        jumped = [each.handle_suspended(now, suspended) for each in estimators]
        if late > _FREEZE:
            for each in estimators:
                each.handle_stall(now)
        if late > _STALL or any(jumped):
            for link in links:
                link.forgive(now)
        if late > _FREEZE or any(jumped):
            _log.warning("this machine was stalled or suspended: learning the time again")
            for link in links:
                link.sample_again(now)

    def poll(self, now: int) -> None:
        """Does what is due. Must follow every other input."""
        for link in (self.link, self._attempt):
            if link is None or link not in (self.link, self._attempt):
                continue
            error = link.poll_failure(now, len(self._addresses) > 1)
            if error is not None:
                self._fail(link, error, now)
                continue
            data = link.poll_output(now, self._random())
            if data:
                self.actions.append(Send(link.number, data))
        if self._is_pausing:
            if now >= self._wait_until:
                self._connect(now)
        elif self.phase is Phase.RESCUING and now >= self._rescue_until:
            self._abandon_attempt()
            self._pause_after_old(now)
        elif self.phase is Phase.SUBSCRIBED:
            self._apply_change(now)
            due = self._move.next_attempt if self._move else None
            if self._attempt is None and due is not None and now >= due:
                self._begin_move(now)

    def next_timer(self, now: int, can_release: bool = True) -> int:
        """Returns when to call :meth:`handle_time` and :meth:`poll` at the latest. Events that are
        due count only if there is room for them."""
        moments = [now + _TURN_MAX]
        if can_release:
            moments.append(self.held.due(self.estimator, now))
        for link in (self.link, self._attempt):
            if link is not None:
                moments.append(link.next_change(now, len(self._addresses) > 1))
        if self._is_pausing:
            moments.append(self._wait_until)
        elif self.phase is Phase.RESCUING:
            moments.append(self._rescue_until)
        elif self.phase is Phase.SUBSCRIBED and self._attempt is None and self._move:
            due = self._move.next_attempt
            moments.append(NEVER if due is None else due)
        if self.phase is Phase.SUBSCRIBED:
            moments.append(self._next_mode_change())
        self._wake_by = max(now, min(moments))
        return self._wake_by

    def handle_connected(
        self, number: int, credentials: Credentials, now: int, ip_addresses: int = 1
    ) -> None:
        """A link is connected, and these credentials shall be presented. The name to which it leads
        has so many IP addresses."""
        link = self._find(number)
        if link is None:
            return
        self._addresses.handle_connection(link.address, ip_addresses)
        cookie = None
        if self._cookie is not None and self._cookie[0] == credentials:
            cookie = self._cookie[1]
        link.credentials = credentials
        request = self._first_request(link, now)
        auth = credentials.auth(self._options.client_id, cookie)
        data = link.session.authenticate(auth) + link.session.subscribe(request)
        link.handle_connected(now)
        self.actions.append(Send(number, data))

    def handle_bytes(self, number: int, data: bytes, now: int) -> None:
        """Bytes were read from a link."""
        link = self._find(number)
        if link is None:
            return
        if self._settling and link is self._attempt:
            self._inbox.append((data, now))
        else:
            self._process(link, data, now)

    def handle_failure(self, number: int, error: TickstormError, now: int) -> None:
        """A link could not be made, or has ended."""
        link = self._find(number)
        if link is not None:
            self._fail(link, error, now)

    def handle_writable(self, number: int, is_writable: bool) -> None:
        """A link's socket accepts more bytes, or does not."""
        link = self._find(number)
        if link is not None:
            link.is_writable = is_writable

    def handle_room(self, has_room: bool, now: int) -> None:
        """There is room for more events, or not. Without it, the connection in use is only kept
        alive, and no new one is made. Also decides whether to read it: ``link.is_read``."""
        self._has_room = has_room
        if self.link is not None:
            # The PONG with the time that ticks wait for must not be left unread because of them.
            # They stay few, since an edge that does not know the time sends none.
            is_full = self.held.is_full and self.link.knows_time
            self.link.set_read(has_room and not is_full, now)

    def handle_settled(self, now: int) -> None:
        """What had arrived at the time of :class:`Settle` has been read."""
        if self._settling:
            self._settling = False
            self._switch(now)

    def set_mode(self, mode: Mode, resume_after_ms: Optional[int]) -> None:
        """Changes the mode, on the same connection, or with the next one if there is none."""
        self._mode_change.want(mode, resume_after_ms, self.resume.mode)

    def address_of(self, link: Link) -> str:
        """Returns the address of a link, as the options give it."""
        return str(self._options.addresses[link.address])

    # Connections

    @property
    def _is_pausing(self) -> bool:
        """Whether only a wait has to end before the next connection."""
        is_waiting = self.phase is Phase.WAITING and self._has_room
        return (is_waiting or self.phase is Phase.FIRST) and self._attempt is None

    def _find(self, number: int) -> Optional[Link]:
        for link in (self.link, self._attempt):
            if link is not None and link.number == number:
                return link
        return None

    def _dial(self, address: int, estimator: Estimator, limit: Optional[int]) -> None:
        session = Session(self._options.exact_time, self._comebacks.sparing)
        self._links += 1
        self._attempt = Link(self._links, address, session, estimator)
        self.actions.append(Dial(self._links, address, limit))

    def _connect(self, now: int) -> None:
        if self.phase is Phase.WAITING:
            self.phase = Phase.CONNECTING
        limit = self._comebacks.limit(now)
        self._dial(self._addresses.current, self.estimator, limit)

    def _process(self, link: Link, data: bytes, now: int) -> None:
        try:
            for event in link.handle_bytes(data, now):
                if isinstance(event, Batch):
                    self._take(event, now)
                elif isinstance(event, Welcome):
                    if event.cookie is not None and link.credentials is not None:
                        self._cookie = (link.credentials, event.cookie)
                elif isinstance(event, Subscribed):
                    self._handle_subscribed(link, event, now)
                    if self._settling and link is self._attempt:
                        return
                elif isinstance(event, Leave):
                    self._handle_leave(link, event, now)
                elif isinstance(event, Refused):
                    raise event
                if link not in (self.link, self._attempt):
                    return
        except TickstormError as error:
            self._fail(link, error, now)

    def _take(self, batch: Batch, now: int) -> None:
        """Queues the events for the ticks of a batch."""
        read = self.estimator.estimate_lateness(now)
        for received in batch.ticks:
            point_ms = self.resume.point_ms
            continuity = self.resume.handle_tick(received.epoch_ms)
            if continuity is Continuity.AGAIN:
                continue
            if continuity is Continuity.AFTER_GAP and point_ms is not None:
                _log.warning("ticks are lost after %d, until %d", point_ms, received.epoch_ms)
                self.held.push(Gap(point_ms, received.epoch_ms))
            known = received.quality in _KNOWN_QUALITIES
            quality = Quality(received.quality) if known else Quality.NORMAL
            tick = Tick(batch.mode, received.epoch_ms, quality, read)
            self.held.push(tick, self._options.ahead)

    def _handle_subscribed(self, link: Link, event: Subscribed, now: int) -> None:
        if self._options.reconnect:
            link.watch(now)
        if link is self.link:
            self._handle_changed(event, now)
        elif self.phase is Phase.SUBSCRIBED:
            self._settling = True
            self.actions.append(Settle())
        elif self.phase is Phase.RESCUING:
            self._switch(now)
        else:
            is_first = self.phase is Phase.FIRST
            self.estimator.handle_connection()
            link.since = now
            if not is_first:
                self.held.push(
                    Reconnected(self.address_of(link), link.edge_id, link.connection_id)
                )
            if link.changes_mode:
                self._handle_changed(event, now)
            self._use(link, now)
            _log.info(
                "subscribed to %s at %s, connection %s",
                link.edge_id,
                self.address_of(link),
                link.connection_id,
            )

    def _use(self, link: Link, now: int) -> None:
        """Makes a link the connection in use."""
        self._addresses.handle_success(link.address)
        self._addresses.select(link.address)
        self.resume.handle_start(link.start_ms)
        self.link, self._attempt = link, None
        self.phase = Phase.SUBSCRIBED
        self._edge_id, self._since = link.edge_id, link.since
        self._move, self._target, self._old = None, None, None
        if link.leave_at is not None:
            self._plan_move(max(0, link.leave_at - now), now)

    def _fail(self, link: Link, error: TickstormError, now: int) -> None:
        """A link has ended, or could not be made, or the edge is of no use."""
        self.actions.append(Close(link.number))
        if link is self.link:
            self._handle_end(link, error, now)
        else:
            self._handle_failed_attempt(link, error, now)

    def _handle_end(self, link: Link, error: TickstormError, now: int) -> None:
        self.link = None
        connection_id = link.connection_id or error.connection_id
        _log.info("connection %s ended: %s", connection_id, error)
        self._old = _Ended(error, connection_id, now - self._since)
        if link.awaits_ack and is_refusal(error, "INVALID_SUBSCRIPTION"):
            self._mode_change.handle_refused()
        if not self._options.reconnect:
            self._finish(error, now)
        elif self._attempt is None or _voids_resume_point(error):
            self._abandon_attempt()
            self._pause_after_old(now)
        else:
            self.phase = Phase.RESCUING
            self._rescue_until = now + _RESCUE_MAX

    def _handle_failed_attempt(self, link: Link, error: TickstormError, now: int) -> None:
        self._attempt = None
        self._settling = False
        self._inbox.clear()
        _log.info("no subscription at %s: %s", self.address_of(link), error)
        if link.changes_mode and is_refusal(error, "INVALID_SUBSCRIPTION"):
            self._mode_change.handle_refused()
        if self.phase is Phase.FIRST:
            is_no = self._is_no(error, link.address)
            outcome = self._comebacks.after_first(link.address, error, is_no, now)
            if isinstance(outcome, TickstormError):
                self._finish(outcome, now)
            else:
                self._wait_until = outcome
        elif self.phase is Phase.CONNECTING:
            connection_id = error.connection_id or link.connection_id
            self._pause(_Ended(error, connection_id, None), now)
        else:
            is_no = self._is_no(error, link.address)
            rested = self._comebacks.after_failed_move(link.address, error, is_no, now)
            self._retry_move(rested, now)
            if self.phase is Phase.RESCUING:
                self._pause_after_old(now)

    def _finish(self, error: TickstormError, now: int) -> None:
        self._abandon_attempt()
        self.phase = Phase.ENDED
        self.ended = error
        self.held.handle_end(self.estimator, now)

    # Waits

    def _pause_after_old(self, now: int) -> None:
        assert self._old is not None
        if self._target is not None:
            self._addresses.handle_attempt(self._target)
        self._pause(self._old, now)

    def _pause(self, ended: _Ended, now: int) -> None:
        """Plans the next attempt after a connection ended or could not be made."""
        error, is_no = ended.error, self._is_no(ended.error, self._addresses.current)
        come_back = self.resume.handle_end(error.come_back)
        resumes = come_back is not ComeBack.AT_ONCE_WITHOUT_RESUME
        if not resumes:
            self.held.drop_ticks()
        if is_refusal(error, "TIME_STEPPED"):
            self.estimator.clear()
        self._wait_until = self._comebacks.after_end(error, ended.subscribed_for, is_no, now)
        self.phase, self._move, self._target, self._old = Phase.WAITING, None, None, None
        after = (self._wait_until - now) / S
        _log.info("connecting again in %.3f s", after)
        self.held.push(Reconnecting(error, ended.connection_id, after, resumes))

    def _is_no(self, error: TickstormError, address: int) -> bool:
        """Returns whether an error at an address is a refusal that will recur."""
        is_no = self.resume.classify(error.come_back) is ComeBack.NO
        if is_no:
            _log.error("%s refuses this client: %s", self._options.addresses[address], error)
        return is_no

    # Moves

    def _handle_leave(self, link: Link, event: Leave, now: int) -> None:
        link.leave_at = now + event.within
        if link is self.link:
            self._plan_move(event.within, now)

    def _plan_move(self, within: int, now: int) -> None:
        if not (self._options.reconnect and self._options.moves):
            return
        _log.info("the edge is going away in %.3f s: moving to another one", within / S)
        if self._move is None:
            self._move = Move(within, now, self._random())
        else:
            self._move.handle_again(within, now, self._random())

    def _begin_move(self, now: int) -> None:
        assert self._move is not None
        last = self._addresses.current if self._target is None else self._target
        target, rested = self._addresses.after(last, now)
        if rested > now:
            self._move.handle_failure(rested, now, self._random())
            return
        self._target = target
        # What this edge tells about the time is kept apart until it is the one in use.
        self._dial(target, self.estimator.apart(), None)

    def _abandon_attempt(self) -> None:
        self._settling = False
        self._inbox.clear()
        if self._attempt is not None:
            self.actions.append(Close(self._attempt.number))
            self._attempt = None

    def _switch(self, now: int) -> None:
        """Continues with the attempt, unless that would not be a move, or would cost ticks."""
        new, old = self._attempt, self.link
        assert new is not None
        point_ms = self.resume.point_ms
        loses_ticks = point_ms is not None and new.start_ms > point_ms
        is_other_mode = new.mode is not self.resume.mode
        if new.edge_id == self._edge_id or loses_ticks or is_other_mode:
            self._abandon_attempt()
            self._retry_move(self._addresses.after(new.address, now)[1], now)
            if old is None:
                self._pause_after_old(now)
            return
        if old is not None:
            self.actions.append(Close(old.number))
        self.estimator.take_over(new.estimator)
        new.estimator = self.estimator
        new.since = self._since
        self._use(new, now)
        address = self.address_of(new)
        _log.info("moved to %s at %s, connection %s", new.edge_id, address, new.connection_id)
        self.held.push(Moved(address, new.edge_id, new.connection_id))
        inbox, self._inbox = [(b"", now), *self._inbox], []
        for data, at in inbox:
            if self.link is new:
                self._process(new, data, at)

    def _retry_move(self, rested: int, now: int) -> None:
        if self._move is not None:
            self._move.handle_failure(rested, now, self._random())

    # Changes of mode

    def _next_mode_change(self) -> int:
        """Returns when to ask the edge for another mode; NEVER if none is wanted, or if the last
        change is not answered yet."""
        if self.link is None or not self._mode_change.is_wanted(self.resume.mode):
            return NEVER
        return self.link.next_subscribe(self._comebacks.sparing)

    def _first_request(self, link: Link, now: int) -> Request:
        """Returns what a new connection asks for: the mode that is wanted, which takes the place of
        the current one when the edge has accepted it. An attempt to move continues in the current
        mode."""
        ahead, mode = self._options.ahead, self.resume.mode
        is_move = self.phase in (Phase.SUBSCRIBED, Phase.RESCUING)
        link.changes_mode = not is_move and self._mode_change.is_wanted(mode)
        if link.changes_mode:
            return self._mode_change.request(self.resume, self.estimator, ahead, now)
        return Request(mode, ahead, self.resume.point_ms)

    def _apply_change(self, now: int) -> None:
        """Asks for a change of mode if one is due."""
        if self.link is None or self._next_mode_change() > now:
            return
        ahead = self._options.ahead
        request = self._mode_change.request(self.resume, self.estimator, ahead, now)
        self.actions.append(Send(self.link.number, self.link.subscribe(request, now)))

    def _handle_changed(self, event: Subscribed, now: int) -> None:
        request = event.request
        dropped_ms = self.held.drop_coarser(request.mode, present_ms(self.estimator, now))
        self.resume.handle_change(
            request.mode, request.resume_after_ms, event.start_ms, dropped_ms
        )
        self._mode_change.handle_accepted()
        self.held.push(ModeChanged(request.mode, event.start_ms))


def _voids_resume_point(error: TickstormError) -> bool:
    """Returns whether the resume point of an attempt under way is not valid any more."""
    return error.come_back in (ComeBack.AT_ONCE_WITHOUT_RESUME, ComeBack.RETRY_RESUME_ONCE)
