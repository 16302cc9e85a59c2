"""The client's side of one connection: which frames to send and when, and whether the frames that
arrive keep the protocol's promises. It does no I/O, does not reconnect, and takes no decision about
ticks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, Iterator, List, NamedTuple, Optional, Union

from ._frames import Decoder, FrameType, encode_frame
from ._heartbeats import Heartbeats
from ._messages import (
    CONNECTION_ID_LEN_MAX,
    COOKIE_LEN_MAX,
    SCHEMA_VERSION,
    Ack,
    Auth,
    DataBatch,
    ErrorMsg,
    GoingAway,
    Heartbeat,
    Pong,
    Subscribe,
    WireTick,
)
from ._units import MS, NEVER, US
from .errors import AuthenticationError, ProtocolError, Refused, UnknownSchemaError
from .events import Mode


class Request(NamedTuple):
    """A subscription that a client asks for."""

    mode: Mode
    ahead: bool = False
    resume_after_ms: Optional[int] = None


@dataclass(frozen=True)
class Welcome:
    """The content of the ACK of AUTH."""

    edge_id: str
    heartbeat_interval: int
    heartbeat_timeout: int
    protocol_minor: int
    connection_id: Optional[str]
    frame_rate_limit: int

    cookie: Optional[bytes]

    def __repr__(self) -> str:
        return f"Welcome(edge_id={self.edge_id!r}, connection_id={self.connection_id!r})"


class Subscribed(NamedTuple):
    """The edge accepted a SUBSCRIBE and sends the ticks after ``start_ms``."""

    request: Request
    start_ms: int


class Batch(NamedTuple):
    """At least one tick. Each is later than all before it."""

    mode: Mode
    ticks: List[WireTick]
    sent_unix_us: int


class PongExchange(NamedTuple):
    """The timestamps of a HEARTBEAT and its PONG, in microseconds: t1 and t4 by the client's clock,
    t2 and t3 in authority time."""

    t1_us: int
    t2_us: int
    t3_us: int
    t4_us: int
    error_bound_us: int = 0
    clock_error_us: int = 0

    @property
    def has_time(self) -> bool:
        """Whether the edge knew the time."""
        return self.t2_us != 0 and self.t3_us != 0


class Leave(NamedTuple):
    """The edge sent GOING_AWAY: it closes the connection ``within`` that time."""

    within: int
    reason: str


SessionEvent = Union[Welcome, Subscribed, Batch, PongExchange, Leave, Refused]


class Session:
    """One connection, on which nothing has been sent yet."""

    def __init__(self, exact: bool = False, sparing: bool = False) -> None:
        self._decoder = Decoder()
        self._requests: Deque[Request] = deque()
        self._serving: Optional[Request] = None
        self._last_ms = 0
        self._heartbeats: Optional[Heartbeats] = None
        self._exact = exact
        self._sparing = sparing
        self._refused = False

    def authenticate(self, auth: Auth) -> bytes:
        """Returns AUTH, the first frame of the connection."""
        return encode_frame(FrameType.AUTH, auth)

    def subscribe(self, request: Request) -> bytes:
        """Returns a SUBSCRIBE, which need not wait for the ACK of AUTH. Until its own ACK arrives,
        ticks belong to the subscription before it."""
        self._requests.append(request)
        message = Subscribe(request.mode, request.resume_after_ms, request.ahead)
        return encode_frame(FrameType.SUBSCRIBE, message)

    @property
    def next_heartbeat(self) -> int:
        """When a HEARTBEAT is next due; NEVER before the ACK of AUTH."""
        return self._heartbeats.next if self._heartbeats else NEVER

    @property
    def pending_requests(self) -> int:
        """The number of SUBSCRIBEs that are not acknowledged yet."""
        return len(self._requests)

    def poll_heartbeat(self, now: int, random: float) -> bytes:
        """Returns a HEARTBEAT if one is due, and otherwise nothing."""
        if self._heartbeats is None or self._heartbeats.next > now:
            return b""
        self._heartbeats.handle_sent(now, self._exact or self._ahead(), random)
        return encode_frame(FrameType.HEARTBEAT, Heartbeat(now // US))

    def hasten_heartbeat(self, now: int) -> None:
        """Brings the next HEARTBEAT forward, because the client doubts that the edge is well."""
        if self._heartbeats is not None:
            self._heartbeats.hasten(now)

    def sample_again(self, now: int) -> None:
        """Samples the time as often as at an edge that does not know it, because all samples are
        void."""
        if self._heartbeats is not None:
            self._heartbeats.handle_pong(has_time=False)
            self._heartbeats.hasten(now)

    def handle_bytes(self, data: bytes, now: int) -> Iterator[SessionEvent]:
        """Yields the events in ``data``, which was read at ``now``. If the caller stops early, the
        rest is kept for the next call.

        Raises:
            ProtocolError: the edge broke the protocol. The events before that count.
        """
        self._decoder.feed(data)
        while not self._refused:
            frame = self._decoder.poll()
            if frame is None:
                return
            message = frame.decode()
            event = self._handle(frame.type_byte, message, now) if message is not None else None
            if event is not None:
                yield event

    def _handle(self, type_byte: int, message: object, now: int) -> Optional[SessionEvent]:
        if isinstance(message, DataBatch):
            return self._handle_batch(message)
        if isinstance(message, Pong):
            return self._handle_pong(message, now)
        if isinstance(message, Ack):
            return self._handle_ack(message, now)
        if isinstance(message, GoingAway):
            if self._heartbeats is None:
                raise _unexpected("GOING_AWAY")
            return Leave(message.deadline_ms * MS, message.reason)
        if isinstance(message, ErrorMsg):
            self._refused = True
            self._heartbeats = None
            return _refusal(message)
        raise _unexpected(FrameType(type_byte).name)

    def _handle_pong(self, pong: Pong, now: int) -> PongExchange:
        exchange = PongExchange(
            pong.client_time_us,
            pong.received_unix_us,
            pong.sent_unix_us,
            # Rounded up, as t1 was rounded down, so that the true moments lie between the two.
            -(-now // US),
            pong.error_bound_us,
            pong.clock_error_us,
        )
        if self._heartbeats is not None:
            self._heartbeats.handle_pong(exchange.has_time)
        return exchange

    def _handle_ack(self, ack: Ack, now: int) -> Optional[SessionEvent]:
        if ack.acked_type == FrameType.AUTH and self._heartbeats is None:
            interval = ack.heartbeat_interval_ms * MS
            self._heartbeats = Heartbeats(interval, ack.frame_rate_limit, now, self._sparing)
            usable = 1 <= len(ack.cookie) <= COOKIE_LEN_MAX
            return Welcome(
                ack.edge_id,
                interval,
                ack.heartbeat_timeout_ms * MS,
                ack.protocol_minor,
                _connection_id(ack.connection_id),
                ack.frame_rate_limit,
                ack.cookie if usable else None,
            )
        if ack.acked_type == FrameType.SUBSCRIBE and self._heartbeats and self._requests:
            self._serving = self._requests.popleft()
            self._last_ms = ack.start_epoch_ms
            if self._serving.ahead:
                self._heartbeats.require_exact_time(now)
            return Subscribed(self._serving, ack.start_epoch_ms)
        if ack.acked_type in (FrameType.AUTH, FrameType.SUBSCRIBE):
            raise _unexpected("ACK")
        return None

    def _handle_batch(self, batch: DataBatch) -> Batch:
        if self._serving is None:
            raise _unexpected("DATA_BATCH")
        if batch.schema_version != SCHEMA_VERSION:
            raise UnknownSchemaError(batch.schema_version)
        if not batch.ticks:
            raise ProtocolError("a DATA_BATCH contains no tick", "EMPTY_BATCH")
        mode = self._serving.mode
        for tick in batch.ticks:
            if tick.mode != mode:
                raise ProtocolError(
                    f"a tick of mode {tick.mode} arrived in a subscription to {mode.name}",
                    "OTHER_MODE",
                )
            if tick.epoch_ms <= self._last_ms:
                raise ProtocolError(
                    f"tick {tick.epoch_ms} is not later than {self._last_ms}, the tick before it "
                    "or the subscription's start",
                    "NOT_INCREASING",
                )
            self._last_ms = tick.epoch_ms
        return Batch(mode, batch.ticks, batch.sent_unix_us)

    def _ahead(self) -> bool:
        newest = self._requests[-1] if self._requests else self._serving
        return newest is not None and newest.ahead


def _unexpected(name: str) -> ProtocolError:
    return ProtocolError(f"{name} must not arrive at this point", "UNEXPECTED")


def _refusal(message: ErrorMsg) -> Refused:
    refused = AuthenticationError if message.code == "AUTH_FAILED" else Refused
    return refused(
        message.code,
        message.message,
        message.retry_after_ms,
        tuple(message.supported_versions),
        _connection_id(message.connection_id),
    )


def _connection_id(text: str) -> Optional[str]:
    """Returns a connection's name, or ``None`` if it is not one that an edge gives."""
    is_valid = 1 <= len(text) <= CONNECTION_ID_LEN_MAX and all("!" <= c <= "~" for c in text)
    return text if is_valid else None
