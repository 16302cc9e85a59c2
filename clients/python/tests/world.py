"""A world in virtual time: edges, a network, and a machine with one subscription."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Tuple, Type, TypeVar, Union

from tickstorm import _messages as messages
from tickstorm import events
from tickstorm._actions import Close, Dial, Send
from tickstorm._frames import Decoder, FrameType, encode_frame
from tickstorm._subscription import Subscription
from tickstorm._units import MS, S, US
from tickstorm._wire import Message
from tickstorm.errors import ConnectError, ConnectionClosed, TickstormError
from tickstorm.options import Credentials, make_options

AUTHORITY_MS = 1_800_000_000_250
"""Authority time when the world begins: 250 ms after a tick."""
BEGIN = 1_000 * S
"""The machine's clock when the world begins."""
AHEAD_MS = 800
CONNECT_MAX = 3 * S
"""The driver's limit for a connection to an IP address."""

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
        self.answers_dial = True
        """Whether an attempt to connect has an outcome before the client's limit."""
        self.ip_addresses = 1
        """The number of IP addresses of the name that leads here."""
        self.refusal: Optional[messages.ErrorMsg] = None
        """The answer to AUTH, if it is an ERROR."""
        self.refusal_of_subscribe: Optional[messages.ErrorMsg] = None
        self.answers = True
        """Whether the edge sends anything at all."""
        self.acks_auth = True
        self.acks_subscribe = True
        self.ack_of_auth_after_ms = 0
        self.ack_of_subscribe_after_ms = 0
        self.ticks = True
        self.pongs = True
        self.knows_time = True
        self.start_ms: Optional[int] = None
        """What each ACK of SUBSCRIBE says, if not the truth."""
        self.start_later_ms = 0
        """By how much later each subscription starts than it was asked for."""
        self.cookie = b""
        self.protocol_minor = 1
        self.heartbeat_interval_ms = 15_000
        self.frame_rate_limit = 0
        self.connections: Dict[int, SimConnection] = {}
        self.auths: List[messages.Auth] = []
        self.subscribes: List[messages.Subscribe] = []
        self.subscribed_at: List[int] = []
        """When the SUBSCRIBEs arrived."""
        self.heartbeats: List[int] = []
        self.acked_auth_at = 0
        self.acked_subscribe_at: Optional[int] = None


class World:
    """Runs a subscription against edges, one at each address, by their order."""

    trip = 1 * MS
    """The time of a frame from one end to the other."""

    def __init__(
        self,
        *edges: SimEdge,
        random: float = 0.5,
        authority_ms: int = AUTHORITY_MS,
        **options: Any,
    ) -> None:
        self.time = BEGIN
        """The time of the world, from which the machine's clock differs once it was suspended."""
        self.suspended = 0
        self.authority_offset = authority_ms * MS - BEGIN
        self.edges = list(edges)
        self.random = random
        self.seen: List[Tuple[int, events.Event]] = []
        """The events that were handed on, and when."""
        self.dials: List[Tuple[int, int]] = []
        """When a connection was tried, and the index of the address."""
        self.closed: List[Tuple[int, int]] = []
        """When the machine has closed a connection, and its number."""
        self.is_read = True
        self._queue: List[Tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._edge_by_number: Dict[int, SimEdge] = {}
        self._is_frozen = False
        self._deferred: List[Callable[[], None]] = []
        self._unread: Deque[Tuple[int, bytes]] = deque()
        """What has arrived over the connection in use while it was not read."""
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

    @property
    def now(self) -> int:
        """The machine's clock."""
        return self.time - self.suspended

    def at(self, when: int, action: Callable[[], None]) -> None:
        """Plans an action."""
        heapq.heappush(self._queue, (max(when, self.time), next(self._count), action))

    def after(self, secs: float, action: Callable[[], None]) -> None:
        """Plans an action in some seconds from now."""
        self.at(self.time + int(secs * S), action)

    def run(self, secs: float) -> None:
        """Lets time pass."""
        self.run_until(lambda: False, secs)

    def run_until(self, is_over: Callable[[], bool], secs: float) -> bool:
        """Lets time pass until something holds, but not longer. Returns whether it holds."""
        end = self.time + round(secs * S)
        while not is_over():
            timer = end + 1 if self._is_frozen else self._timer + self.suspended
            planned = self._queue[0][0] if self._queue else end + 1
            if min(timer, planned) > end:
                self.time = end
                return is_over()
            self.time = max(self.time, min(timer, planned))
            if planned <= timer:
                heapq.heappop(self._queue)[2]()
            else:
                self.input(lambda: None)
        return True

    def freeze(self, secs: float, suspended: bool = False) -> None:
        """Stops the machine, so that it notices nothing for a while. If it is suspended, its clock
        stops, too."""
        self._is_frozen = True

        def thaw() -> None:
            self._is_frozen = False
            self.suspended += int(secs * S) if suspended else 0
            deferred, self._deferred = self._deferred, []
            self.input(lambda: None)
            for happened in deferred:
                happened()

        self.after(secs, thaw)

    @property
    def authority_ms(self) -> float:
        """Authority time now."""
        return (self.time + self.authority_offset) / MS

    def step_authority(self, ms: int) -> None:
        """Steps authority time."""
        self.authority_offset += ms * MS

    # The machine

    def input(self, happened: Callable[[], None]) -> None:
        """Does what a driver does around everything that happens."""
        if self._is_frozen:
            self._deferred.append(partial(self.input, happened))
            return
        self.core.handle_time(self.now, self.suspended)
        happened()
        self.core.poll(self.now)
        while self.core.actions:
            action = self.core.actions.popleft()
            if isinstance(action, Dial):
                self._dial(action)
            elif isinstance(action, Send):
                self.at(self.time + self.trip, partial(self._receive, *action))
            elif isinstance(action, Close):
                self.closed.append((self.time, action.number))
                self._edge_by_number[action.number].connections.pop(action.number, None)
            else:
                self.at(self.time, partial(self.input, self._settled))
        while True:
            event = self.core.held.pop(self.core.estimator, self.now)
            if event is None:
                break
            self.seen.append((self.time, event))
        self.core.handle_room(self.is_read, self.now)
        if self._unread and not self._is_unread(self._unread[0][0]):
            self.at(self.time, self._read_on)
        self._timer = self.core.next_timer(self.now)

    def _settled(self) -> None:
        self.core.handle_settled(self.now)

    def edge_at(self, dial: Dial) -> SimEdge:
        """Returns the edge that a connection leads to."""
        return self.edges[dial.address]

    def _dial(self, dial: Dial) -> None:
        self.dials.append((self.time, dial.address))
        edge = self.edge_at(dial)
        self._edge_by_number[dial.number] = edge
        if edge.answers_dial:
            self.at(self.time + 2 * self.trip, partial(self._answer_dial, edge, dial.number))
        else:
            was_cut_off = dial.limit is not None and dial.limit < CONNECT_MAX
            after = dial.limit if was_cut_off and dial.limit is not None else CONNECT_MAX
            error = ConnectError(edge.edge_id, "it takes too long", was_cut_off)
            self.at(self.time + after, partial(self.fail, dial.number, error))

    def _answer_dial(self, edge: SimEdge, number: int) -> None:
        if not edge.accepts:
            self.fail(number, ConnectError(edge.edge_id, "refused"))
            return
        edge.connections[number] = SimConnection(number, Decoder())
        self.input(
            lambda: self.core.handle_connected(
                number, self.credentials, self.now, edge.ip_addresses
            )
        )

    def deliver(self, number: int, data: bytes) -> None:
        """Bytes arrive at the machine. They wait in its kernel if the connection is not read."""
        if self._is_frozen:
            self._deferred.append(partial(self.deliver, number, data))
        elif self._is_unread(number) or any(each == number for each, _ in self._unread):
            self._unread.append((number, data))
        else:
            self.input(lambda: self.core.handle_bytes(number, data, self.now))

    def _is_unread(self, number: int) -> bool:
        link = self.core.link
        return link is not None and link.number == number and not link.is_read

    def _read_on(self) -> None:
        """Reads what has arrived meanwhile."""
        if self._is_frozen:
            self._deferred.append(self._read_on)
        elif self._unread and not self._is_unread(self._unread[0][0]):
            number, data = self._unread.popleft()
            self.input(lambda: self.core.handle_bytes(number, data, self.now))

    def fail(self, number: int, error: TickstormError) -> None:
        """A connection fails, or ends without an ERROR."""
        self.input(lambda: self.core.handle_failure(number, error, self.now))

    # The edges

    def send(self, number: int, frame_type: FrameType, message: Message) -> None:
        """Sends a frame of an edge."""
        data = encode_frame(frame_type, message)
        self.at(self.time + self.trip, partial(self.deliver, number, data))

    def error(self, edge: SimEdge, code: str, retry_after_ms: int = 0) -> None:
        """Ends all connections of an edge with an ERROR."""
        for number in list(edge.connections):
            self._refuse(edge, number, messages.ErrorMsg(code, retry_after_ms=retry_after_ms))

    def cut(self, edge: SimEdge) -> None:
        """Ends all connections of an edge without a word."""
        for number in list(edge.connections):
            edge.connections.pop(number)
            self.fail(number, ConnectionClosed())

    def going_away(self, edge: SimEdge, deadline_ms: int, closes: bool = True) -> None:
        """An edge asks its clients to move, and closes their connections at the deadline."""
        for number in list(edge.connections):
            self.send(number, FrameType.GOING_AWAY, messages.GoingAway(deadline_ms))
        if closes:
            self.after(deadline_ms / 1_000, lambda: self.error(edge, "SERVER_DRAINING", 250))

    def _refuse(self, edge: SimEdge, number: int, error: messages.ErrorMsg) -> None:
        self.send(number, FrameType.ERROR, error)
        edge.connections.pop(number)

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
                edge.auths.append(message)
                if edge.refusal is not None:
                    self._refuse(edge, number, edge.refusal)
                elif edge.answers and edge.acks_auth:
                    after = edge.ack_of_auth_after_ms / 1_000
                    self.after(after, partial(self._ack_auth, edge, connection))
            elif isinstance(message, messages.Subscribe):
                edge.subscribes.append(message)
                edge.subscribed_at.append(self.time)
                if edge.refusal_of_subscribe is not None:
                    self._refuse(edge, number, edge.refusal_of_subscribe)
                elif edge.answers and edge.acks_auth and edge.acks_subscribe:
                    after = (edge.ack_of_auth_after_ms + edge.ack_of_subscribe_after_ms) / 1_000
                    self.after(after, partial(self._ack_subscribe, edge, connection, message))
            elif isinstance(message, messages.Heartbeat):
                self._answer_heartbeat(edge, connection, message)

    def _ack_auth(self, edge: SimEdge, connection: SimConnection) -> None:
        if connection.number not in edge.connections:
            return
        edge.acked_auth_at = self.time
        ack = messages.Ack(
            acked_type=1,
            heartbeat_interval_ms=edge.heartbeat_interval_ms,
            heartbeat_timeout_ms=20_000,
            edge_id=edge.edge_id,
            protocol_minor=edge.protocol_minor,
            connection_id=f"{edge.edge_id}-{connection.number}",
            cookie=edge.cookie,
            frame_rate_limit=edge.frame_rate_limit,
        )
        self.send(connection.number, FrameType.ACK, ack)

    def _ack_subscribe(
        self, edge: SimEdge, connection: SimConnection, subscribe: messages.Subscribe
    ) -> None:
        if connection.number not in edge.connections:
            return
        connection.subscription = subscribe
        period = events.Mode(subscribe.mode).period_ms
        start_ms = subscribe.resume_after_epoch_ms
        if start_ms is None:
            start_ms = int(self.authority_ms) // period * period
        if edge.start_ms is not None:
            start_ms = edge.start_ms
        start_ms += edge.start_later_ms
        connection.last_ms = start_ms
        edge.acked_subscribe_at = self.time
        ack = messages.Ack(acked_type=2, edge_id=edge.edge_id, start_epoch_ms=start_ms)
        self.send(connection.number, FrameType.ACK, ack)
        self._send_due(edge, connection, quality=2)

    def _answer_heartbeat(
        self, edge: SimEdge, connection: SimConnection, heartbeat: messages.Heartbeat
    ) -> None:
        edge.heartbeats.append(self.time)
        if not edge.answers or not edge.pongs:
            return
        pong = messages.Pong(heartbeat.client_time_us, error_bound_us=(1 << 32) - 1)
        if edge.knows_time:
            unix_us = (self.time + self.authority_offset) // US
            pong = messages.Pong(heartbeat.client_time_us, unix_us, unix_us, 10)
        self.send(connection.number, FrameType.PONG, pong)

    def _send_due(self, edge: SimEdge, connection: SimConnection, quality: int) -> None:
        subscription = connection.subscription
        if subscription is None or not edge.ticks or not edge.answers:
            return
        mode = events.Mode(subscription.mode)
        lead_ms = AHEAD_MS if subscription.ahead else 0
        ticks = []
        while True:
            epoch_ms = mode.next_after(connection.last_ms)
            late_ms = self.authority_ms - epoch_ms
            if late_ms < -lead_ms:
                break
            grounds = quality if late_ms >= 0 else 0
            if late_ms > 1_000:
                grounds = 2
            ticks.append(messages.WireTick(mode, epoch_ms, grounds))
            connection.last_ms = epoch_ms
        for start in range(0, len(ticks), 1_000):
            batch = messages.DataBatch(1, ticks[start : start + 1_000])
            self.send(connection.number, FrameType.DATA_BATCH, batch)

    def _plan_ticks(self) -> None:
        """Sends what is due every 50 ms of authority time, and exactly at each second."""
        for edge in self.edges:
            for connection in list(edge.connections.values()):
                self._send_due(edge, connection, quality=0)
        to_next = 50 * MS - (self.time + self.authority_offset) % (50 * MS)
        self.at(self.time + to_next, self._plan_ticks)

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
