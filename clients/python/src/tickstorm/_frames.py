"""Frames: an 8-byte header, a payload and its CRC32C. The :class:`Decoder` makes each check as soon
as the byte that decides it has arrived, so that its result does not depend on how the bytes were
divided into reads."""

from __future__ import annotations

import enum
from typing import Dict, NamedTuple, Optional, Type

from ._crc32c import crc32c
from ._messages import (
    Ack,
    Auth,
    DataBatch,
    ErrorMsg,
    GoingAway,
    Heartbeat,
    Pong,
    Subscribe,
)
from ._wire import MalformedMessage, Message
from .errors import ProtocolError

MAGIC = b"\xf5\x7d"
VERSION = 1
PAYLOAD_MAX = 65_536
"""The largest payload, in bytes, that a client accepts."""
CLIENT_PAYLOAD_MAX = 4_096
"""The largest payload, in bytes, that a client may send."""

_HEADER_LEN = 8
_CHECKSUM_LEN = 4


class FrameType(enum.IntEnum):
    """The frame types of version 1."""

    AUTH = 0x01
    SUBSCRIBE = 0x02
    HEARTBEAT = 0x03
    DATA_BATCH = 0x04
    ERROR = 0x05
    ACK = 0x06
    PONG = 0x07
    GOING_AWAY = 0x80


MESSAGE_BY_TYPE: Dict[FrameType, Type[Message]] = {
    FrameType.AUTH: Auth,
    FrameType.SUBSCRIBE: Subscribe,
    FrameType.HEARTBEAT: Heartbeat,
    FrameType.DATA_BATCH: DataBatch,
    FrameType.ERROR: ErrorMsg,
    FrameType.ACK: Ack,
    FrameType.PONG: Pong,
    FrameType.GOING_AWAY: GoingAway,
}


class Frame(NamedTuple):
    """A frame that has passed all checks. Its payload is not decoded."""

    type_byte: int
    payload: bytes

    def decode(self) -> Optional[Message]:
        """Returns the message in the payload, or ``None`` if version 1 does not have the type.

        Raises:
            ProtocolError: the payload does not decode.
        """
        try:
            frame_type = FrameType(self.type_byte)
        except ValueError:
            return None
        try:
            return MESSAGE_BY_TYPE[frame_type].decode(self.payload)
        except MalformedMessage as error:
            raise ProtocolError(
                f"the payload of {frame_type.name} does not decode: {error}", "MALFORMED_PAYLOAD"
            ) from None


def encode_frame(frame_type: FrameType, message: Message) -> bytes:
    """Returns a frame with ``message`` as its payload."""
    payload = message.encode()
    frame = MAGIC + bytes((VERSION, frame_type)) + len(payload).to_bytes(4, "big") + payload
    return frame + crc32c(frame).to_bytes(4, "big")


class Decoder:
    """Decodes what an edge sends, from pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Appends bytes that were read."""
        self._buffer += data

    def poll(self) -> Optional[Frame]:
        """Returns the next complete frame, or ``None`` if more bytes are needed.

        Raises:
            ProtocolError: a check fails. The position in the stream is then lost.
        """
        buffer = self._buffer
        _check_start(buffer)
        if len(buffer) < _HEADER_LEN:
            return None
        length = int.from_bytes(buffer[4:8], "big")
        if length > PAYLOAD_MAX:
            raise ProtocolError(
                f"a frame's header claims a payload of {length} bytes; at most {PAYLOAD_MAX} are "
                "allowed",
                "MESSAGE_TOO_LARGE",
            )
        end = _HEADER_LEN + length
        if len(buffer) < end + _CHECKSUM_LEN:
            return None
        computed = crc32c(bytes(buffer[:end]))
        found = int.from_bytes(buffer[end : end + _CHECKSUM_LEN], "big")
        if computed != found:
            raise ProtocolError(
                f"a frame's checksum is 0x{found:08X}, but the CRC32C of its bytes is "
                f"0x{computed:08X}",
                "BAD_CHECKSUM",
            )
        frame = Frame(buffer[3], bytes(buffer[_HEADER_LEN:end]))
        del buffer[: end + _CHECKSUM_LEN]
        return frame


def _check_start(buffer: bytearray) -> None:
    for position, expected in enumerate(MAGIC):
        if len(buffer) > position and buffer[position] != expected:
            raise ProtocolError(
                f"byte {position} of a frame is 0x{buffer[position]:02X}, but a frame starts with "
                "the bytes 0xF5 0x7D: is the other side using another protocol, or TLS?",
                "BAD_MAGIC",
            )
    if len(buffer) > 2 and buffer[2] != VERSION:
        raise ProtocolError(
            f"frame version {buffer[2]} is not supported; only version {VERSION} is",
            "UNSUPPORTED_VERSION",
        )
