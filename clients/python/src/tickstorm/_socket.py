""":class:`Socket`: one connected socket, between asyncio and a client."""

from __future__ import annotations

import asyncio
from typing import Callable, NamedTuple, Optional

CLOSING_MAX_SECS = 1.0
"""The time that a socket has to send the rest when it is closed."""


class SocketEvents(NamedTuple):
    """What is called when something happens to a socket."""

    opened: Callable[[Socket], None]
    read: Callable[[int, bytes], None]
    writable: Callable[[int, bool], None]
    lost: Callable[[Socket, Optional[Exception]], None]


class Socket(asyncio.Protocol):
    """The socket of the link with a number."""

    def __init__(self, number: int, events: SocketEvents) -> None:
        self.number = number
        self.is_read = True
        """Whether bytes are read."""
        self._events = events
        self._transport: Optional[asyncio.Transport] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # A HEARTBEAT must not be added to a frame that the socket has not accepted yet.
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._events.opened(self)

    def data_received(self, data: bytes) -> None:
        self._events.read(self.number, data)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._events.lost(self, exc)

    def pause_writing(self) -> None:
        self._events.writable(self.number, False)

    def resume_writing(self) -> None:
        self._events.writable(self.number, True)

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        if self._transport is not None:
            self._transport.write(data)

    def set_read(self, is_read: bool) -> None:
        """Sets whether bytes are read."""
        if self._transport is None or is_read == self.is_read or self._transport.is_closing():
            return
        self.is_read = is_read
        if is_read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        """Closes the connection. What is not sent soon is dropped."""
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSING_MAX_SECS, self.abort)

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()
