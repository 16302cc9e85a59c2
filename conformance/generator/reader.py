"""A reader of frames, one byte at a time: which check fails first, and at which byte."""

from . import wire


class Reader:
    """Reads a stream as an edge or a client does.

    `when` matters to an edge only: "before_auth" or "after_auth". `max_msg_size` is the largest
    payload of a type from 0x80 that the edge skips after authentication.
    """

    def __init__(self, side, when="after_auth", max_msg_size=wire.PAYLOAD_MAX):
        self.side, self.when, self.max_msg_size = side, when, max_msg_size
        self.frame = bytearray()
        self.position = 0
        self.frames = []
        self.error = None

    def feed(self, data):
        """Reads `data` up to the first error, and returns the reader."""
        for byte in data:
            if self.error:
                break
            self.position += 1
            self.frame.append(byte)
            self.error = self._check()
        return self

    def _check(self):
        """Returns the error that the last byte of the unfinished frame has caused, if any."""
        at = len(self.frame)
        if at <= 2:
            return None if self.frame[at - 1] == wire.MAGIC[at - 1] else "BAD_MAGIC"
        if at == 3:
            return None if self.frame[2] == wire.VERSION else "UNSUPPORTED_VERSION"
        type_byte = self.frame[3]
        if at == 4:
            is_unknown = type_byte < wire.IGNORABLE_FROM and type_byte not in wire.NAMES
            return "UNKNOWN_TYPE" if is_unknown and self.side == "edge" else None
        if at < 8:
            return None
        length = int.from_bytes(self.frame[4:8], "big")
        if at == 8:
            return "MESSAGE_TOO_LARGE" if length > self._limit(type_byte) else None
        if at < 12 + length:
            return None
        body, crc = self.frame[:-4], self.frame[-4:]
        if wire.crc32c(body) != int.from_bytes(crc, "big"):
            return "BAD_CHECKSUM"
        self.frames.append((type_byte, bytes(body[8:])))
        self.frame.clear()
        return None

    def _limit(self, type_byte):
        if self.side == "client":
            return wire.PAYLOAD_MAX
        if type_byte < wire.IGNORABLE_FROM or self.when == "before_auth":
            return wire.CLIENT_PAYLOAD_MAX
        return self.max_msg_size


def decoded(type_byte, payload):
    """Returns what a reader makes of a valid frame, for JSON: its type and its fields, or that it
    is of an unknown type, or that its payload does not decode."""
    name = wire.NAMES.get(type_byte)
    if name is None:
        return {"ok": True, "unknown_type": type_byte}
    try:
        return {"ok": True, "type": name, "payload": wire.decode(wire.FIELDS[name], payload)}
    except wire.Malformed:
        return {"ok": False, "error": "MALFORMED_PAYLOAD"}
