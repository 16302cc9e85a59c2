"""Prints each tick as a line of JSON, for end-to-end tests, which send `mode minute` and
`mode second` on standard input. Ends when that ends."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys

import tickstorm


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--addr", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--password-file", required=True)
    parser.add_argument("--ahead", action="store_true")
    return parser.parse_args()


async def obey(client: tickstorm.Client) -> None:
    """Obeys the lines on standard input until it ends."""
    while True:
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        command, _, mode = line.strip().partition(" ")
        if command != "mode":
            raise ValueError(f"unknown command {line!r}")
        client.set_mode(mode)


async def follow(client: tickstorm.Client) -> None:
    """Prints the ticks."""
    async for tick in client:
        print(
            json.dumps({"epoch_ms": tick.epoch_ms, "mode": tick.mode.name.lower()}), flush=True
        )


async def main() -> None:
    given = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    async with tickstorm.Client(
        given.addr, user=given.user, password_file=given.password_file, ahead=given.ahead
    ) as client:
        tasks = [asyncio.ensure_future(follow(client)), asyncio.ensure_future(obey(client))]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await client.close()
        for task in done:
            task.result()


if __name__ == "__main__":
    asyncio.run(main())
