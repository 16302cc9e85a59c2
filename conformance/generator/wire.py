"""Frames and payloads, written from docs/protocol.md alone: CRC32C, protobuf and the messages."""

import struct

MAGIC = b"\xf5\x7d"
VERSION = 1
IGNORABLE_FROM = 0x80
PAYLOAD_MAX = 65_536
CLIENT_PAYLOAD_MAX = 4_096

TYPES = {
    "AUTH": 0x01,
    "SUBSCRIBE": 0x02,
    "HEARTBEAT": 0x03,
    "DATA_BATCH": 0x04,
    "ERROR": 0x05,
    "ACK": 0x06,
    "PONG": 0x07,
    "GOING_AWAY": 0x80,
}
NAMES = {number: name for name, number in TYPES.items()}

MODE = {0: "SECOND", 1: "MINUTE"}
QUALITY = {0: "NORMAL", 1: "HOLDOVER", 2: "REPLAY"}
TICK = {1: ("mode", MODE), 2: ("epoch_ms", "int64"), 3: ("quality", QUALITY)}

# For each type, the fields of its message: number, name, and kind. A kind is a protobuf type, a
# dictionary for an enum, ["kind"] for a repeated field, or a dictionary of fields in a tuple for a
# message.
FIELDS = {
    "AUTH": {
        1: ("username", "string"),
        2: ("password", "string"),
        3: ("client_id", "string"),
        4: ("client_version", "string"),
        5: ("token", "string"),
        6: ("cookie", "bytes"),
    },
    "SUBSCRIBE": {
        1: ("mode", MODE),
        5: ("resume_after_epoch_ms", "optional int64"),
        6: ("ahead", "bool"),
    },
    "HEARTBEAT": {1: ("client_time_us", "int64")},
    "PONG": {
        1: ("client_time_us", "int64"),
        2: ("received_unix_us", "int64"),
        3: ("sent_unix_us", "int64"),
        4: ("error_bound_us", "uint32"),
        5: ("clock_error_us", "uint32"),
    },
    "DATA_BATCH": {
        1: ("schema_version", "uint32"),
        2: ("ticks", [(TICK,)]),
        3: ("sent_unix_us", "int64"),
    },
    "ACK": {
        1: ("acked_type", "uint32"),
        2: ("heartbeat_interval_ms", "uint32"),
        3: ("heartbeat_timeout_ms", "uint32"),
        4: ("edge_id", "string"),
        5: ("start_epoch_ms", "int64"),
        6: ("protocol_minor", "uint32"),
        7: ("connection_id", "string"),
        8: ("frame_rate_limit", "uint32"),
        9: ("cookie", "bytes"),
    },
    "ERROR": {
        1: ("code", "string"),
        2: ("message", "string"),
        3: ("retry_after_ms", "uint32"),
        4: ("supported_versions", ["uint32"]),
        5: ("connection_id", "string"),
    },
    "GOING_AWAY": {1: ("deadline_ms", "uint32"), 2: ("reason", "string")},
}


def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data):
    """Returns the CRC32C of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def frame(type_byte, payload=b"", version=VERSION):
    """Returns a frame."""
    head = MAGIC + struct.pack(">BBI", version, type_byte, len(payload)) + payload
    return head + struct.pack(">I", crc32c(head))


def message(name, **fields):
    """Returns the frame of a message whose fields are in the order of their numbers."""
    return frame(TYPES[name], encode(FIELDS[name], fields))


def varint(number):
    """Returns `number` as a varint; a negative one has ten bytes."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number, wire_type):
    return varint(number << 3 | wire_type)


def delimited(number, data):
    return tag(number, 2) + varint(len(data)) + data


def encode(fields, values):
    """Returns `values`, a dictionary by name, as a message with these fields."""
    out = b""
    unused = dict(values)
    for number, (name, kind) in sorted(fields.items()):
        if name in unused:
            out += _encode_field(number, kind, unused.pop(name))
    assert not unused, f"unknown fields {unused}"
    return out


def _encode_field(number, kind, value):
    if isinstance(kind, list):
        if isinstance(kind[0], tuple):
            return b"".join(delimited(number, encode(kind[0][0], each)) for each in value)
        return delimited(number, b"".join(map(varint, value))) if value else b""
    if isinstance(kind, dict):
        value = {name: key for key, name in kind.items()}.get(value, value)
    if kind == "string":
        value = value.encode()
    if kind in ("string", "bytes"):
        return delimited(number, value) if value else b""
    is_absent = value == 0 and kind != "optional int64"
    return b"" if is_absent else tag(number, 0) + varint(int(value))


class Malformed(Exception):
    """A payload that does not decode as its message."""


def decode(fields, data):
    """Returns the message as a dictionary for JSON: int64 as text, bytes as hex, known enum values
    by their name. Fields with their default value are left out."""
    values = {}
    for number, wire_type, value in _raw_fields(data):
        if number not in fields:
            continue
        name, kind = fields[number]
        if isinstance(kind, list) and isinstance(kind[0], tuple):
            values.setdefault(name, []).append(decode(kind[0][0], value))
        elif isinstance(kind, list):
            more = [value] if wire_type == 0 else _unpack(value)
            values.setdefault(name, []).extend(each & 2**32 - 1 for each in more)
        else:
            values[name] = _value(kind, value)
            if values[name] in (0, "", False, "0", "SECOND", "NORMAL") and "opt" not in kind:
                del values[name]
    return values


def _value(kind, value):
    if isinstance(kind, dict):
        number = _signed(value & 2**32 - 1, 32)
        return kind.get(number, number)
    if kind == "bytes":
        return value.hex()
    if kind == "string":
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Malformed from error
    if kind == "bool":
        return value != 0
    if kind == "uint32":
        return value & 2**32 - 1
    return str(_signed(value, 64))


def _signed(value, bits):
    return value - 2**bits if value >> bits - 1 else value


def _unpack(data):
    values, at = [], 0
    while at < len(data):
        value, at = _read_varint(data, at)
        values.append(value)
    return values


def _raw_fields(data):
    """Yields the number, the wire type and the value of each field."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if number == 0 or key >= 2**32:
            raise Malformed
        if wire_type == 0:
            value, at = _read_varint(data, at)
        else:
            if wire_type == 2:
                length, at = _read_varint(data, at)
            elif wire_type in (1, 5):
                length = 8 if wire_type == 1 else 4
            else:
                raise Malformed  # groups are not generated, and an end without a start is invalid
            if at + length > len(data):
                raise Malformed
            value, at = data[at:at + length], at + length
        yield number, wire_type, value


def _read_varint(data, at):
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise Malformed
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= 2**64:
                raise Malformed
            return value, at + index + 1
    raise Malformed
