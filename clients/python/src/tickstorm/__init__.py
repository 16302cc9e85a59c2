"""A client of TickStorm, which sends a tick at every second or minute, from one authority.

:class:`Client` is for asyncio, and :class:`BlockingClient` for programs without it."""

from ._version import VERSION as __version__
from .blocking import BlockingClient
from .client import Client
from .errors import (
    AuthenticationError,
    Awaited,
    ClientClosed,
    ComeBack,
    ConnectError,
    ConnectionClosed,
    CredentialsError,
    EdgeTimeout,
    ProtocolError,
    Refused,
    TickstormError,
    TimeUnknown,
    UnknownSchemaError,
)
from .events import (
    Estimate,
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
from .options import TLS

__all__ = [
    "TLS",
    "AuthenticationError",
    "Awaited",
    "BlockingClient",
    "Client",
    "ClientClosed",
    "ComeBack",
    "ConnectError",
    "ConnectionClosed",
    "CredentialsError",
    "EdgeTimeout",
    "Estimate",
    "Event",
    "Gap",
    "Mode",
    "ModeChanged",
    "Moved",
    "ProtocolError",
    "Quality",
    "Reconnected",
    "Reconnecting",
    "Refused",
    "Tick",
    "TickstormError",
    "TimeUnknown",
    "UnknownSchemaError",
    "__version__",
]
