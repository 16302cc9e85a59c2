"""The messages of ``stream.proto``, with its names. Enums are plain integers here, because a peer
may send numbers that this version does not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, List, Mapping, Optional

from ._wire import Field, Kind, Message

SCHEMA_VERSION = 1
"""The only ``schema_version`` of a DataBatch whose ticks this version can interpret."""
COOKIE_LEN_MAX = 64
CONNECTION_ID_LEN_MAX = 40


@dataclass(repr=False)
class Auth(Message):
    """The payload of AUTH. It has secrets, so it is not printed."""

    username: str = ""
    password: str = ""
    client_id: str = ""
    client_version: str = ""
    token: str = ""
    cookie: bytes = b""

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("username", Kind.STRING),
        2: Field("password", Kind.STRING),
        3: Field("client_id", Kind.STRING),
        4: Field("client_version", Kind.STRING),
        5: Field("token", Kind.STRING),
        6: Field("cookie", Kind.BYTES),
    }

    def __repr__(self) -> str:
        return "Auth(***)"


@dataclass
class Subscribe(Message):
    """The payload of SUBSCRIBE."""

    mode: int = 0
    resume_after_epoch_ms: Optional[int] = None
    ahead: bool = False

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("mode", Kind.ENUM),
        5: Field("resume_after_epoch_ms", Kind.OPTIONAL_INT64),
        6: Field("ahead", Kind.BOOL),
    }


@dataclass
class Heartbeat(Message):
    """The payload of HEARTBEAT."""

    client_time_us: int = 0

    FIELDS: ClassVar[Mapping[int, Field]] = {1: Field("client_time_us", Kind.INT64)}


@dataclass
class Pong(Message):
    """The payload of PONG."""

    client_time_us: int = 0
    received_unix_us: int = 0
    sent_unix_us: int = 0
    error_bound_us: int = 0
    clock_error_us: int = 0

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("client_time_us", Kind.INT64),
        2: Field("received_unix_us", Kind.INT64),
        3: Field("sent_unix_us", Kind.INT64),
        4: Field("error_bound_us", Kind.UINT32),
        5: Field("clock_error_us", Kind.UINT32),
    }


@dataclass
class WireTick(Message):
    """A ``Tick`` in a DataBatch."""

    mode: int = 0
    epoch_ms: int = 0
    quality: int = 0

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("mode", Kind.ENUM),
        2: Field("epoch_ms", Kind.INT64),
        3: Field("quality", Kind.ENUM),
    }


@dataclass
class DataBatch(Message):
    """The payload of DATA_BATCH."""

    schema_version: int = 0
    ticks: List[WireTick] = field(default_factory=list)
    sent_unix_us: int = 0

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("schema_version", Kind.UINT32),
        2: Field("ticks", Kind.MESSAGES, WireTick),
        3: Field("sent_unix_us", Kind.INT64),
    }


@dataclass(repr=False)
class Ack(Message):
    """The payload of ACK. Its cookie is a secret, so it is not printed."""

    acked_type: int = 0
    heartbeat_interval_ms: int = 0
    heartbeat_timeout_ms: int = 0
    edge_id: str = ""
    start_epoch_ms: int = 0
    protocol_minor: int = 0
    connection_id: str = ""
    frame_rate_limit: int = 0
    cookie: bytes = b""

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("acked_type", Kind.UINT32),
        2: Field("heartbeat_interval_ms", Kind.UINT32),
        3: Field("heartbeat_timeout_ms", Kind.UINT32),
        4: Field("edge_id", Kind.STRING),
        5: Field("start_epoch_ms", Kind.INT64),
        6: Field("protocol_minor", Kind.UINT32),
        7: Field("connection_id", Kind.STRING),
        8: Field("frame_rate_limit", Kind.UINT32),
        9: Field("cookie", Kind.BYTES),
    }

    def __repr__(self) -> str:
        return f"Ack(acked_type={self.acked_type}, edge_id={self.edge_id!r})"


@dataclass
class ErrorMsg(Message):
    """The payload of ERROR."""

    code: str = ""
    message: str = ""
    retry_after_ms: int = 0
    supported_versions: List[int] = field(default_factory=list)
    connection_id: str = ""

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("code", Kind.STRING),
        2: Field("message", Kind.STRING),
        3: Field("retry_after_ms", Kind.UINT32),
        4: Field("supported_versions", Kind.UINT32S),
        5: Field("connection_id", Kind.STRING),
    }


@dataclass
class GoingAway(Message):
    """The payload of GOING_AWAY."""

    deadline_ms: int = 0
    reason: str = ""

    FIELDS: ClassVar[Mapping[int, Field]] = {
        1: Field("deadline_ms", Kind.UINT32),
        2: Field("reason", Kind.STRING),
    }
