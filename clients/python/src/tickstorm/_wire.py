"""The encoding of Protobuf 3, as far as TickStorm's messages use it: a :class:`Message` is a
dataclass whose ``FIELDS`` name the number and the kind of each field.

Unknown fields are skipped, and a field that has its default value is not written."""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Iterator, Mapping, NamedTuple, Optional, Tuple, Type, TypeVar

_VARINT_LEN_MAX = 10
_GROUP_DEPTH_MAX = 100
"""The depth to which unknown groups may be nested, as in other implementations."""


class MalformedMessage(ValueError):
    """Bytes that are not an encoded message."""


class Kind(enum.Enum):
    """The type of a field."""

    UINT32 = enum.auto()
    INT64 = enum.auto()
    OPTIONAL_INT64 = enum.auto()
    BOOL = enum.auto()
    ENUM = enum.auto()
    STRING = enum.auto()
    BYTES = enum.auto()
    UINT32S = enum.auto()
    MESSAGES = enum.auto()


class Field(NamedTuple):
    """A field of a message."""

    name: str
    kind: Kind
    message: Optional[Type[Message]] = None
    """The type of the elements of MESSAGES."""


M = TypeVar("M", bound="Message")


class Message:
    """The base class of all messages."""

    FIELDS: ClassVar[Mapping[int, Field]]

    def encode(self) -> bytes:
        """Returns the message as bytes."""
        out = bytearray()
        for number, field in sorted(self.FIELDS.items()):
            _encode_field(out, number, field.kind, getattr(self, field.name))
        return bytes(out)

    @classmethod
    def decode(cls: Type[M], data: bytes) -> M:
        """Decodes a message.

        Raises:
            MalformedMessage: ``data`` is not an encoded message of this type.
        """
        message = cls()
        for number, wire_type, value in _raw_fields(data):
            field = cls.FIELDS.get(number)
            if field is not None:
                _take(message, field, wire_type, value)
        return message


def _take(message: Message, field: Field, wire_type: int, value: Any) -> None:
    kind = field.kind
    if kind is Kind.UINT32S:
        values = getattr(message, field.name)
        if wire_type == 2:
            at = 0
            while at < len(value):
                number, at = _read_varint(value, at)
                values.append(number & 0xFFFFFFFF)
        else:
            _expect(wire_type, 0, field)
            values.append(value & 0xFFFFFFFF)
        return
    if kind in (Kind.STRING, Kind.BYTES, Kind.MESSAGES):
        _expect(wire_type, 2, field)
        if kind is Kind.MESSAGES:
            assert field.message is not None
            getattr(message, field.name).append(field.message.decode(value))
        elif kind is Kind.STRING:
            setattr(message, field.name, _text(value, field))
        else:
            setattr(message, field.name, bytes(value))
        return
    _expect(wire_type, 0, field)
    if kind is Kind.UINT32:
        value &= 0xFFFFFFFF
    elif kind is Kind.BOOL:
        value = value != 0
    elif kind is Kind.ENUM:
        value = _signed(value & 0xFFFFFFFF, 32)
    else:
        value = _signed(value, 64)
    setattr(message, field.name, value)


def _expect(wire_type: int, expected: int, field: Field) -> None:
    if wire_type != expected:
        raise MalformedMessage(f"{field.name} has wire type {wire_type} instead of {expected}")


def _text(value: bytes, field: Field) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedMessage(f"{field.name} is not valid UTF-8") from None


def _encode_field(out: bytearray, number: int, kind: Kind, value: Any) -> None:
    if kind is Kind.MESSAGES:
        for element in value:
            _write_bytes(out, number, element.encode())
    elif kind is Kind.UINT32S:
        if value:
            packed = bytearray()
            for element in value:
                _write_varint(packed, element)
            _write_bytes(out, number, bytes(packed))
    elif kind is Kind.OPTIONAL_INT64:
        if value is not None:
            _write_varint(out, number << 3)
            _write_varint(out, value)
    elif not value:
        return
    elif kind is Kind.STRING:
        _write_bytes(out, number, value.encode("utf-8"))
    elif kind is Kind.BYTES:
        _write_bytes(out, number, value)
    else:
        _write_varint(out, number << 3)
        _write_varint(out, int(value))


def _write_bytes(out: bytearray, number: int, value: bytes) -> None:
    _write_varint(out, number << 3 | 2)
    _write_varint(out, len(value))
    out += value


def _write_varint(out: bytearray, value: int) -> None:
    value &= 0xFFFFFFFFFFFFFFFF
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _raw_fields(data: bytes) -> Iterator[Tuple[int, int, Any]]:
    """Yields the number, the wire type and the value of each field outside groups."""
    at, groups = 0, []
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise MalformedMessage(f"field number {number}")
        value: Any = None
        if wire_type == 0:
            value, at = _read_varint(data, at)
        elif wire_type == 3:
            groups.append(number)
            if len(groups) > _GROUP_DEPTH_MAX:
                raise MalformedMessage("groups are nested too deeply")
            continue
        elif wire_type == 4:
            if not groups or groups.pop() != number:
                raise MalformedMessage("the end of a group that has not begun")
            continue
        else:
            value, at = _read_fixed_or_bytes(data, at, wire_type)
        if not groups:
            yield number, wire_type, value
    if groups:
        raise MalformedMessage("a group does not end")


def _read_fixed_or_bytes(data: bytes, at: int, wire_type: int) -> Tuple[bytes, int]:
    if wire_type == 2:
        length, at = _read_varint(data, at)
    elif wire_type in (1, 5):
        length = 8 if wire_type == 1 else 4
    else:
        raise MalformedMessage(f"wire type {wire_type}")
    if length > len(data) - at:
        raise MalformedMessage("a field is longer than the rest of the message")
    return data[at : at + length], at + length


def _read_varint(data: bytes, at: int) -> Tuple[int, int]:
    value = 0
    for index in range(_VARINT_LEN_MAX):
        if at + index >= len(data):
            raise MalformedMessage("a varint is cut off")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + index + 1
    raise MalformedMessage("a varint has more than 64 bits")
