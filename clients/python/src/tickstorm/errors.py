"""The errors of this package. All of them are :class:`TickstormError`."""

from __future__ import annotations

import enum
from typing import Dict, Optional, Tuple


class ComeBack(enum.Enum):
    """How a client comes back after an error, in the terms of docs/protocol.md."""

    NO = "no"
    AT_ONCE = "at once"
    AT_ONCE_WITHOUT_RESUME = "at once, without the resume point"
    RETRY_RESUME_ONCE = "once more with the resume point, then without"
    LATER = "later"
    ELSEWHERE = "another edge, later"


COME_BACK_BY_CODE: Dict[str, ComeBack] = {
    "BAD_MAGIC": ComeBack.NO,
    "UNSUPPORTED_VERSION": ComeBack.NO,
    "UNKNOWN_TYPE": ComeBack.NO,
    "MESSAGE_TOO_LARGE": ComeBack.NO,
    "BAD_CHECKSUM": ComeBack.AT_ONCE,
    "MALFORMED_PAYLOAD": ComeBack.NO,
    "AUTH_REQUIRED": ComeBack.NO,
    "AUTH_FAILED": ComeBack.NO,
    "ALREADY_AUTHENTICATED": ComeBack.NO,
    "AUTH_TIMEOUT": ComeBack.LATER,
    "AUTH_RATE_LIMITED": ComeBack.LATER,
    "INVALID_SUBSCRIPTION": ComeBack.RETRY_RESUME_ONCE,
    "UNEXPECTED_MESSAGE": ComeBack.NO,
    "RATE_LIMITED": ComeBack.LATER,
    "HEARTBEAT_TIMEOUT": ComeBack.AT_ONCE,
    "SLOW_CONSUMER": ComeBack.AT_ONCE,
    "TIME_STEPPED": ComeBack.AT_ONCE_WITHOUT_RESUME,
    "SERVER_FULL": ComeBack.ELSEWHERE,
    "SERVER_DRAINING": ComeBack.ELSEWHERE,
    "NO_TIME": ComeBack.ELSEWHERE,
    "TOO_MANY_CONNECTIONS": ComeBack.ELSEWHERE,
    "INTERNAL": ComeBack.LATER,
}
"""How to come back after an ERROR, by its code. Any other code means :attr:`ComeBack.LATER`."""


class TickstormError(Exception):
    """The base class of all errors of this package, except for options that make no sense, which
    are :class:`ValueError`."""

    come_back: ComeBack = ComeBack.AT_ONCE
    """How the client comes back after this error."""
    connection_id: Optional[str] = None
    """The name of the connection in the edge's log, if the edge said so in an ERROR."""


class ConnectError(TickstormError):
    """No connection could be made to an address. ``__cause__`` is the error of the system."""

    come_back = ComeBack.ELSEWHERE

    def __init__(self, address: str, reason: object, was_cut_off: bool = False) -> None:
        super().__init__(f"cannot connect to {_shown(address)}: {_shown(str(reason))}")
        self.address = address
        self.was_cut_off = was_cut_off
        """Whether the attempt was cut off after a second, since another address was left to try."""


class CredentialsError(TickstormError):
    """The file with the password or the token can't be read."""

    come_back = ComeBack.LATER


class Refused(TickstormError):
    """The edge ended the connection with an ERROR."""

    def __init__(
        self,
        code: str,
        message: str = "",
        retry_after_ms: int = 0,
        supported_versions: Tuple[int, ...] = (),
        connection_id: Optional[str] = None,
    ) -> None:
        named = f" (connection {connection_id})" if connection_id else ""
        super().__init__(
            f"the edge ended the connection: {_shown(code)}: {_shown(message)}{named}"
        )
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.supported_versions = supported_versions
        self.connection_id = connection_id
        self.come_back = COME_BACK_BY_CODE.get(code, ComeBack.LATER)


class AuthenticationError(Refused):
    """The edge answered AUTH_FAILED: the credentials are wrong, or the edge does not know them."""


class ProtocolError(TickstormError):
    """The edge broke the protocol. ``kind`` names the rule, mostly as the code with which an edge
    would report the same breach."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(f"the edge broke the protocol: {message}")
        self.kind = kind


class UnknownSchemaError(TickstormError):
    """The edge sends ticks of a schema version that this client would misread."""

    come_back = ComeBack.NO

    def __init__(self, found: int) -> None:
        super().__init__(f"a DATA_BATCH has schema version {found}; this client only knows 1")
        self.found = found


class ConnectionClosed(TickstormError):
    """The connection ended without an ERROR."""

    def __init__(self, reason: Optional[BaseException] = None) -> None:
        cause = f": {_shown(str(reason))}" if reason is not None else ""
        super().__init__(f"the edge closed the connection{cause}")


class TimeUnknown(TickstormError):
    """The edge did not know the time for too long."""

    come_back = ComeBack.ELSEWHERE

    def __init__(self, waited: float) -> None:
        super().__init__(f"the edge did not know the time for {waited:.1f} s")


class Awaited(enum.Enum):
    """What an edge failed to send."""

    AUTHENTICATION = "no answer to AUTH"
    ANYTHING = "nothing"
    TICK = "no tick"


class EdgeTimeout(TickstormError):
    """The edge was silent for too long."""

    def __init__(self, awaited: Awaited, waited: float) -> None:
        super().__init__(f"the edge sent {awaited.value} for {waited:.1f} s")
        self.awaited = awaited


class ClientClosed(TickstormError):
    """The client was closed while, or before, an event was awaited."""

    come_back = ComeBack.NO

    def __init__(self) -> None:
        super().__init__("the client is closed")


def _shown(text: str) -> str:
    """Returns text from outside without characters that could control a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
