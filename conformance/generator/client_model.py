"""What a client makes of the bytes of one connection, written from docs/protocol.md."""

from . import wire
from .reader import Reader

PERIOD_MS = {"SECOND": 1_000, "MINUTE": 60_000}

# code: how a client comes back, and the interval of retry_after_ms.
CODES = {
    "BAD_MAGIC": ("no", [0, 0]),
    "UNSUPPORTED_VERSION": ("no", [0, 0]),
    "UNKNOWN_TYPE": ("no", [0, 0]),
    "MESSAGE_TOO_LARGE": ("no", [0, 0]),
    "BAD_CHECKSUM": ("at once", [0, 0]),
    "MALFORMED_PAYLOAD": ("no", [0, 0]),
    "AUTH_REQUIRED": ("no", [0, 0]),
    "AUTH_FAILED": ("no", [0, 0]),
    "ALREADY_AUTHENTICATED": ("no", [0, 0]),
    "AUTH_TIMEOUT": ("later", [1_000, 10_000]),
    "AUTH_RATE_LIMITED": ("later", [1_000, 10_000]),
    "INVALID_SUBSCRIPTION": ("no", [0, 0]),
    "UNEXPECTED_MESSAGE": ("no", [0, 0]),
    "RATE_LIMITED": ("later", [1_000, 10_000]),
    "HEARTBEAT_TIMEOUT": ("at once", [1, 5_000]),
    "SLOW_CONSUMER": ("at once", [0, 0]),
    "TIME_STEPPED": ("at once, without the resume point", [1, 5_000]),
    "SERVER_FULL": ("another edge, later", [1_000, 10_000]),
    "SERVER_DRAINING": ("another edge, later", [1, 500]),
    "NO_TIME": ("another edge, later", [1_000, 10_000]),
    "TOO_MANY_CONNECTIONS": ("another edge, later", [1_000, 10_000]),
    "INTERNAL": ("later", [1_000, 10_000]),
}


class _Breach(Exception):
    """The edge broke the protocol."""


class _Ended(Exception):
    """The connection ended, and this is how the client comes back."""


class Client:
    """A client of one connection, on which AUTH and these SUBSCRIBEs have been sent."""

    def __init__(self, subscribes, resume_point=None):
        self.requests = list(subscribes)
        self.had_resume_point = resume_point is not None
        self.point = resume_point
        self.mode = self.last = None
        self.is_authenticated = False
        self.events = []

    def run(self, data, closes):
        """Reads `data` and then what `closes` says; returns how the connection ends, or None."""
        reader = Reader("client")
        try:
            for byte in data:
                before = len(reader.frames)
                reader.feed(bytes([byte]))
                if reader.error:
                    raise _Breach
                if len(reader.frames) > before:
                    self._handle(*reader.frames[-1])
        except _Breach:
            return self._end("at once", broke_the_protocol=True)
        except _Ended as ended:
            return self._end(ended.args[0])
        return self._end("at once") if closes else None

    def _end(self, come_back, **more):
        if come_back == "at once, without the resume point":
            self.point = None
        point = None if self.point is None else str(self.point)
        return {"come_back": come_back, **more, "resume_after_epoch_ms": point}

    def _handle(self, type_byte, payload):
        name = wire.NAMES.get(type_byte)
        if name in ("AUTH", "SUBSCRIBE", "HEARTBEAT"):
            raise _Breach
        if name is None:
            return
        try:
            values = wire.decode(wire.FIELDS[name], payload)
        except wire.Malformed:
            raise _Breach from None
        getattr(self, f"_handle_{name.lower()}")(values)

    def _handle_ack(self, ack):
        kind = ack.get("acked_type", 0)
        if kind == 1:
            if self.is_authenticated:
                raise _Breach
            self.is_authenticated = True
            self.events.append({"authenticated": _welcome(ack)})
        elif kind == 2:
            if not self.is_authenticated or not self.requests:
                raise _Breach
            replaces = self.mode is not None
            self.mode = self.requests.pop(0)
            self.last = int(ack.get("start_epoch_ms", 0))
            self.events.append({"subscribed": {"start_epoch_ms": str(self.last)}})
            if self.point is None or replaces:
                self.point = self.last

    def _handle_data_batch(self, batch):
        if self.mode is None:
            raise _Breach
        if batch.get("schema_version", 0) != 1:
            raise _Ended("no")
        if not batch.get("ticks"):
            raise _Breach
        # A batch with a fault is refused as a whole.
        last = self.last
        for tick in batch["ticks"]:
            epoch_ms = int(tick.get("epoch_ms", 0))
            if tick.get("mode", "SECOND") != self.mode or epoch_ms <= last:
                raise _Breach
            last = epoch_ms
        for tick in batch["ticks"]:
            self._handle_tick(int(tick.get("epoch_ms", 0)), tick.get("quality", "NORMAL"))
        self.last = last

    def _handle_tick(self, epoch_ms, quality):
        if epoch_ms <= self.point:
            return
        due = self.point // PERIOD_MS[self.mode] * PERIOD_MS[self.mode] + PERIOD_MS[self.mode]
        if epoch_ms > due:
            gap = {"after_epoch_ms": str(self.point), "before_epoch_ms": str(epoch_ms)}
            self.events.append({"gap": gap})
        quality = quality if isinstance(quality, str) else "NORMAL"
        tick = {"mode": self.mode, "epoch_ms": str(epoch_ms), "quality": quality}
        self.events.append({"tick": tick})
        self.point = epoch_ms

    def _handle_pong(self, pong):
        self.events.append({"pong": {"client_time_us": pong.get("client_time_us", "0")}})

    def _handle_going_away(self, away):
        self.events.append({"going_away": {"deadline_ms": away.get("deadline_ms", 0)}})

    def _handle_error(self, error):
        code = error.get("code", "")
        shown = {"code": code, "retry_after_ms": error.get("retry_after_ms", 0)}
        shown["connection_id"] = _connection_id(error)
        self.events.append({"error": shown})
        come_back = CODES.get(code, ("later",))[0]
        if code == "INVALID_SUBSCRIPTION" and self.had_resume_point:
            come_back = "once more with it, then without"
        raise _Ended(come_back)


def _welcome(ack):
    cookie = ack.get("cookie", "")
    return {
        "edge_id": ack.get("edge_id", ""),
        "heartbeat_interval_ms": ack.get("heartbeat_interval_ms", 0),
        "heartbeat_timeout_ms": ack.get("heartbeat_timeout_ms", 0),
        "protocol_minor": ack.get("protocol_minor", 0),
        "connection_id": _connection_id(ack),
        "frame_rate_limit": ack.get("frame_rate_limit"),
        "cookie": cookie if 1 <= len(cookie) // 2 <= 64 else None,
    }


def _connection_id(message):
    text = message.get("connection_id", "")
    is_valid = 1 <= len(text) <= 40 and all("!" <= each <= "~" for each in text)
    return text if is_valid else None


def point_in(mode, last_ms, present, before_ms):
    """Returns the resume point for a change to `mode`, or None. `last_ms` is the last tick of the
    old mode, or the start of its subscription; `present` is authority time and its error bound in
    µs, or None; `before_ms` is the last tick of the new mode from an earlier use of it, or None."""
    point = last_ms
    if mode == "SECOND":
        if present is None:
            return None
        authority_us, error_us = present
        point = (authority_us - error_us) // 1_000 - 1
        minute = point - point % PERIOD_MS["MINUTE"]
        if minute > last_ms:
            point = minute - 1
    return point if before_ms is None else max(point, before_ms)
