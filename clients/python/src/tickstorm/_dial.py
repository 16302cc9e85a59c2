"""Making connections. The IP addresses of a name are tried side by side, as RFC 8305 describes it
("Happy Eyeballs"): IPv6 and IPv4 alternate, and each attempt starts when the one before it has
failed, or 250 ms after it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from ._units import S
from .errors import ConnectError
from .options import TLS, Address

_LOOKUP_MAX_SECS = 5.0
_CONNECT_MAX_SECS = 3.0
"""The limit for each IP address: enough for a lost SYN and its retransmission a second later."""
_RACE_MAX_SECS = 6.0
"""The limit for all IP addresses of a name together."""
_HEAD_START_SECS = 0.25
_HANDSHAKE_MAX_SECS = 10.0

Candidate = Tuple[socket.AddressFamily, Any]
"""An address family and a socket address."""


class Dialler:
    """Dials over TCP, or TLS. The next attempt for the same name continues after the IP address
    that was used, in case its edge refuses or is silent."""

    def __init__(self, tls: Optional[TLS]) -> None:
        self._tls = tls
        self._last_by_address: Dict[Address, Candidate] = {}

    async def dial(
        self,
        address: Address,
        factory: Callable[[], asyncio.Protocol],
        limit: Optional[int] = None,
    ) -> int:
        """Connects a protocol to an address. Returns the number of its IP addresses. The limit is
        that of ``Dial``.

        Raises:
            ConnectError: that is not possible, or takes too long.
        """
        try:
            sock, count = await self._within(limit, address)
            await self._set_up(sock, address, factory)
        except asyncio.TimeoutError as error:
            raise ConnectError(str(address), "it takes too long") from error
        except (OSError, ssl.SSLError, UnicodeError) as error:
            raise ConnectError(str(address), error) from error
        return count

    async def _within(self, limit: Optional[int], address: Address) -> Tuple[socket.socket, int]:
        if limit is None:
            return await self._connect(address)
        attempt = asyncio.ensure_future(self._connect(address))
        try:
            done, _ = await asyncio.wait([attempt], timeout=limit / S)
        except BaseException:
            _drop(attempt)
            raise
        if done:
            return attempt.result()
        _drop(attempt)
        reason = f"no connection within {limit / S:g} s, and other addresses are left to try"
        raise ConnectError(str(address), reason, was_cut_off=True)

    async def _connect(self, address: Address) -> Tuple[socket.socket, int]:
        """Makes a TCP connection. Also returns the number of IP addresses."""
        loop = asyncio.get_running_loop()
        lookup = loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        found = await asyncio.wait_for(lookup, _LOOKUP_MAX_SECS)
        resolved = [(family, sockaddr) for family, _, _, _, sockaddr in found]
        candidates = in_turn(resolved, self._last_by_address.get(address))
        race = Race(candidates, _connect)
        try:
            return await asyncio.wait_for(race.run(), _RACE_MAX_SECS), len(candidates)
        finally:
            if race.last is not None:
                self._last_by_address[address] = race.last

    async def _set_up(
        self, sock: socket.socket, address: Address, factory: Callable[[], asyncio.Protocol]
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                await loop.create_connection(factory, sock=sock)
            else:
                await loop.create_connection(
                    factory,
                    sock=sock,
                    ssl=self._tls.context(),
                    server_hostname=self._tls.server_name or address.host,
                    ssl_handshake_timeout=_HANDSHAKE_MAX_SECS,
                )
        except BaseException:
            sock.close()
            raise


def _drop(attempt: "asyncio.Future[Tuple[socket.socket, int]]") -> None:
    """Cancels an attempt, and closes its connection if it comes too late."""

    def close(ended: "asyncio.Future[Tuple[socket.socket, int]]") -> None:
        if not ended.cancelled() and ended.exception() is None:
            ended.result()[0].close()

    attempt.add_done_callback(close)
    attempt.cancel()


def in_turn(found: Sequence[Candidate], last: Optional[Candidate]) -> List[Candidate]:
    """Returns addresses in the order in which to try them: those of the two families alternate,
    beginning with the family of the first, and the order begins after ``last``."""
    distinct = list(dict.fromkeys(found))
    first = [each for each in distinct if each[0] == distinct[0][0]]
    second = [each for each in distinct if each[0] != distinct[0][0]]
    ordered: List[Candidate] = []
    for index in range(len(distinct)):
        ordered += first[index : index + 1] + second[index : index + 1]
    if last in ordered:
        start = ordered.index(last) + 1
        ordered = ordered[start:] + ordered[:start]
    return ordered


class Race:
    """Connects to the first of several addresses that answers."""

    def __init__(self, candidates: Sequence[Candidate], connect: Callable[..., Any]) -> None:
        self._candidates = list(candidates)
        self._connect = connect
        self.last: Optional[Candidate] = None
        """The address that was used or, until then, the one that was tried last."""

    async def run(self) -> Any:
        """Returns what ``connect`` returned first.

        Raises:
            OSError: the last error, if all attempts failed.
        """
        error: BaseException = OSError("the name resolves to no address")
        waiting, running = list(self._candidates), {}  # type: ignore[var-annotated]
        won = None
        try:
            while waiting or running:
                if waiting:
                    self.last = waiting.pop(0)
                    attempt = asyncio.wait_for(self._connect(self.last), _CONNECT_MAX_SECS)
                    running[asyncio.ensure_future(attempt)] = self.last
                timeout = _HEAD_START_SECS if waiting else None
                done: Set[Any]
                done, _ = await asyncio.wait(
                    running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    candidate = running.pop(task)
                    failure = task.exception()
                    if failure is not None:
                        error = failure
                    elif won is None:
                        self.last, won = candidate, task.result()
                    else:
                        task.result().close()
                if won is not None:
                    return won
            raise error
        finally:
            for task in running:
                task.add_done_callback(_close)
                task.cancel()


def _close(task: "asyncio.Future[Any]") -> None:
    """Closes the connection of an attempt that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(candidate: Candidate) -> socket.socket:
    family, sockaddr = candidate
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock
