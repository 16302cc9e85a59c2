"""CRC32C (Castagnoli), table-driven. Frames are tens of bytes long, so this is fast enough."""

from __future__ import annotations

from typing import List

_POLYNOMIAL = 0x82F63B78
"""0x1EDC6F41 with its bits reflected."""


def _make_table() -> List[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _make_table()


def crc32c(data: bytes) -> int:
    """Returns the checksum of ``data``."""
    table, value = _TABLE, 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF
