"""Starts the rounds of a game at the same instant on many servers.

Each server runs this program. It receives ticks ahead of their time, and the client releases them
by its own estimate of the cluster's time, so that the servers agree to well below a millisecond,
however their clocks are set. The number of a round follows from the time of its tick. So all
servers, also one that has just started, play the same round without talking to each other.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import AsyncIterator, List, NamedTuple

import tickstorm

ROUND_MS = 10_000
LATE_MAX_US = 100_000
"""A server that is later than this, for instance because it was suspended, waits for the next
round."""


class Round(NamedTuple):
    number: int
    late_us: int
    """How long after the instant this server began, as far as it can tell."""
    error_us: int

    def deck(self) -> List[int]:
        """Returns the same shuffled deck on every server."""
        deck = list(range(52))
        random.Random(self.number).shuffle(deck)
        return deck


def round_of(tick: tickstorm.Tick) -> "Round | None":
    """Returns the round that begins with a tick, if one does and there is time to play it."""
    if tick.epoch_ms % ROUND_MS != 0 or tick.quality is tickstorm.Quality.REPLAY:
        return None
    if tick.read is None or tick.late_us is None or tick.late_us > LATE_MAX_US:
        return None
    return Round(tick.epoch_ms // ROUND_MS, tick.late_us, tick.read.error_us)


async def rounds(client: tickstorm.Client) -> AsyncIterator[Round]:
    """Yields each round at the instant when it begins."""
    async for tick in client:
        started = round_of(tick)
        if started is not None:
            yield started


async def main() -> None:
    addr, user = os.getenv("ADDR", "127.0.0.1:8080"), os.getenv("STREAM_USER", "stream_user")
    password = os.getenv("STREAM_PASS", "stream_pass")
    async with tickstorm.Client(addr, user=user, password=password, ahead=True) as client:
        async for started in rounds(client):
            print(
                f"round {started.number}: first card {started.deck()[0]}, "
                f"begun {started.late_us} ± {started.error_us} µs after the instant",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
