"""The examples of this repository, each against an edge on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import AsyncIterator, Iterator, List, Optional, Tuple

import tickstorm

from .fake_edge import EdgeThread, FakeEdge
from .quick_start import dev
from .test_scenarios import PROGRAM

DIRECTORY = Path(__file__).parents[3] / "examples" / "python"
SOURCES = Path(__file__).parents[1] / "src"
NAMES = ("candles.py", "fleet.py", "rounds.py", "scheduler.py")
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


class Program:
    """An example as a program, with its standard input open. It is killed at the end of the block,
    or when it has run for so long that the test has failed."""

    def __init__(self, name: str, address: str, directory: Optional[str] = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), "ADDR": address}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(DIRECTORY / name)],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._timer = threading.Timer(TIME_MAX_SECS, self.process.kill)

    def __enter__(self) -> Program:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.process.kill()
        self.process.communicate()

    def write(self, *lines: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(line + b"\n" for line in lines))
        self.process.stdin.flush()

    def line(self) -> str:
        """Returns the next line of standard output, or an empty one at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def error_line(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode().rstrip("\n")


class Candles(unittest.TestCase):
    def test_each_minute_closes_with_its_own_trades(self) -> None:
        made = candles.Candles()
        for after_ms, price, size in (
            (1_000, 10.0, 1.0),
            (30_000, 12.0, 2.0),
            (59_999, 9.0, 3.0),
            (60_000, 20.0, 1.0),
        ):
            self.assertTrue(made.add(START_MS + after_ms, price, size))
        self.assertEqual(made.close(START_MS), [])
        first = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 9.0, "volume": 6.0}
        self.assertEqual(made.close(START_MS + MINUTE_MS), [{"minute_ms": START_MS, **first}])
        second = {"open": 20.0, "high": 20.0, "low": 20.0, "close": 20.0, "volume": 1.0}
        self.assertEqual(
            made.close(START_MS + 2 * MINUTE_MS), [{"minute_ms": START_MS + MINUTE_MS, **second}]
        )
        self.assertEqual(made.open, {})

    def test_a_tick_closes_all_minutes_before_it_and_they_stay_closed(self) -> None:
        made = candles.Candles()
        for minute in (2, 0, 1, 3):
            made.add(START_MS + minute * MINUTE_MS, 10.0 + minute, 1.0)
        closed = made.close(START_MS + 3 * MINUTE_MS)
        self.assertEqual([each["open"] for each in closed], [10.0, 11.0, 12.0])
        # The time is stepped back.
        self.assertEqual(made.close(START_MS + MINUTE_MS), [])
        self.assertFalse(made.add(START_MS + 2 * MINUTE_MS, 1.0, 1.0))
        self.assertEqual([*made.open], [START_MS + 3 * MINUTE_MS])

    def test_the_program_reads_on_after_lines_that_are_no_trades(self) -> None:
        with EdgeThread() as thread:
            thread.edge.is_paused = True
            with Program("candles.py", thread.address) as program:
                for line, shown in (
                    (b"", ""),
                    (b"1800000000000 10", "1800000000000 10"),
                    (b"1800000000000 10 one", "1800000000000 10 one"),
                    (b"\xff 10 1", "\ufffd 10 1"),
                ):
                    program.write(line)
                    self.assertEqual(program.error_line(), f"not a trade: {shown}")
                program.write(b"%d 10 1" % START_MS, b"%d 20 1" % (START_MS + MINUTE_MS), b"end")
                self.assertEqual(program.error_line(), "not a trade: end")
                thread.edge.is_paused = False
                closed = [json.loads(program.line()) for _ in range(2)]
                self.assertEqual([each["open"] for each in closed], [10.0, 20.0])
                program.write(b"%d 30 1" % START_MS)
                self.assertEqual(program.error_line(), f"too late: {START_MS} 30 1")


@unittest.skipIf(
    sys.version_info < (3, 11), "before Python 3.11, asyncio may lose an interrupt and then hang"
)
class Programs(unittest.TestCase):
    def setUp(self) -> None:
        # A child of a process that ignores SIGINT would ignore it too.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)

    def test_ctrl_c_ends_each_program_while_it_waits(self) -> None:
        with tempfile.TemporaryDirectory() as directory, EdgeThread() as thread:
            thread.edge.is_paused = True
            for name in NAMES:
                with self.subTest(name), Program(name, thread.address, directory) as program:
                    self.await_login(thread.edge)
                    self.interrupt(name, program)

    @unittest.skipUnless(
        PROGRAM.exists() or "TICKSTORM" in os.environ or "CI" in os.environ,
        f"{PROGRAM} is not built",
    )
    def test_candles_read_trades_and_end_against_a_real_edge(self) -> None:
        with dev(PROGRAM) as address, Program("candles.py", address) as program:
            self.interrupt("candles.py", program)

    def await_login(self, edge: FakeEdge) -> None:
        """Waits until a program has subscribed, with the login of `tickstorm dev`."""
        deadline = time.monotonic() + TIME_MAX_SECS
        while not edge.subscribes and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(len(edge.subscribes), 1)
        edge.subscribes.clear()
        auth = edge.auths.pop()
        self.assertEqual((auth.username, auth.password), ("stream_user", "stream_pass"))

    def interrupt(self, name: str, program: Program) -> None:
        if name == "candles.py":
            # Then it waits for the next line.
            program.write(b"the end")
            self.assertEqual(program.error_line(), "not a trade: the end")
        program.process.send_signal(signal.SIGINT)
        status = program.process.wait()
        assert program.process.stderr is not None
        errors = program.process.stderr.read().decode()
        self.assertEqual(status, -signal.SIGINT, errors)
        self.assertNotIn("Warning", errors)


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
        self.assertEqual(self.minutes_run_after([4]), [1, 2, 3, 4])

    def test_no_minute_is_run_again_after_the_time_was_stepped_back(self) -> None:
        self.assertEqual(self.minutes_run_after([1, 2, 3, 2, 3, 4]), [1, 2, 3, 4])
        self.assertEqual(self.minutes_run_after([1, 2, 3, -7, -6, 5]), [1, 2, 3, 4, 5])

    def minutes_run_after(self, ticks: List[int]) -> List[int]:
        """Returns the minutes that are run if these arrive, all counted from the start."""

        class Received:
            start_ms = START_MS

            def __iter__(self) -> Iterator[tickstorm.Tick]:
                for number in ticks:
                    epoch_ms = START_MS + number * MINUTE_MS
                    yield tickstorm.Tick(tickstorm.Mode.MINUTE, epoch_ms)

        ran: List[int] = []

        def note(minute: int) -> str:
            ran.append(minute - START_MS // MINUTE_MS)
            return "done"

        database = scheduler.open_database(":memory:")
        scheduler.run(database, (scheduler.Job("job", 1, note),), Received())  # type: ignore
        rows = database.execute("select minute_ms from results").fetchall()
        database.close()
        saved = [(minute_ms - START_MS) // MINUTE_MS for (minute_ms,) in rows]
        self.assertEqual(saved, ran)
        return ran


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


    async def test_after_an_outage_devices_are_woken_once_for_the_latest_tick(self) -> None:
        now_ms = START_MS + 62 * MINUTE_MS
        missed = [START_MS + minute * MINUTE_MS for minute in range(1, 63)]
        latest_ms = START_MS + 60 * MINUTE_MS
        for known_after in (0, 3):
            with self.subTest(known_after=known_after):
                woken = await self.woken_by(missed, now_ms, known_after)
                self.assertEqual(woken, [("one", latest_ms), ("other", latest_ms)])

    async def test_devices_are_not_woken_again_after_a_small_step_back(self) -> None:
        last_ms = START_MS + 60 * MINUTE_MS
        woken = await self.woken_by([last_ms, last_ms], last_ms, 0)
        self.assertEqual(woken, [("one", last_ms), ("other", last_ms)])

    async def test_a_late_tick_wakes_devices_at_their_places_all_the_same(self) -> None:
        device = next(name for name in map(str, range(1_000)) if fleet.offset_secs(name) > 19)
        client = Outage([START_MS], START_MS + 19_000, 2)
        woken: List[int] = []

        async def wake(_: str, epoch_ms: int) -> None:
            woken.append(epoch_ms)

        # It would take 19 s if the tick were counted from its arrival.
        await asyncio.wait_for(fleet.run(client, [device], wake), 15.0)  # type: ignore
        self.assertEqual(woken, [START_MS])

    async def woken_by(
        self, ticks: List[int], now_ms: int, known_after: int
    ) -> List[Tuple[str, int]]:
        """Returns which devices are woken, and for which ticks."""
        woken: List[Tuple[str, int]] = []

        async def wake(device: str, epoch_ms: int) -> None:
            woken.append((device, epoch_ms))

        client = Outage(ticks, now_ms, known_after)
        await fleet.run(client, ["one", "other"], wake, 0.01)  # type: ignore[arg-type]
        return sorted(woken)


class Outage:
    """A client that receives ticks after an outage, before it knows authority time."""

    def __init__(self, ticks: List[int], now_ms: int, known_after: int) -> None:
        self._ticks = ticks
        self._now_ms = now_ms
        self._unknown = known_after
        """How many more times the time is not known."""

    def now(self) -> Optional[tickstorm.Estimate]:
        if self._unknown > 0:
            self._unknown -= 1
            return None
        return tickstorm.Estimate(self._now_ms * 1_000, 100)

    async def __aiter__(self) -> AsyncIterator[tickstorm.Tick]:
        for epoch_ms in self._ticks:
            yield tickstorm.Tick(tickstorm.Mode.MINUTE, epoch_ms, tickstorm.Quality.REPLAY)


class Sizes(unittest.TestCase):
    def test_examples_are_shorter_than_80_lines(self) -> None:
        files = sorted(DIRECTORY.glob("*.py"))
        self.assertEqual([file.name for file in files], [*NAMES])
        for file in files:
            self.assertLess(len(file.read_text(encoding="utf-8").splitlines()), 80, file.name)


if __name__ == "__main__":
    unittest.main()
