"""Closes candles on the minute from a stream of trades.

A trade belongs to the minute in which it was made, by its own time. A minute is closed when its
tick arrives, and not by this machine's clock, so all machines close it at the same moment. A tick
closes all minutes before it, so none stays open even if ticks were lost in an outage.

Trades are lines such as `1800000012345 101.25 3` (Unix time in milliseconds, price, size):

    tail -f trades.txt | python3 candles.py
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Dict, Iterable, List, Tuple

import tickstorm

MINUTE_MS = 60_000


class Candles:
    """The prices and sizes of the trades of each open minute. A thread may add to them."""

    def __init__(self) -> None:
        self.open: Dict[int, List[Tuple[float, float]]] = {}
        self._closed_ms, self._lock = 0, threading.Lock()

    def add(self, time_ms: int, price: float, size: float) -> bool:
        """Adds a trade, and returns true, unless its minute has been closed."""
        with self._lock:
            if time_ms < self._closed_ms:
                return False
            self.open.setdefault(time_ms // MINUTE_MS * MINUTE_MS, []).append((price, size))
            return True

    def close(self, epoch_ms: int) -> List[Dict[str, float]]:
        """Closes all minutes before a tick. Returns the candles of those with trades."""
        with self._lock:
            # If the time was stepped back, the closed minutes stay closed.
            self._closed_ms = max(self._closed_ms, epoch_ms)
            due = sorted(minute_ms for minute_ms in self.open if minute_ms < epoch_ms)
            return [{"minute_ms": each, **candle(self.open.pop(each))} for each in due]


def candle(trades: List[Tuple[float, float]]) -> Dict[str, float]:
    prices, volume = [price for price, _ in trades], sum(size for _, size in trades)
    high, low = max(prices), min(prices)
    return {"open": prices[0], "high": high, "low": low, "close": prices[-1], "volume": volume}


def read_trades(candles: Candles, lines: Iterable[str]) -> None:
    for line in lines:
        try:
            time_ms, price, size = line.split()
            if not candles.add(int(time_ms), float(price), float(size)):
                print(f"too late: {line.strip()}", file=sys.stderr)
        except ValueError:
            print(f"not a trade: {line.strip()}", file=sys.stderr)


async def main() -> None:
    candles, lines = Candles(), open(0, errors="replace", closefd=False)
    addr, user = os.getenv("ADDR", "127.0.0.1:8080"), os.getenv("STREAM_USER", "stream_user")
    password = os.getenv("STREAM_PASS", "stream_pass")
    async with tickstorm.Client(addr, user=user, password=password, mode="minute") as client:
        # A daemon thread, because a read that blocks must not keep the program from ending.
        threading.Thread(target=read_trades, args=(candles, lines), daemon=True).start()
        async for tick in client:
            for closed in candles.close(tick.epoch_ms):
                print(json.dumps(closed), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
