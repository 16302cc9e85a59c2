"""Closes candles on the minute from a stream of trades.

A trade belongs to the minute in which it was made, by its own time. A minute is closed when its
tick arrives, and not by this machine's clock, so all machines close it at the same moment. If the
connection is lost, the client receives the ticks that it missed, and no minute is left open.

Trades are lines such as `1800000012345 101.25 3` (Unix time in milliseconds, price, size):

    tail -f trades.txt | python3 candles.py
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import AsyncIterator, Dict, List, NamedTuple, Optional

import tickstorm

MINUTE_MS = 60_000


class Trade(NamedTuple):
    time_ms: int
    price: float
    size: float


class Candles:
    """The trades of the minutes that are not closed yet, by the beginning of each."""

    def __init__(self) -> None:
        self.open: Dict[int, List[Trade]] = {}

    def add(self, trade: Trade) -> None:
        self.open.setdefault(trade.time_ms // MINUTE_MS * MINUTE_MS, []).append(trade)

    def close(self, epoch_ms: int) -> Optional[Dict[str, float]]:
        """Closes the minute before a tick. Returns its candle if there were trades."""
        trades = self.open.pop(epoch_ms - MINUTE_MS, [])
        if not trades:
            return None
        prices = [trade.price for trade in trades]
        candle = {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1]}
        volume = sum(trade.size for trade in trades)
        return {"minute_ms": epoch_ms - MINUTE_MS, **candle, "volume": volume}


async def run(client: tickstorm.Client, candles: Candles) -> AsyncIterator[Dict[str, float]]:
    """Yields a candle for each minute with trades."""
    async for tick in client:
        candle = candles.close(tick.epoch_ms)
        if candle is not None:
            yield candle


async def read_trades(candles: Candles) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        time_ms, price, size = line.split()
        candles.add(Trade(int(time_ms), float(price), float(size)))


async def main() -> None:
    candles = Candles()
    addr, user = os.getenv("ADDR", "127.0.0.1:8080"), os.getenv("STREAM_USER", "stream_user")
    password = os.getenv("STREAM_PASS", "stream_pass")
    async with tickstorm.Client(addr, user=user, password=password, mode="minute") as client:
        reading = asyncio.ensure_future(read_trades(candles))
        async for candle in run(client, candles):
            print(json.dumps(candle), flush=True)
        reading.cancel()


if __name__ == "__main__":
    asyncio.run(main())
