"""The clients against `tickstorm dev --scenario`, an edge that misbehaves on purpose and says what
the client does wrong. The environment variable TICKSTORM names the program; by default it is the
one in target/debug."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
import unittest
from pathlib import Path
from typing import List, Optional, Tuple

import tickstorm

PROGRAM = Path(os.environ.get("TICKSTORM", Path(__file__).parents[3] / "target/debug/tickstorm"))
SCENARIO_MAX_SECS = 300.0
"""A scenario takes up to 70 s, and many run side by side."""


def scenario_names() -> List[str]:
    """Asks the program for its scenarios, so that none is forgotten."""
    text = subprocess.run([PROGRAM, "dev", "--help"], check=True, capture_output=True, text=True)
    listed = re.search(r"--scenario <NAME>(.*?)\n      --", text.stdout, re.DOTALL)
    assert listed is not None, f"{PROGRAM} has no scenarios"
    names = [name for name in re.findall(r"^ +- ([a-z-]+):", listed[1], re.M) if name != "all"]
    assert len(names) >= 12, names
    return names


class Record:
    """What a client has received."""

    def __init__(self) -> None:
        self.ticks = 0
        self.last_ms: Optional[int] = None
        self.faults: List[str] = []

    def add(self, event: tickstorm.Event) -> None:
        if isinstance(event, tickstorm.Tick):
            expected = None if self.last_ms is None else self.last_ms + 1_000
            if expected not in (None, event.epoch_ms):
                self.faults.append(f"{event.epoch_ms} follows {self.last_ms}")
            self.last_ms = event.epoch_ms
            self.ticks += 1
        elif isinstance(event, tickstorm.Gap):
            self.faults.append(str(event))
        elif isinstance(event, tickstorm.Reconnecting) and not event.resumes:
            self.last_ms = None


class Scenarios(unittest.IsolatedAsyncioTestCase):
    @unittest.skipUnless(
        PROGRAM.exists() or "TICKSTORM" in os.environ or "CI" in os.environ,
        f"{PROGRAM} is not built",
    )
    async def test_the_clients_make_no_mistake_in_any_scenario(self) -> None:
        names = scenario_names()
        played = [self.play(name, is_blocking) for name in names for is_blocking in (False, True)]
        for label, faults in await asyncio.gather(*played):
            with self.subTest(label):
                self.assertEqual(faults, [])

    async def play(self, name: str, is_blocking: bool) -> Tuple[str, List[str]]:
        """Plays a scenario with an asyncio client that subscribes ahead, or with a blocking one.
        Returns what went wrong."""
        environment = {
            **os.environ,
            "LISTEN_ADDR": "127.0.0.1:0",
            "STREAM_USER": "stream_user",
            "STREAM_PASS": "stream_pass",
        }
        server = await asyncio.create_subprocess_exec(
            *(str(PROGRAM), "dev", "--scenario", name, "--json"),
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        record = Record()
        try:
            address: str = json.loads(await server.stdout.readline())["addr"]
            client = (Blocking if is_blocking else Asynchronous)(address, record)
            try:
                rest = await asyncio.wait_for(server.stdout.read(), SCENARIO_MAX_SECS)
            finally:
                await client.end()
            status = await server.wait()
        finally:
            if server.returncode is None:
                server.kill()
                await server.wait()
        faults = record.faults
        faults += [line.decode() for line in rest.splitlines() if b'"fault"' in line]
        if status != 0 or record.ticks == 0:
            faults.append(f"status {status} after {record.ticks} ticks")
        return f"{name}, {'blocking' if is_blocking else 'asyncio, ahead'}", faults


class Asynchronous:
    """An asyncio client, which a task reads."""

    def __init__(self, address: str, record: Record) -> None:
        self._client = tickstorm.Client(
            address, user="stream_user", password="stream_pass", ahead=True
        )
        self._record = record
        self._task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        try:
            async for event in self._client.events():
                self._record.add(event)
        except tickstorm.TickstormError as error:
            self._record.faults.append(repr(error))

    async def end(self) -> None:
        """Closes the client."""
        await self._client.close()
        await self._task


class Blocking:
    """A blocking client, which a thread reads."""

    def __init__(self, address: str, record: Record) -> None:
        self._client = tickstorm.BlockingClient(
            address, user="stream_user", password="stream_pass"
        )
        self._record = record
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            self._client.connect()
            for event in self._client.events():
                self._record.add(event)
        except tickstorm.TickstormError as error:
            self._record.faults.append(repr(error))

    async def end(self) -> None:
        """Closes the client."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._client.close)
        await loop.run_in_executor(None, self._thread.join)


if __name__ == "__main__":
    unittest.main()
