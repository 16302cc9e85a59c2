""":class:`Client`: a subscription as an asynchronous iterator of ticks. It drives
:class:`Subscription`, which takes all decisions: this file owns the sockets and the timers."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from types import TracebackType
from typing import AsyncIterator, Callable, Deque, Dict, Optional, Sequence, Set, Type, Union

from . import _clock
from ._actions import Close, Dial, Send
from ._dial import Dialler
from ._socket import CLOSING_MAX_SECS, Socket, SocketEvents
from ._subscription import Phase, Subscription
from ._units import MS, S
from .errors import ClientClosed, ConnectionClosed, TickstormError
from .events import Estimate, Event, Mode, Tick
from .options import TLS, Address, AnyPath, check_epoch_ms, make_options, parse_mode

READY_MAX = 1_000
"""The number of events that wait for their reader at most. Beyond it, the connection is only kept
alive. If that lasts, the edge closes it, and the client resumes when there is room."""
_SPIN = 2 * MS
"""The time before a tick's release from which on the loop polls, since its timers are only good to
a millisecond."""


class Client:
    """A subscription to the ticks of an edge cluster.

    ::

        async with Client("127.0.0.1:8080", user="stream_user", password="stream_pass") as client:
            async for tick in client:
                print(tick.time, tick.quality.name)

    Iterating over the client yields :class:`Tick`; :meth:`events` also yields what happens to the
    subscription. If a connection ends, the client comes back and resumes by itself. There may be
    one reader at a time.

    Args:
        addresses: One address or several: ``host``, ``host:port`` or ``[IPv6]:port``, as a list or
            separated by commas. The port is 8080 by default.
        user: The user that ``password`` or ``password_file`` belongs to.
        password: The password.
        password_file: A file with the password. It is read again before each AUTH.
        token: A token, in place of a user and a password.
        token_file: A file with the token. It is read again before each AUTH.
        mode: ``Mode.SECOND`` or ``Mode.MINUTE``, also as a string.
        resume_after_ms: Resumes an earlier subscription: the last tick that was processed, or its
            ``start_ms`` if there was none.
        ahead: Receives ticks before their time, and releases each by the client's own estimate of
            authority time. They are then exact to well below a millisecond.
        exact_time: Learns authority time every 2 s, for :meth:`now`. Implied by ``ahead``.
        tls: ``True``, or a :class:`TLS`. By default, passwords travel unencrypted.
        client_id: Identifies this client to the edge's operator.
        reconnect: Whether to come back when a connection ends. If not, iteration raises its error.
        moves: Whether to move to another edge when an edge is going away. For a moment, a move
            takes two connections.

    Raises:
        ValueError: an option makes no sense.
    """

    def __init__(
        self,
        addresses: Union[str, Sequence[str]],
        *,
        user: Optional[str] = None,
        password: Optional[str] = None,
        password_file: Optional[AnyPath] = None,
        token: Optional[str] = None,
        token_file: Optional[AnyPath] = None,
        mode: Union[Mode, str] = Mode.SECOND,
        resume_after_ms: Optional[int] = None,
        ahead: bool = False,
        exact_time: bool = False,
        tls: Union[bool, TLS, None] = None,
        client_id: str = "",
        reconnect: bool = True,
        moves: bool = True,
    ) -> None:
        self._options = make_options(
            addresses,
            user,
            password,
            password_file,
            token,
            token_file,
            mode,
            resume_after_ms,
            tls,
            client_id,
            ahead=ahead,
            exact_time=exact_time,
            reconnect=reconnect,
            moves=moves,
        )
        self._core = Subscription(
            self._options, random.random, _clock.monotonic(), _clock.suspended()
        )
        self._dialler = Dialler(self._options.tls)
        self._ready: Deque[Event] = deque()
        # Made in the loop, since Python 3.9 binds an event to the loop of the thread that makes it.
        self._changed: Optional[asyncio.Event] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._timer: Optional[asyncio.Handle] = None
        self._dials: Dict[int, asyncio.Task[None]] = {}
        self._sockets: Dict[int, Socket] = {}
        self._open: Set[Socket] = set()
        self._start_ms: Optional[int] = None
        self._closed = False
        self._crash: Optional[BaseException] = None

    def __repr__(self) -> str:
        addresses = ",".join(map(str, self._options.addresses))
        return f"<{type(self).__name__} {addresses} {self._core.resume.mode.name}>"

    async def connect(self) -> Client:
        """Makes the first connection, unless there is one. Each address is tried. ``async
        with`` does the same. If this fails or is cancelled, the client is closed for good.

        Raises:
            TickstormError: no edge accepted this client.
        """
        self._start()
        try:
            while self._start_ms is None and not self._ready:
                self._raise_if_over()
                await self._await_change()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Ends the subscription. Iteration over it stops."""
        if not self._closed:
            self._closed = True
            self._notify()
            if self._timer is not None:
                self._timer.cancel()
            for number in [*self._dials, *self._sockets]:
                self._hang_up(number)
        await asyncio.gather(*self._dials.values(), return_exceptions=True)
        deadline = _clock.monotonic() + int(CLOSING_MAX_SECS * S)
        while self._open and _clock.monotonic() < deadline:
            await asyncio.sleep(0.005)
        for each in list(self._open):
            each.abort()

    async def __aenter__(self) -> Client:
        return await self.connect()

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> Tick:
        while True:
            try:
                event = await self.next_event()
            except ClientClosed:
                raise StopAsyncIteration from None
            if isinstance(event, Tick):
                return event

    def events(self) -> AsyncIterator[Event]:
        """Returns an iterator over all events: ticks, gaps between them, and what happens to the
        connection."""
        return _Events(self)

    async def next_event(self, timeout: Optional[float] = None) -> Event:
        """Returns the next event. Makes the first connection, unless :meth:`connect` was called.

        Args:
            timeout: The time to wait, in seconds; ``None`` means without limit.

        Raises:
            TimeoutError: no event came in time. None is lost.
            ClientClosed: the client was closed.
            TickstormError: the connection ended, and ``reconnect`` is false.
        """
        loop = self._start()
        deadline = None if timeout is None else loop.time() + timeout
        while not self._ready:
            self._raise_if_over()
            await self._await_change(deadline)
            if not self._ready and deadline is not None and loop.time() >= deadline:
                raise TimeoutError(f"no event within {timeout} s")
        event = self._ready.popleft()
        if len(self._ready) == READY_MAX // 2:
            self._handle(lambda now: None)
        return event

    def set_mode(
        self, mode: Union[Mode, str], *, resume_after_ms: Optional[int] = None
    ) -> None:
        """Changes the mode, on the same connection, or with the next one if there is none.
        :class:`ModeChanged` says when the edge has accepted it: until then, ticks are of the old
        mode. If changes follow each other too fast for the edge's frame rate, the last one is asked
        for after a pause.

        Args:
            mode: The new mode.
            resume_after_ms: The point after which no tick of the new mode may be missing. By
                default, MINUTE ticks continue after the last SECOND tick, and SECOND ticks start at
                the present. No tick is repeated that was received in an earlier use of its mode.
        """
        parsed, point_ms = parse_mode(mode), check_epoch_ms("resume_after_ms", resume_after_ms)
        if self._loop is None:
            self._core.set_mode(parsed, point_ms)
        else:
            self._handle(lambda now: self._core.set_mode(parsed, point_ms))

    def now(self) -> Optional[Estimate]:
        """Returns authority time, or ``None`` if it is not known at present."""
        return self._core.estimator.estimate(_clock.monotonic())

    @property
    def start_ms(self) -> Optional[int]:
        """The point after which the first connection's ticks were sent: the resume point, until a
        tick has been processed."""
        return self._start_ms

    @property
    def mode(self) -> Mode:
        """The mode of the subscription, as the edge has accepted it."""
        return self._core.resume.mode

    @property
    def address(self) -> Optional[str]:
        """The address of the edge, or ``None`` if there is no connection."""
        link = self._core.link
        return None if link is None else self._core.address_of(link)

    @property
    def edge_id(self) -> Optional[str]:
        """The name that the edge gives itself, or ``None`` if there is no connection."""
        return None if self._core.link is None else self._core.link.edge_id

    @property
    def connection_id(self) -> Optional[str]:
        """The name of the connection in the edge's log, or ``None`` if it has none."""
        return None if self._core.link is None else self._core.link.connection_id

    # The driver

    def _start(self) -> asyncio.AbstractEventLoop:
        """Starts to connect, unless that was done before. Returns the loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._changed = asyncio.Event()
            self._handle(lambda now: None)
        return self._loop

    def _handle(self, happened: Callable[[int], None]) -> None:
        """Tells the core what happened, and does what follows from it."""
        if self._closed:
            return
        try:
            now = _clock.monotonic()
            self._core.handle_time(now, _clock.suspended())
            happened(now)
            self._core.poll(now)
            self._perform()
            self._release(now)
            self._schedule(now)
        except Exception as error:
            self._handle_crash(error)
            raise

    def _handle_crash(self, error: Exception) -> None:
        """An error that is not foreseen, such as a defect of this package, must not look like
        silence: the reader gets it."""
        self._crash = error
        self._notify()

    def _perform(self) -> None:
        actions = self._core.actions
        while actions:
            action = actions.popleft()
            if isinstance(action, Dial):
                self._dial(action)
            elif isinstance(action, Send):
                self._sockets[action.number].write(action.data)
            elif isinstance(action, Close):
                self._hang_up(action.number)
            else:
                self._settle(3)

    def _release(self, now: int) -> None:
        """Hands on the events that are due, and reads on only if there is room for more."""
        core, before = self._core, len(self._ready)
        while len(self._ready) < READY_MAX:
            event = core.held.pop(core.estimator, now)
            if event is None:
                break
            self._ready.append(event)
        core.handle_room(len(self._ready) < READY_MAX, now)
        link = core.link
        if link is not None:
            self._sockets[link.number].set_read(link.is_read)
            if self._start_ms is None:
                self._start_ms = link.start_ms
                self._notify()
        if len(self._ready) > before or core.phase is Phase.ENDED:
            self._notify()

    def _schedule(self, now: int) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._core.phase is Phase.ENDED and not self._core.held:
            return
        can_release = len(self._ready) < READY_MAX
        wait = self._core.next_timer(now, can_release) - now
        if self._options.ahead and len(self._core.held):
            wait -= _SPIN
        if wait <= 0:
            self._timer = self._loop.call_soon(self._wake)
        else:
            self._timer = self._loop.call_later(wait / S, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._handle(lambda now: None)

    def _settle(self, turns: int) -> None:
        """Calls the core back after some turns of the loop, in which all sockets are read."""
        assert self._loop is not None
        if turns > 0:
            self._loop.call_soon(self._settle, turns - 1)
        else:
            self._handle(self._core.handle_settled)

    def _dial(self, dial: Dial) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._connect(dial))
        self._dials[dial.number] = task
        task.add_done_callback(lambda _: self._dials.pop(dial.number, None))

    async def _connect(self, dial: Dial) -> None:
        number, address = dial.number, self._options.addresses[dial.address]
        try:
            events = SocketEvents(self._opened, self._read, self._writable, self._lost)
            made = self._dialler.dial(address, lambda: Socket(number, events), dial.limit)
            ip_addresses = await made
            credentials = self._options.credentials.load()
        except TickstormError as error:
            failure = error
            self._handle(lambda now: self._core.handle_failure(number, failure, now))
        except Exception as error:
            self._handle_crash(error)
            raise
        else:
            self._handle(
                lambda now: self._core.handle_connected(number, credentials, now, ip_addresses)
            )

    def _opened(self, connected: Socket) -> None:
        self._open.add(connected)
        self._sockets[connected.number] = connected

    def _read(self, number: int, data: bytes) -> None:
        self._handle(lambda now: self._core.handle_bytes(number, data, now))

    def _writable(self, number: int, is_writable: bool) -> None:
        if is_writable:
            self._handle(lambda now: self._core.handle_writable(number, True))
        else:
            # This may be called while the client writes.
            self._core.handle_writable(number, False)

    def _lost(self, connected: Socket, exc: Optional[Exception]) -> None:
        self._open.discard(connected)
        error = ConnectionClosed(exc)
        error.__cause__ = exc
        self._handle(lambda now: self._core.handle_failure(connected.number, error, now))

    def _hang_up(self, number: int) -> None:
        task = self._dials.get(number)
        if task is not None and task is not _current_task():
            task.cancel()
        connected = self._sockets.pop(number, None)
        if connected is not None:
            connected.close()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _await_change(self, deadline: Optional[float] = None) -> None:
        """Waits for the next change or, at most, until a time of the loop. It may return earlier.

        Before Python 3.12, ``asyncio.wait_for`` would start the wait in a task of its own, which
        would clear what has changed meanwhile, and may swallow a cancellation."""
        assert self._changed is not None and self._loop is not None
        self._changed.clear()
        timer = None if deadline is None else self._loop.call_at(deadline, self._notify)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _raise_if_over(self) -> None:
        if self._closed:
            raise ClientClosed
        if self._crash is not None:
            raise self._crash
        if self._core.ended is not None and not len(self._core.held):
            raise self._core.ended


class _Events(AsyncIterator[Event]):
    """All events of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __anext__(self) -> Event:
        try:
            return await self._client.next_event()
        except ClientClosed:
            raise StopAsyncIteration from None


def _current_task() -> Optional[asyncio.Task[None]]:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
