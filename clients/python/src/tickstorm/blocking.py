""":class:`BlockingClient`: the client for programs without asyncio. A thread runs
:class:`Client`, so heartbeats are sent in time however slowly events are read."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from types import TracebackType
from typing import Any, Coroutine, Iterator, Optional, Sequence, Type, TypeVar, Union

from .client import Client
from .errors import ClientClosed
from .events import Estimate, Event, Mode, Tick
from .options import TLS, AnyPath

T = TypeVar("T")


class BlockingClient:
    """A subscription to the ticks of an edge cluster, for programs without asyncio.

    ::

        with BlockingClient("127.0.0.1:8080", user="stream_user", password="stream_pass") as client:
            for tick in client:
                print(tick.time, tick.quality.name)

    The arguments are those of :class:`Client`. There may be one reader at a time, in any thread.
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
        self._client = Client(
            addresses,
            user=user,
            password=password,
            password_file=password_file,
            token=token,
            token_file=token_file,
            mode=mode,
            resume_after_ms=resume_after_ms,
            ahead=ahead,
            exact_time=exact_time,
            tls=tls,
            client_id=client_id,
            reconnect=reconnect,
            moves=moves,
        )
        self._lock = threading.Lock()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[threading.Thread] = None
        self._closed = False
        self._next: Optional[concurrent.futures.Future[Event]] = None
        """The event that is being awaited. If the wait was interrupted, the next one continues."""

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._client)[1:]}"

    def connect(self) -> BlockingClient:
        """Makes the first connection, unless there is one. Each address is tried. ``with``
        does the same. If this fails or is interrupted, the client is closed for good.

        Raises:
            TickstormError: no edge accepted this client.
        """
        try:
            self._submit(self._client.connect()).result()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ends the subscription and its thread. Iteration over it stops, also in other threads."""
        with self._lock:
            already, self._closed = self._closed, True
            loop, thread = self._loop, self._thread
        if already or loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> BlockingClient:
        return self.connect()

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __iter__(self) -> BlockingClient:
        return self

    def __next__(self) -> Tick:
        while True:
            try:
                event = self.next_event()
            except ClientClosed:
                raise StopIteration from None
            if isinstance(event, Tick):
                return event

    def events(self) -> Iterator[Event]:
        """Yields all events: ticks, gaps between them, and what happens to the connection."""
        while True:
            try:
                event = self.next_event()
            except ClientClosed:
                return
            yield event

    def next_event(self, timeout: Optional[float] = None) -> Event:
        """Returns the next event.

        Args:
            timeout: The time to wait, in seconds; ``None`` means without limit.

        Raises:
            TimeoutError: no event came in time. None is lost.
            ClientClosed: the client was closed.
            TickstormError: the connection ended, and ``reconnect`` is false.
        """
        if self._next is None:
            self._next = self._submit(self._client.next_event())
        pending = self._next
        # Unlike the error that result() raises for a timeout, this can't be confused with an error
        # of the client's, and an event that arrives at the last moment counts.
        concurrent.futures.wait([pending], timeout)
        if not pending.done():
            raise TimeoutError(f"no event within {timeout} s")
        self._next = None
        return pending.result()

    def set_mode(
        self, mode: Union[Mode, str], *, resume_after_ms: Optional[int] = None
    ) -> None:
        """Changes the mode, as :meth:`Client.set_mode` does."""

        async def set_mode() -> None:
            self._client.set_mode(mode, resume_after_ms=resume_after_ms)

        self._submit(set_mode()).result()

    def now(self) -> Optional[Estimate]:
        """Returns authority time, or ``None`` if it is not known at present."""

        async def now() -> Optional[Estimate]:
            return self._client.now()

        return self._submit(now()).result()

    @property
    def start_ms(self) -> Optional[int]:
        """The point after which the first connection's ticks were sent."""
        return self._client.start_ms

    @property
    def mode(self) -> Mode:
        """The mode of the subscription, as the edge has accepted it."""
        return self._client.mode

    @property
    def address(self) -> Optional[str]:
        """The address of the edge, or ``None`` if there is no connection."""
        return self._client.address

    @property
    def edge_id(self) -> Optional[str]:
        """The name that the edge gives itself, or ``None`` if there is no connection."""
        return self._client.edge_id

    @property
    def connection_id(self) -> Optional[str]:
        """The name of the connection in the edge's log, or ``None`` if it has none."""
        return self._client.connection_id

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Starts a coroutine in the thread, which is started if necessary."""
        with self._lock:
            if self._closed:
                coroutine.close()
                raise ClientClosed
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="tickstorm", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        # The client is closed, so callers that wait for an event are told so.
        pending = asyncio.all_tasks(loop)
        if pending:
            loop.run_until_complete(asyncio.wait(pending, timeout=1))
    finally:
        loop.close()
