"""The examples of this repository, each against an edge on loopback."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Dict, List, Tuple

import tickstorm

from .fake_edge import EdgeThread, FakeEdge

DIRECTORY = Path(__file__).parents[3] / "examples" / "python"
sys.path.insert(0, str(DIRECTORY))

import candles  # noqa: E402
import fleet  # noqa: E402
import rounds  # noqa: E402
import scheduler  # noqa: E402

START_MS = 1_800_000_000_000
MINUTE_MS = 60_000
TIME_MAX_SECS = 60.0


def client_of(edge: FakeEdge, **options: str) -> tickstorm.Client:
    return tickstorm.Client(edge.address, user="ada", password="sesame", **options)  # type: ignore


class Candles(unittest.IsolatedAsyncioTestCase):
    async def test_each_minute_closes_with_its_own_trades(self) -> None:
        made = candles.Candles()
        for after_ms, price, size in (
            (1_000, 10.0, 1.0),
            (30_000, 12.0, 2.0),
            (59_999, 9.0, 3.0),
            (60_000, 20.0, 1.0),
            (185_000, 30.0, 1.0),
        ):
            made.add(candles.Trade(START_MS + after_ms, price, size))
        found: List[Dict[str, float]] = []

        async def close() -> None:
            async with FakeEdge() as edge, client_of(edge, mode="minute") as client:
                async for candle in candles.run(client, made):
                    found.append(candle)
                    if len(found) == 3:
                        return

        await asyncio.wait_for(close(), TIME_MAX_SECS)
        self.assertEqual(
            found[0],
            {
                "minute_ms": START_MS,
                "open": 10.0,
                "high": 12.0,
                "low": 9.0,
                "close": 9.0,
                "volume": 6.0,
            },
        )
        self.assertEqual([each["open"] for each in found], [10.0, 20.0, 30.0])
        self.assertEqual(made.open, {})


class Rounds(unittest.IsolatedAsyncioTestCase):
    def test_servers_agree_on_the_round_and_its_deck(self) -> None:
        read = tickstorm.Estimate(START_MS * 1_000 + 40, 300)
        tick = tickstorm.Tick(tickstorm.Mode.SECOND, START_MS, tickstorm.Quality.NORMAL, read)
        one, other = rounds.round_of(tick), rounds.round_of(tick)
        assert one is not None and other is not None
        self.assertEqual((one.number, one.late_us, one.error_us), (START_MS // 10_000, 40, 300))
        self.assertEqual(one.deck(), other.deck())
        self.assertNotEqual(one.deck(), one._replace(number=one.number + 1).deck())
        late = tickstorm.Estimate(START_MS * 1_000 + 200_000, 300)
        mode, quality = tickstorm.Mode.SECOND, tickstorm.Quality
        for other_tick in (
            tickstorm.Tick(mode, START_MS + 1_000, quality.NORMAL, read),
            tickstorm.Tick(mode, START_MS, quality.REPLAY, read),
            tickstorm.Tick(mode, START_MS, quality.NORMAL, late),
            tickstorm.Tick(mode, START_MS, quality.NORMAL, None),
        ):
            self.assertIsNone(rounds.round_of(other_tick))

    async def test_rounds_begin_with_their_ticks(self) -> None:
        # The edge's time stops at the first tick, so no tick is late.
        async def play() -> int:
            async with FakeEdge() as edge, client_of(edge) as client:
                while client.now() is None:
                    await asyncio.sleep(0.01)
                async for started in rounds.rounds(client):
                    return started.number
            raise AssertionError("no round has begun")

        number = await asyncio.wait_for(play(), TIME_MAX_SECS)
        self.assertGreater(number, START_MS // 10_000)


class Scheduler(unittest.TestCase):
    def test_no_minute_is_missed_or_doubled_across_restarts_and_crashes(self) -> None:
        ran: List[int] = []

        def crash_at_times(minute: int) -> str:
            ran.append(minute)
            if len(ran) % 4 == 0:
                raise RuntimeError("a crash in the middle of a minute")
            return "done"

        jobs = (scheduler.Job("job", 1, crash_at_times), scheduler.Job("rare", 3, str))
        with tempfile.TemporaryDirectory() as directory, EdgeThread() as edge:
            path = f"{directory}/state.sqlite"
            for _ in range(5):
                self.run_once(path, edge, jobs)
            database = scheduler.open_database(path)
            rows = database.execute("select minute_ms from results where job = 'job'").fetchall()
            rare = database.execute("select minute_ms from results where job = 'rare'").fetchall()
            until_ms = scheduler.done_until(database)
            database.close()
        done = [minute_ms for (minute_ms,) in rows]
        self.assertEqual(len(done), 15)
        self.assertEqual(done, list(range(START_MS + MINUTE_MS, done[-1] + 1, MINUTE_MS)))
        self.assertEqual(until_ms, done[-1])
        self.assertEqual([ms for (ms,) in rare], [ms for ms in done if ms // MINUTE_MS % 3 == 0])

    def run_once(self, path: str, edge: EdgeThread, jobs: Tuple[scheduler.Job, ...]) -> None:
        """Runs the scheduler until it crashes."""
        database = scheduler.open_database(path)
        with tickstorm.BlockingClient(
            edge.address,
            user="ada",
            password="sesame",
            mode="minute",
            resume_after_ms=scheduler.done_until(database),
        ) as client, self.assertRaises(RuntimeError):
            scheduler.run(database, jobs, client)
        database.close()

    def test_minutes_that_no_edge_sends_any_more_are_run_all_the_same(self) -> None:
        class Told:
            start_ms = START_MS

            def events(self) -> List[object]:
                tick = tickstorm.Tick(tickstorm.Mode.MINUTE, START_MS + 4 * MINUTE_MS)
                return [tickstorm.Gap(START_MS, START_MS + 4 * MINUTE_MS), tick]

        ran: List[int] = []
        job = scheduler.Job("job", 1, lambda minute: str(ran.append(minute)))  # type: ignore
        database = scheduler.open_database(":memory:")
        scheduler.run(database, (job,), Told())  # type: ignore[arg-type]
        database.close()
        self.assertEqual(ran, [START_MS // MINUTE_MS + number for number in range(1, 5)])


class Fleet(unittest.IsolatedAsyncioTestCase):
    def test_devices_are_spread_evenly_and_keep_their_places(self) -> None:
        offsets = [fleet.offset_secs(f"device-{number}", 20.0) for number in range(10_000)]
        self.assertEqual(offsets[7], fleet.offset_secs("device-7", 20.0))
        counts = [sum(second <= each < second + 1 for each in offsets) for second in range(20)]
        self.assertTrue(400 < min(counts) and max(counts) < 600, counts)

    async def test_every_device_is_woken_once_for_each_tick_that_is_due(self) -> None:
        woken: List[Tuple[str, int]] = []
        enough = asyncio.Event()
        devices = [f"device-{number}" for number in range(50)]

        async def wake(device: str, epoch_ms: int) -> None:
            woken.append((device, epoch_ms))
            if len(woken) >= 100:
                enough.set()

        async with FakeEdge() as edge, client_of(edge, mode="minute") as client:
            running = asyncio.ensure_future(fleet.run(client, devices, wake, 0.2))
            await asyncio.wait_for(enough.wait(), TIME_MAX_SECS)
            await client.close()
            await running
        self.assertEqual(len(woken), len(set(woken)))
        first_ms = min(epoch_ms for _, epoch_ms in woken)
        self.assertEqual(first_ms % fleet.EVERY_MS, 0)
        self.assertEqual({device for device, at in woken if at == first_ms}, set(devices))


class Sizes(unittest.TestCase):
    def test_examples_are_shorter_than_80_lines(self) -> None:
        files = sorted(DIRECTORY.glob("*.py"))
        self.assertEqual(len(files), 4)
        for file in files:
            self.assertLess(len(file.read_text(encoding="utf-8").splitlines()), 80, file.name)


if __name__ == "__main__":
    unittest.main()
