"""Wakes a fleet of devices every five minutes, spread over 20 s.

If all devices acted at the same instant, they would overload what they call. So each has a place of
its own in the window after the tick, which follows from its name: it stays the same over restarts
and on all machines, and the devices are spread evenly. The wait is counted from the time of the
tick, not from its arrival, so a tick that is late wakes no device later than it must.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from typing import Awaitable, Callable, Sequence, Set

import tickstorm

EVERY_MS = 5 * 60_000
WINDOW_SECS = 20.0
Wake = Callable[[str, int], Awaitable[None]]


def offset_secs(device: str, window_secs: float = WINDOW_SECS) -> float:
    """Returns a device's place in the window."""
    digest = hashlib.sha256(device.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * window_secs


async def late_secs(client: tickstorm.Client, tick: tickstorm.Tick) -> float:
    """Returns how long ago the time of a tick was. Ticks that were missed in an outage may arrive
    before authority time is known again, so this waits for it."""
    while (now := client.now()) is None:
        await asyncio.sleep(0.05)
    return max(0, now.unix_us - tick.epoch_ms * 1_000) / 1e6


async def run(
    client: tickstorm.Client, devices: Sequence[str], wake: Wake, window_secs: float = WINDOW_SECS
) -> None:
    """Wakes all devices after each tick that is due for that."""
    under_way: Set["asyncio.Task[None]"] = set()
    last_ms = None

    async def wake_later(device: str, epoch_ms: int, wait_secs: float) -> None:
        await asyncio.sleep(wait_secs)
        await wake(device, epoch_ms)

    async for tick in client:
        # If the time is stepped back a little, the last tick arrives again.
        if tick.epoch_ms % EVERY_MS != 0 or tick.epoch_ms == last_ms:
            continue
        # After an outage, devices are woken once for the latest tick, and not for each one.
        late = await late_secs(client, tick)
        if late * 1_000 >= EVERY_MS:
            continue
        last_ms = tick.epoch_ms
        for device in devices:
            wait_secs = max(0.0, offset_secs(device, window_secs) - late)
            task = asyncio.ensure_future(wake_later(device, tick.epoch_ms, wait_secs))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def show(device: str, epoch_ms: int) -> None:
    print(f"{device} wakes for {epoch_ms}", flush=True)


async def main() -> None:
    devices = sys.argv[1:] or [f"device-{number}" for number in range(100)]
    addr, user = os.getenv("ADDR", "127.0.0.1:8080"), os.getenv("STREAM_USER", "stream_user")
    password = os.getenv("STREAM_PASS", "stream_pass")
    async with tickstorm.Client(addr, user=user, password=password, mode="minute") as client:
        await run(client, devices, show)


if __name__ == "__main__":
    asyncio.run(main())
