"""An edge on loopback for tests of the drivers. It sends ticks every 50 ms, so that tests are
short: their times are not those of a clock."""

from __future__ import annotations

import asyncio
import ssl
import threading
from typing import Any, Callable, List, Optional

from tickstorm import _messages as messages
from tickstorm._frames import Decoder, FrameType, encode_frame
from tickstorm._wire import Message
from tickstorm.errors import ProtocolError

INTERVAL_SECS = 0.05


class FakeEdge:
    """An edge that serves every client, unless a test says otherwise."""

    def __init__(self, edge_id: str = "fake", tls: Optional[ssl.SSLContext] = None) -> None:
        self.edge_id = edge_id
        self.refusal: Optional[messages.ErrorMsg] = None
        self.auths: List[messages.Auth] = []
        self.subscribes: List[messages.Subscribe] = []
        self.ticks_max = 1_000_000
        """The number of ticks after which a connection gets no more."""
        self.in_one_batch = 1
        self.is_paused = False
        """Whether no ticks are sent at present."""
        self._tls = tls
        self._server: Optional[asyncio.AbstractServer] = None
        self._tasks: List[asyncio.Task[None]] = []
        self._writers: List[asyncio.StreamWriter] = []

    async def __aenter__(self) -> FakeEdge:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: Any) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """The address to connect to."""
        assert isinstance(self._server, asyncio.base_events.Server)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._writers)

    def cut(self) -> None:
        """Ends all connections without a word."""
        for writer in list(self._writers):
            writer.transport.abort()

    def send(self, frame_type: FrameType, message: Message) -> None:
        """Sends a frame to all clients."""
        for writer in self._writers:
            writer.write(encode_frame(frame_type, message))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        self._writers.append(writer)
        ticking: Optional[asyncio.Task[None]] = None
        decoder = Decoder()
        try:
            while True:
                data = await reader.read(65_536)
                if not data:
                    break
                decoder.feed(data)
                while True:
                    frame = decoder.poll()
                    if frame is None:
                        break
                    message = frame.decode()
                    if isinstance(message, messages.Subscribe) and self.refusal is None:
                        if ticking is not None:
                            ticking.cancel()
                        self.subscribes.append(message)
                        ticking = asyncio.ensure_future(self._tick(writer, message))
                    elif message is not None:
                        self._answer(writer, message)
        except (OSError, ProtocolError):
            pass
        finally:
            if ticking is not None:
                ticking.cancel()
            self._writers.remove(writer)
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        if isinstance(message, messages.Heartbeat):
            time_us = 1_800_000_000_000_000
            pong = messages.Pong(message.client_time_us, time_us, time_us)
            writer.write(encode_frame(FrameType.PONG, pong))
        elif isinstance(message, messages.Auth):
            self.auths.append(message)
            if self.refusal is not None:
                writer.write(encode_frame(FrameType.ERROR, self.refusal))
                writer.close()
                return
            ack = messages.Ack(1, 15_000, 20_000, self.edge_id, 0, 1, f"c-{len(self.auths)}")
            writer.write(encode_frame(FrameType.ACK, ack))

    async def _tick(self, writer: asyncio.StreamWriter, subscribe: messages.Subscribe) -> None:
        period = 60_000 if subscribe.mode else 1_000
        last = subscribe.resume_after_epoch_ms
        if last is None:
            last = 1_800_000_000_000
        last = last // period * period
        ack = messages.Ack(2, 15_000, 20_000, self.edge_id, last, 1)
        writer.write(encode_frame(FrameType.ACK, ack))
        sent = 0
        while sent < self.ticks_max:
            while self.is_paused:
                await asyncio.sleep(INTERVAL_SECS)
            ticks = []
            for _ in range(self.in_one_batch):
                last += period
                ticks.append(messages.WireTick(subscribe.mode, last, 0))
            sent += len(ticks)
            writer.write(encode_frame(FrameType.DATA_BATCH, messages.DataBatch(1, ticks)))
            await writer.drain()
            await asyncio.sleep(INTERVAL_SECS)


class EdgeThread:
    """A fake edge in a thread, for tests of blocking clients."""

    def __init__(self) -> None:
        self.edge = FakeEdge()
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._stop: Optional[asyncio.Event] = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> EdgeThread:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def call(self, action: Callable[[], None]) -> None:
        """Calls something in the edge's thread."""
        self._loop.call_soon_threadsafe(action)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with self.edge:
            self.address = self.edge.address
            self._ready.set()
            await self._stop.wait()
