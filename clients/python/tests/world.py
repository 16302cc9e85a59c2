"""A world in virtual time: edges, a network, and a machine with one subscription."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Type, TypeVar, Union

from tickstorm import _messages as messages
from tickstorm import events
from tickstorm._frames import Decoder, FrameType, encode_frame
from tickstorm._subscription import Close, Dial, Send, Subscription
from tickstorm._units import MS, S, US
from tickstorm.errors import ConnectError, ConnectionClosed
from tickstorm.options import Credentials, make_options

AUTHORITY_MS = 1_800_000_000_250
"""Authority time when the world begins: 250 ms after a tick."""
BEGIN = 1_000 * S
"""The machine's clock when the world begins."""
AHEAD_MS = 800
TRIP = 1 * MS
"""The time of a frame from one end to the other."""

E = TypeVar("E")


@dataclass
class SimConnection:
    """An edge's side of a connection."""

    number: int
    decoder: Decoder
    subscription: Optional[messages.Subscribe] = None
    last_ms: int = 0


class SimEdge:
    """An edge, whose behaviour a test may change at any time."""

    def __init__(self, edge_id: str) -> None:
        self.edge_id = edge_id
        self.accepts = True
        self.refusal: Optional[messages.ErrorMsg] = None
        """The answer to AUTH, if it is an ERROR."""
        self.answers = True
        self.acks_subscribe = True
        self.ticks = True
        self.knows_time = True
        self.start_ms: Optional[int] = None
        """What each ACK of SUBSCRIBE says, if not the truth."""
        self.cookie = b""
        self.connections: Dict[int, SimConnection] = {}
        self.auths: List[messages.Auth] = []
        self.subscribes: List[messages.Subscribe] = []
        self.heartbeats: List[int] = []


class World:
    """Runs a subscription against edges, one at each address, by their order."""

    def __init__(
        self, *edges: SimEdge, random: float = 0.5, authority_ms: int = AUTHORITY_MS, **options: Any
    ) -> None:
        self.now = BEGIN
        self.suspended = 0
        self.authority_offset = authority_ms * MS - BEGIN
        self.edges = edges
        self.random = random
        self.seen: List[Tuple[int, events.Event]] = []
        """The events that were handed on, and when."""
        self.dials: List[Tuple[int, int]] = []
        """When a connection was tried, and the index of the address."""
        self.is_read = True
        self._queue: List[Tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._edge_by_number: Dict[int, SimEdge] = {}
        addresses = [f"edge-{index}:8080" for index in range(len(edges))]
        self.credentials = Credentials("ada", "open sesame")
        made: Dict[str, Any] = {
            "user": "ada",
            "password": "open sesame",
            "password_file": None,
            "token": None,
            "token_file": None,
            "mode": "second",
            "resume_after_ms": None,
            "tls": None,
            "client_id": "",
            **options,
        }
        self.core = Subscription(
            make_options(addresses, **made), lambda: self.random, self.now, self.suspended
        )
        self._timer = self.now
        self._plan_ticks()
        self.input(lambda: None)

    # Time

    def at(self, when: int, action: Callable[[], None]) -> None:
        """Plans an action."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._count), action))

    def after(self, secs: float, action: Callable[[], None]) -> None:
        """Plans an action in some seconds from now."""
        self.at(self.now + int(secs * S), action)

    def run(self, secs: float) -> None:
        """Lets time pass."""
        end = self.now + int(secs * S)
        while True:
            timer = self._timer
            planned = self._queue[0][0] if self._queue else end + 1
            if min(timer, planned) > end:
                self.now = end
                return
            if planned <= timer:
                self.now = max(self.now, planned)
                heapq.heappop(self._queue)[2]()
            else:
                self.now = max(self.now, timer)
                self.input(lambda: None)

    def stall(self, secs: float, suspended: bool = False) -> None:
        """Stops the machine, so that it notices nothing for a while."""
        passed = int(secs * S)
        if suspended:
            self.suspended += passed
            self.authority_offset += passed
            shift = passed
        else:
            self.now += passed
            shift = 0
        # What the edges have planned meanwhile happens before the machine continues.
        late, self._queue = self._queue, []
        for when, count, action in late:
            heapq.heappush(self._queue, (when - shift, count, action))
        held = self.core.handle_bytes
        arrived: List[Tuple[int, bytes]] = []
        self.core.handle_bytes = lambda n, d, _: arrived.append((n, d))  # type: ignore
        input_, self.input = self.input, lambda act: act()  # type: ignore[method-assign]
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        self.core.handle_bytes = held  # type: ignore[method-assign]
        self.input = input_  # type: ignore[method-assign]
        self.input(lambda: None)
        for number, data in arrived:
            self._deliver(number, data)

    @property
    def authority_ms(self) -> float:
        """Authority time now."""
        return (self.now + self.authority_offset) / MS

    def step_authority(self, ms: int) -> None:
        """Steps authority time."""
        self.authority_offset += ms * MS

    # The machine

    def input(self, happened: Callable[[], None]) -> None:
        """Does what a driver does around everything that happens."""
        self.core.handle_time(self.now, self.suspended)
        happened()
        self.core.poll(self.now)
        while self.core.actions:
            action = self.core.actions.popleft()
            if isinstance(action, Dial):
                self._dial(action)
            elif isinstance(action, Send):
                number, data = action
                self.at(self.now + TRIP, lambda n=number, d=data: self._receive(n, d))  # type: ignore
            elif isinstance(action, Close):
                self._edge_by_number.get(action.number, SimEdge("")).connections.pop(
                    action.number, None
                )
            else:
                self.at(
                    self.now, lambda: self.input(lambda: self.core.handle_settled(self.now))
                )
        self.core.handle_reading(self.is_read and not self.core.held.is_full, self.now)
        while True:
            event = self.core.held.pop(self.core.estimator, self.now)
            if event is None:
                self._timer = self.core.next_timer(self.now)
                return
            self.seen.append((self.now, event))

    def _dial(self, dial: Dial) -> None:
        edge = self.edges[dial.address]
        self.dials.append((self.now, dial.address))
        self._edge_by_number[dial.number] = edge
        core = self.core

        def connected() -> None:
            if not edge.accepts:
                error = ConnectError(edge.edge_id, "refused")
                self.input(lambda: core.handle_failure(dial.number, error, self.now))
                return
            edge.connections[dial.number] = SimConnection(dial.number, Decoder())
            credentials = self.credentials
            self.input(lambda: core.handle_connected(dial.number, credentials, self.now))

        self.at(self.now + 2 * TRIP, connected)

    def _deliver(self, number: int, data: bytes) -> None:
        self.input(lambda: self.core.handle_bytes(number, data, self.now))

    # The edges

    def send(
        self, edge: SimEdge, number: int, frame_type: FrameType, message: messages.Message
    ) -> None:
        """Sends a frame of an edge."""
        data = encode_frame(frame_type, message)
        self.at(self.now + TRIP, lambda: self._deliver(number, data))

    def error(self, edge: SimEdge, code: str, retry_after_ms: int = 0) -> None:
        """Ends all connections of an edge with an ERROR."""
        for number in list(edge.connections):
            message = messages.ErrorMsg(code=code, retry_after_ms=retry_after_ms)
            self.send(edge, number, FrameType.ERROR, message)
            edge.connections.pop(number)

    def cut(self, edge: SimEdge) -> None:
        """Ends all connections of an edge without a word."""
        for number in list(edge.connections):
            edge.connections.pop(number)
            error = ConnectionClosed()
            self.input(lambda n=number: self.core.handle_failure(n, error, self.now))  # type: ignore

    def going_away(self, edge: SimEdge, deadline_ms: int, closes: bool = True) -> None:
        """An edge asks its clients to move, and closes their connections at the deadline."""
        for number in list(edge.connections):
            message = messages.GoingAway(deadline_ms=deadline_ms)
            self.send(edge, number, FrameType.GOING_AWAY, message)
        if closes:
            self.after(deadline_ms / 1_000, lambda: self.error(edge, "SERVER_DRAINING", 250))

    def _receive(self, number: int, data: bytes) -> None:
        edge = self._edge_by_number[number]
        connection = edge.connections.get(number)
        if connection is None:
            return
        connection.decoder.feed(data)
        while number in edge.connections:
            frame = connection.decoder.poll()
            if frame is None:
                return
            message = frame.decode()
            if isinstance(message, messages.Auth):
                self._answer_auth(edge, connection, message)
            elif isinstance(message, messages.Subscribe):
                self._answer_subscribe(edge, connection, message)
            elif isinstance(message, messages.Heartbeat):
                self._answer_heartbeat(edge, connection, message)

    def _answer_auth(
        self, edge: SimEdge, connection: SimConnection, auth: messages.Auth
    ) -> None:
        edge.auths.append(auth)
        number = connection.number
        if edge.refusal is not None:
            self.send(edge, number, FrameType.ERROR, edge.refusal)
            edge.connections.pop(number)
        elif edge.answers:
            ack = messages.Ack(
                acked_type=1,
                heartbeat_interval_ms=15_000,
                heartbeat_timeout_ms=20_000,
                edge_id=edge.edge_id,
                protocol_minor=1,
                connection_id=f"{edge.edge_id}-{number}",
                cookie=edge.cookie,
            )
            self.send(edge, number, FrameType.ACK, ack)

    def _answer_subscribe(
        self, edge: SimEdge, connection: SimConnection, subscribe: messages.Subscribe
    ) -> None:
        edge.subscribes.append(subscribe)
        if not edge.acks_subscribe or not edge.answers:
            return
        connection.subscription = subscribe
        period = events.Mode(subscribe.mode).period_ms
        start_ms = subscribe.resume_after_epoch_ms
        if start_ms is None:
            start_ms = int(self.authority_ms) // period * period
        if edge.start_ms is not None:
            start_ms = edge.start_ms
        connection.last_ms = start_ms
        ack = messages.Ack(acked_type=2, edge_id=edge.edge_id, start_epoch_ms=start_ms)
        self.send(edge, connection.number, FrameType.ACK, ack)
        self._send_due(edge, connection, quality=2)

    def _answer_heartbeat(
        self, edge: SimEdge, connection: SimConnection, heartbeat: messages.Heartbeat
    ) -> None:
        edge.heartbeats.append(self.now)
        if not edge.answers:
            return
        pong = messages.Pong(heartbeat.client_time_us, error_bound_us=(1 << 32) - 1)
        if edge.knows_time:
            unix_us = (self.now + self.authority_offset) // US
            pong = messages.Pong(heartbeat.client_time_us, unix_us, unix_us, 100)
        self.send(edge, connection.number, FrameType.PONG, pong)

    def _send_due(self, edge: SimEdge, connection: SimConnection, quality: int) -> None:
        subscription = connection.subscription
        if subscription is None or not edge.ticks or not edge.answers:
            return
        mode = events.Mode(subscription.mode)
        lead_ms = AHEAD_MS if subscription.ahead else 0
        ticks = []
        while True:
            epoch_ms = mode.next_after(connection.last_ms)
            is_due = epoch_ms <= self.authority_ms
            if epoch_ms > self.authority_ms + lead_ms:
                break
            ticks.append(messages.WireTick(mode, epoch_ms, quality if is_due else 0))
            connection.last_ms = epoch_ms
        for start in range(0, len(ticks), 1_000):
            batch = messages.DataBatch(1, ticks[start : start + 1_000])
            self.send(edge, connection.number, FrameType.DATA_BATCH, batch)

    def _plan_ticks(self) -> None:
        """Sends what is due every 100 ms of authority time, and exactly at each second."""
        for edge in self.edges:
            for connection in list(edge.connections.values()):
                self._send_due(edge, connection, quality=0)
        to_next = 100 * MS - (self.now + self.authority_offset) % (100 * MS)
        self.at(self.now + to_next, self._plan_ticks)

    # What was seen

    def of(self, kind: Union[Type[E], Tuple[Type[E], ...]]) -> List[E]:
        """Returns the events of a type."""
        return [event for _, event in self.seen if isinstance(event, kind)]

    @property
    def ticks_ms(self) -> List[int]:
        """The times of all ticks."""
        return [tick.epoch_ms for tick in self.of(events.Tick)]

    def tick_delays_ms(self) -> Iterable[float]:
        """How long after its time each tick was handed on."""
        for at, event in self.seen:
            if isinstance(event, events.Tick):
                yield (at + self.authority_offset) / MS - event.epoch_ms


def two_edges() -> Tuple[SimEdge, SimEdge]:
    """Returns two healthy edges."""
    return SimEdge("a"), SimEdge("b")
