#!/usr/bin/env python3
"""Writes session.pcap, or checks with --check that it is up to date.

The frames come from the generator of the conformance vectors, which shares no code with the crates.
"""

import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parents[1] / "conformance"))

from generator import wire  # noqa: E402
from generator.samples import CONNECTION_ID, COOKIE, EPOCH_MS  # noqa: E402

EDGE_PORT = 8080
FIN, SYN, PUSH, ACK = 0x01, 0x02, 0x08, 0x10
TIMING = {"heartbeat_interval_ms": 15_000, "heartbeat_timeout_ms": 20_000, "protocol_minor": 1}


def checksum(data):
    """Returns the checksum of IP and TCP."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Connection:
    """A TCP connection whose packets are written to a capture."""

    def __init__(self, capture, client_port, edge_port=EDGE_PORT):
        self.capture = capture
        self.ports = {"client": client_port, "edge": edge_port}
        self.next = {"client": 1_000, "edge": 5_000}
        self._segment("client", SYN)
        self._segment("edge", SYN | ACK)
        self._segment("client", ACK)

    def send(self, side, *pieces):
        """Sends each piece in a segment of its own."""
        for piece in pieces:
            self._segment(side, PUSH | ACK, piece)

    def close(self):
        self._segment("edge", FIN | ACK)
        self._segment("client", FIN | ACK)
        self._segment("edge", ACK)

    def _segment(self, side, flags, data=b""):
        other = "edge" if side == "client" else "client"
        acknowledged = self.next[other] if flags & ACK else 0
        head = [self.ports[side], self.ports[other], self.next[side], acknowledged]
        head += [0x50, flags, 65_535, 0, 0]
        addresses = b"\x7f\0\0\1\x7f\0\0\1"
        tcp = struct.pack(">HHIIBBHHH", *head) + data
        pseudo = addresses + struct.pack(">BBH", 0, 6, len(tcp))
        head[7] = checksum(pseudo + tcp)
        tcp = struct.pack(">HHIIBBHHH", *head) + data
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + addresses
        ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
        self.capture.add(ip + tcp)
        self.next[side] += len(data) + (1 if flags & (SYN | FIN) else 0)


class Capture:
    """A pcap file of IP packets, one each millisecond."""

    def __init__(self):
        self.packets = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101)]

    def add(self, packet):
        at_ms = EPOCH_MS + len(self.packets)
        head = (at_ms // 1_000, at_ms % 1_000 * 1_000, len(packet), len(packet))
        self.packets.append(struct.pack("<IIII", *head) + packet)

    def bytes(self):
        return b"".join(self.packets)


def batch(*ticks, **more):
    return wire.message("DATA_BATCH", schema_version=1, ticks=list(ticks), **more)


def second(after_ms, **more):
    return {"epoch_ms": EPOCH_MS + after_ms, **more}


def session(capture):
    """A session from AUTH to GOING_AWAY and SERVER_DRAINING, with frames split and coalesced."""
    link = Connection(capture, 50_001)
    auth = wire.message("AUTH", username="stream_user", password="stream_pass", client_id="till-7")
    subscribe = wire.message("SUBSCRIBE", resume_after_epoch_ms=EPOCH_MS - 2_000)
    heartbeat = wire.message("HEARTBEAT", client_time_us=1_500_000)
    link.send("client", auth + subscribe[:5], subscribe[5:] + heartbeat)
    welcome = {"edge_id": "edge-0", "connection_id": CONNECTION_ID, "frame_rate_limit": 10}
    link.send("edge", wire.message("ACK", acked_type=1, cookie=COOKIE, **welcome, **TIMING))
    accepted = wire.message("ACK", acked_type=2, start_epoch_ms=EPOCH_MS - 2_000,
                            edge_id="edge-0", **TIMING)
    pong = wire.message(
        "PONG",
        client_time_us=1_500_000,
        received_unix_us=EPOCH_MS * 1_000 + 250_000,
        sent_unix_us=EPOCH_MS * 1_000 + 250_017,
        error_bound_us=180,
        clock_error_us=2_500,
    )
    replay = batch(second(-1_000, quality="REPLAY"), second(0, quality="REPLAY"))
    link.send("edge", accepted + pong + replay)
    one = batch(second(1_000), sent_unix_us=(EPOCH_MS + 1_000) * 1_000 + 42)
    link.send("edge", *(one[at:at + 1] for at in range(10)), one[10:])
    minutes = wire.message("SUBSCRIBE", mode="MINUTE", ahead=True)
    link.send("client", wire.frame(0x99, b"later"), minutes)
    minute = {"mode": "MINUTE", "epoch_ms": EPOCH_MS + 60_000, "quality": "HOLDOVER"}
    unknown = wire.encode(wire.TICK, second(2_000)) + wire.tag(9, 0) + wire.varint(300)
    payload = b"\x08\x01" + wire.delimited(2, unknown) + wire.delimited(77, b"later")
    link.send("edge", batch(minute), wire.frame(4, payload))
    link.send("edge", wire.message("GOING_AWAY", deadline_ms=12_000, reason="a restart"))
    link.send("edge", wire.message("ERROR", code="SERVER_DRAINING", message="resume on another",
                                   retry_after_ms=250, connection_id=CONNECTION_ID))
    link.close()


def faults(capture):
    """Frames with faults, on a port that only the magic tells of."""
    link = Connection(capture, 50_002, 9_000)
    link.send("client", wire.message("AUTH", token="s3cret"))
    link.send("edge", wire.message("ACK", acked_type=1, edge_id="edge-1"))
    bad = bytearray(wire.message("HEARTBEAT", client_time_us=7))
    bad[-1] ^= 1
    link.send("client", bytes(bad))
    link.send("edge", wire.message("PONG", client_time_us=7, error_bound_us=2**32 - 1))
    link.send("client", wire.frame(0x44, b"?"), wire.frame(2, b"\x08"))
    link.send("client", b"GET / HTTP/1.1\r\n\r\n")
    link.send("edge", wire.message("ERROR", code="UNSUPPORTED_VERSION", supported_versions=[1]))
    link.close()
    web = Connection(capture, 50_003)
    web.send("client", b"GET / HTTP/1.1\r\nHost: edge-0\r\n\r\n")
    web.close()


def main():
    capture = Capture()
    session(capture)
    faults(capture)
    path = HERE / "session.pcap"
    if sys.argv[1:] == ["--check"]:
        if not path.is_file() or path.read_bytes() != capture.bytes():
            sys.exit("session.pcap is outdated: run contrib/wireshark/make_capture.py")
    else:
        path.write_bytes(capture.bytes())


if __name__ == "__main__":
    main()
