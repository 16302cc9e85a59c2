"""The asyncio and the blocking client over loopback."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Tuple
from unittest import mock

import tickstorm
from tickstorm import _dial
from tickstorm import _messages as messages
from tickstorm._dial import Candidate, Dialler, Race, in_turn
from tickstorm._frames import FrameType
from tickstorm._units import MS, S
from tickstorm.client import READY_MAX
from tickstorm.options import Address

from .fake_edge import EdgeThread, FakeEdge

TIME_MAX_SECS = 60.0
"""A limit that only a defect exceeds."""


def client_of(*addresses: str, **options: Any) -> tickstorm.Client:
    """Returns a client of these edges."""
    given = {"user": "ada", "password": "open sesame", **options}
    return tickstorm.Client(list(addresses), **given)


async def eventually(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + TIME_MAX_SECS
    while not holds():
        assert time.monotonic() < end, "it does not come to hold"
        await asyncio.sleep(0.01)


async def take(client: tickstorm.Client, count: int) -> List[int]:
    """Returns the times of the next ticks."""
    found: List[int] = []
    async for tick in client:
        found.append(tick.epoch_ms)
        if len(found) == count:
            break
    return found


def steps(ticks: List[int]) -> List[int]:
    """Returns the differences between ticks."""
    return [later - earlier for earlier, later in zip(ticks, ticks[1:])]


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def within(self, awaitable: Awaitable[Any]) -> Any:
        return await asyncio.wait_for(awaitable, TIME_MAX_SECS)

    async def test_it_resumes_after_a_cut_and_says_so(self) -> None:
        async with FakeEdge() as edge, client_of(edge.address) as client:
            self.assertEqual((client.edge_id, client.connection_id), ("fake", "c-1"))
            self.assertEqual(client.address, edge.address)
            before = await self.within(take(client, 3))
            self.assertEqual(client.start_ms, before[0] - 1_000)
            edge.cut()
            after = await self.within(take(client, 30))
            self.assertEqual(set(steps(before + after)), {1_000})
            self.assertEqual(len(edge.subscribes), 2)

    async def test_events_tell_what_happens(self) -> None:
        async with FakeEdge() as edge, client_of(edge.address) as client:
            seen: List[str] = []

            async def watch() -> None:
                async for event in client.events():
                    name = type(event).__name__
                    if not seen or seen[-1] != name:
                        seen.append(name)
                    if name == "Tick" and seen == ["Tick"]:
                        edge.cut()
                    if name == "Tick" and "Reconnected" in seen:
                        return

            await self.within(watch())
            self.assertEqual(seen, ["Tick", "Reconnecting", "Reconnected", "Tick"])

    async def test_it_moves_without_a_break(self) -> None:
        async with FakeEdge("a") as one, FakeEdge("b") as other:
            async with client_of(one.address, other.address) as client:
                before = await self.within(take(client, 3))
                one.send(FrameType.GOING_AWAY, messages.GoingAway(400))

                async def until_moved() -> None:
                    async for event in client.events():
                        if isinstance(event, tickstorm.Tick):
                            before.append(event.epoch_ms)
                        if isinstance(event, tickstorm.Moved):
                            self.assertEqual(event.edge_id, "b")
                            return

                await self.within(until_moved())
                after = await self.within(take(client, 5))
                self.assertEqual(set(steps(before + after)), {1_000})
                await eventually(lambda: one.connections == 0)

    async def test_the_mode_changes_on_the_same_connection(self) -> None:
        async with FakeEdge() as edge, client_of(edge.address) as client:
            await self.within(take(client, 2))
            client.set_mode("minute")

            async def changed() -> None:
                async for event in client.events():
                    if isinstance(event, tickstorm.ModeChanged):
                        return

            await self.within(changed())
            self.assertEqual(set(steps(await self.within(take(client, 3)))), {60_000})
            self.assertEqual(len(edge.auths), 1)

    async def test_a_password_file_is_read_again_before_each_auth(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "password")
            path.write_text("one\n")
            async with FakeEdge() as edge:
                async with client_of(edge.address, password=None, password_file=path) as client:
                    path.write_text("two\n")
                    edge.cut()
                    await eventually(lambda: len(edge.auths) == 2)
                    await self.within(take(client, 1))
            self.assertEqual([auth.password for auth in edge.auths], ["one", "two"])

    async def test_wrong_credentials_raise_and_leave_nothing_behind(self) -> None:
        async with FakeEdge() as edge:
            edge.refusal = messages.ErrorMsg("AUTH_FAILED", "wrong", connection_id="c-7")
            with self.assertRaises(tickstorm.AuthenticationError) as caught:
                await self.within(client_of(edge.address).connect())
            self.assertIn("c-7", str(caught.exception))
            self.assertNotIn("sesame", str(caught.exception))
            await eventually(lambda: edge.connections == 0)

    async def test_nobody_at_the_address_raises(self) -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{reserved.getsockname()[1]}"
            with self.assertRaisesRegex(tickstorm.ConnectError, address):
                await self.within(client_of(address).connect())
        missing = client_of("127.0.0.1:1", password=None, password_file="/nowhere/at/all")
        with self.assertRaises(tickstorm.TickstormError):
            await self.within(missing.connect())

    async def test_without_reconnecting_iteration_raises_the_error(self) -> None:
        async with FakeEdge() as edge, client_of(edge.address, reconnect=False) as client:
            await self.within(take(client, 1))
            error = messages.ErrorMsg("SERVER_DRAINING", "bye", 250, connection_id="c-1")
            edge.send(FrameType.ERROR, error)
            with self.assertRaises(tickstorm.Refused) as caught:
                await self.within(take(client, 1_000))
            self.assertEqual((caught.exception.code, caught.exception.retry_after_ms),
                             ("SERVER_DRAINING", 250))

    async def test_a_slow_reader_stops_the_reading_but_loses_nothing(self) -> None:
        async with FakeEdge() as edge:
            edge.in_one_batch = 1_000
            async with client_of(edge.address) as client:
                await eventually(lambda: len(client._ready) >= READY_MAX)
                (connected,) = client._open
                self.assertFalse(connected.is_read)
                ticks = await self.within(take(client, 5_000))
                self.assertEqual(set(steps(ticks)), {1_000})

    async def test_close_ends_iteration_and_is_idempotent(self) -> None:
        async with FakeEdge() as edge:
            edge.ticks_max = 2
            client = await client_of(edge.address).connect()
            reading = asyncio.ensure_future(take(client, 1_000))
            await eventually(lambda: len(edge.subscribes) == 1)
            await client.close()
            await client.close()
            self.assertLessEqual(len(await self.within(reading)), 2)
            await eventually(lambda: edge.connections == 0)
            with self.assertRaises(tickstorm.ClientClosed):
                await client.next_event()

    async def test_a_timeout_loses_no_event(self) -> None:
        async with FakeEdge() as edge, client_of(edge.address) as client:
            ticks: List[int] = []
            timeouts = 0
            while len(ticks) < 20 or not timeouts:
                try:
                    event = await client.next_event(timeout=0.01)
                except TimeoutError:
                    timeouts += 1
                    continue
                assert isinstance(event, tickstorm.Tick)
                ticks.append(event.epoch_ms)
            self.assertEqual(set(steps(ticks)), {1_000})

    async def test_an_event_in_the_turn_in_which_the_wait_begins_ends_it(self) -> None:
        for timeout in (None, TIME_MAX_SECS):
            async with FakeEdge() as edge:
                edge.ticks_max = 0
                async with client_of(edge.address) as client:

                    def tick() -> None:
                        client._ready.append(tickstorm.Tick(tickstorm.Mode.MINUTE, 60_000))
                        client._notify()

                    asyncio.get_running_loop().call_soon(tick)
                    begin = time.monotonic()
                    event = await client.next_event(timeout)
                    self.assertIsInstance(event, tickstorm.Tick)
                    self.assertLess(time.monotonic() - begin, TIME_MAX_SECS / 2)

    async def test_a_timeout_counts_from_the_call_however_often_something_changes(self) -> None:
        async with FakeEdge() as edge:
            edge.ticks_max = 0
            async with client_of(edge.address) as client:

                async def change() -> None:
                    while True:
                        client._notify()
                        await asyncio.sleep(0.01)

                changing = asyncio.ensure_future(change())
                with self.assertRaisesRegex(TimeoutError, "within 0.1 s"):
                    await self.within(client.next_event(0.1))
                changing.cancel()
                with self.assertRaises(TimeoutError):
                    await client.next_event(0)

    async def test_a_timeout_before_the_first_connection_leaves_the_client_open(self) -> None:
        async with FakeEdge() as edge:
            client = client_of(edge.address)
            with self.assertRaises(TimeoutError):
                await client.next_event(0)
            self.assertIsInstance(await self.within(client.next_event()), tickstorm.Tick)
            await client.close()

    async def test_an_unforeseen_error_of_an_attempt_to_connect_reaches_the_reader(self) -> None:
        logged: List[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: logged.append(what))
        client = client_of("127.0.0.1:1")

        async def dial(*_: Any) -> None:
            raise ValueError("a name that the standard library refuses")

        with mock.patch.object(client._dialler, "dial", dial):
            with self.assertRaisesRegex(ValueError, "refuses"):
                await self.within(client.connect())

    async def test_secrets_are_not_logged_and_connections_are_named(self) -> None:
        async with FakeEdge() as edge:
            with self.assertLogs("tickstorm", logging.DEBUG) as logs:
                async with client_of(edge.address) as client:
                    edge.cut()
                    await eventually(lambda: len(edge.subscribes) == 2)
                    self.assertNotIn("sesame", repr(client))
            text = "\n".join(logs.output)
            self.assertNotIn("sesame", text)
            self.assertIn("connection c-1", text)


class Tls(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        for name in ("edge", "client"):
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
            command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
            command += ["-keyout", self.path(f"{name}.key"), "-out", self.path(f"{name}.pem")]
            subprocess.run(command, check=True, capture_output=True)

    def path(self, name: str) -> str:
        return os.path.join(self.directory.name, name)

    def test_an_encrypted_key_is_refused_without_a_prompt(self) -> None:
        command = ["openssl", "pkey", "-in", self.path("client.key"), "-aes256", "-passout"]
        command += ["pass:sesame", "-out", self.path("encrypted.key")]
        subprocess.run(command, check=True, capture_output=True)
        options = f"cert_file={self.path('client.pem')!r}, key_file={self.path('encrypted.key')!r}"
        program = f"import tickstorm; tickstorm.TLS({options}).context()"
        # In a session of its own, it has no terminal, so that a prompt would read from stdin.
        done = subprocess.run(
            [sys.executable, "-c", program],
            input="sesame\n",
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
            text=True,
            timeout=TIME_MAX_SECS,
        )
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("SSLError", done.stderr)
        self.assertNotIn("pass phrase", done.stdout + done.stderr)

    async def test_mutual_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("edge.pem"), self.path("edge.key"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.path("client.pem"))
        # The edge's side of handshakes that fail is logged.
        asyncio_log = logging.getLogger("asyncio")
        self.addCleanup(asyncio_log.setLevel, asyncio_log.level)
        asyncio_log.setLevel(logging.CRITICAL + 1)
        tls = tickstorm.TLS(
            ca_file=self.path("edge.pem"),
            cert_file=self.path("client.pem"),
            key_file=self.path("client.key"),
        )
        async with FakeEdge(tls=context) as edge:
            async with client_of(edge.address, tls=tls) as client:
                self.assertEqual(len(await asyncio.wait_for(take(client, 3), 60)), 3)
            for wrong in (
                tickstorm.TLS(ca_file=self.path("client.pem")),
                tickstorm.TLS(ca_file=self.path("edge.pem"), server_name="another.example"),
            ):
                with self.assertRaises(tickstorm.ConnectError):
                    await asyncio.wait_for(client_of(edge.address, tls=wrong).connect(), 60)
            unknown = tickstorm.TLS(ca_file=self.path("edge.pem"))
            with self.assertRaises(tickstorm.TickstormError):
                await asyncio.wait_for(client_of(edge.address, tls=unknown).connect(), 60)

    async def give_up(self, limit: str) -> None:
        """Gives an attempt up, for which nothing happens, after this limit and no other."""
        loop = asyncio.get_running_loop()
        limits: Dict[str, Any] = dict.fromkeys(
            ("_LOOKUP_MAX_SECS", "_CONNECT_MAX_SECS", "_RACE_MAX_SECS"), 2 * TIME_MAX_SECS
        )
        limits[limit] = 0.05

        async def hang(*_: Any, **__: Any) -> Any:
            await asyncio.sleep(2 * TIME_MAX_SECS)

        async def find(*_: Any, **__: Any) -> Any:
            return [(socket.AF_INET, 0, 0, "", ("192.0.2.%d" % n, 8080)) for n in (1, 2)]

        find_or_hang = hang if limit == "_LOOKUP_MAX_SECS" else find
        with mock.patch.multiple(_dial, _connect=hang, **limits):
            with mock.patch.object(loop, "getaddrinfo", find_or_hang):
                with self.assertRaises(tickstorm.ConnectError) as failed:
                    client = client_of("edge.test:8080")
                    await asyncio.wait_for(client.connect(), TIME_MAX_SECS)
        self.assertIs(failed.exception.come_back, tickstorm.errors.ComeBack.ELSEWHERE)

    async def test_a_lookup_that_hangs_is_given_up_after_5_s(self) -> None:
        self.assertEqual(_dial._LOOKUP_MAX_SECS, 5)
        await self.give_up("_LOOKUP_MAX_SECS")

    async def test_ip_addresses_that_are_silent_are_given_up_after_3_s_and_6_s_in_all(self) -> None:
        self.assertEqual((_dial._CONNECT_MAX_SECS, _dial._RACE_MAX_SECS), (3, 6))
        await self.give_up("_CONNECT_MAX_SECS")
        await self.give_up("_RACE_MAX_SECS")

    async def test_a_handshake_that_hangs_is_given_up_after_10_s(self) -> None:
        self.assertEqual(_dial._HANDSHAKE_MAX_SECS, 10)
        tls = tickstorm.TLS(ca_file=self.path("edge.pem"))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = "127.0.0.1:%d" % silent.getsockname()[1]
            with mock.patch.object(_dial, "_HANDSHAKE_MAX_SECS", 0.05):
                with self.assertRaises(tickstorm.ConnectError) as failed:
                    await asyncio.wait_for(client_of(address, tls=tls).connect(), TIME_MAX_SECS)
        self.assertIn("handshake", str(failed.exception))
        self.assertIs(failed.exception.come_back, tickstorm.errors.ComeBack.ELSEWHERE)


class Blocking(unittest.TestCase):
    def client(self, edge: EdgeThread) -> tickstorm.BlockingClient:
        return tickstorm.BlockingClient(edge.address, user="ada", password="open sesame")

    def test_it_resumes_and_moves_on(self) -> None:
        with EdgeThread() as edge, self.client(edge) as client:
            ticks = [tick.epoch_ms for _, tick in zip(range(3), client)]
            edge.call(edge.edge.cut)
            ticks += [tick.epoch_ms for _, tick in zip(range(30), client)]
            self.assertEqual(set(steps(ticks)), {1_000})
            self.assertEqual(client.edge_id, "fake")
            self.assertIsNotNone(client.now())
            client.set_mode("minute")
            for event in client.events():
                if isinstance(event, tickstorm.ModeChanged):
                    break
            self.assertEqual(next(client).mode, tickstorm.Mode.MINUTE)

    def test_a_timeout_loses_no_event(self) -> None:
        with EdgeThread() as edge, self.client(edge) as client:
            ticks: List[int] = []
            timeouts = 0
            while len(ticks) < 20 or not timeouts:
                try:
                    event = client.next_event(timeout=0.005)
                except TimeoutError:
                    timeouts += 1
                    continue
                assert isinstance(event, tickstorm.Tick)
                ticks.append(event.epoch_ms)
            self.assertEqual(set(steps(ticks)), {1_000})

    def test_an_event_or_an_error_that_is_there_is_no_timeout(self) -> None:
        client = tickstorm.BlockingClient("127.0.0.1:1", user="ada", password="open sesame")
        tick = tickstorm.Tick(tickstorm.Mode.SECOND, 1_000)
        for timeout in (0, None):
            client._next = concurrent.futures.Future()
            client._next.set_result(tick)
            self.assertEqual(client.next_event(timeout), tick)
            client._next = concurrent.futures.Future()
            client._next.set_exception(TimeoutError("of the client"))
            with self.assertRaisesRegex(TimeoutError, "of the client"):
                client.next_event(timeout)
            self.assertIsNone(client._next)
        client._next = concurrent.futures.Future()
        with self.assertRaisesRegex(TimeoutError, "within 0 s") as caught:
            client.next_event(0)
        self.assertIsNone(caught.exception.__context__)
        self.assertIsNotNone(client._next)

    def test_close_ends_iteration_in_another_thread_and_the_thread_of_the_client(self) -> None:
        with EdgeThread() as edge:
            edge.edge.ticks_max = 1
            client = self.client(edge).connect()
            seen: List[Tuple[int, ...]] = []
            reader = threading.Thread(
                target=lambda: seen.append(tuple(tick.epoch_ms for tick in client))
            )
            reader.start()
            time.sleep(0.1)
            client.close()
            client.close()
            reader.join(TIME_MAX_SECS)
            self.assertFalse(reader.is_alive())
            self.assertLessEqual(len(seen[0]), 1)
            names = [thread.name for thread in threading.enumerate()]
            self.assertNotIn("tickstorm", names)
            with self.assertRaises(tickstorm.ClientClosed):
                client.next_event()

    def test_a_failure_leaves_no_thread(self) -> None:
        with EdgeThread() as edge:
            edge.edge.refusal = messages.ErrorMsg("AUTH_FAILED")
            with self.assertRaises(tickstorm.AuthenticationError):
                self.client(edge).connect()
            self.assertNotIn("tickstorm", [thread.name for thread in threading.enumerate()])


class HappyEyeballs(unittest.IsolatedAsyncioTestCase):
    def test_families_alternate_and_the_order_begins_after_the_last_address(self) -> None:
        v4, v6 = socket.AF_INET, socket.AF_INET6
        found = [(v6, "1"), (v6, "2"), (v6, "1"), (v4, "a"), (v4, "b"), (v4, "c")]
        order = [(v6, "1"), (v4, "a"), (v6, "2"), (v4, "b"), (v4, "c")]
        self.assertEqual(in_turn(found, None), order)
        self.assertEqual(in_turn(found, (v6, "2")), order[3:] + order[:3])
        self.assertEqual(in_turn([], (v6, "2")), [])

    async def test_the_first_that_answers_wins_and_failures_cost_no_time(self) -> None:
        began: List[str] = []

        async def connect(candidate: Tuple[socket.AddressFamily, str]) -> str:
            began.append(candidate[1])
            if candidate[1] == "silent":
                await asyncio.sleep(60)
            if candidate[1] == "refused":
                raise ConnectionRefusedError
            return candidate[1]

        def race(*names: str) -> Race:
            return Race([(socket.AF_INET, name) for name in names], connect)

        fast = race("refused", "refused", "good", "silent")
        self.assertEqual(await fast.run(), "good")
        self.assertEqual((began, fast.last), (["refused", "refused", "good"],
                                              (socket.AF_INET, "good")))
        self.assertEqual(await race("silent", "good").run(), "good")
        with self.assertRaises(ConnectionRefusedError):
            await race("refused").run()
        with self.assertRaises(OSError):
            await race().run()

    async def test_a_brief_attempt_is_cut_off_and_the_next_one_continues(self) -> None:
        began: List[Candidate] = []
        addresses = ["192.0.2.1", "192.0.2.2"]

        async def connect(candidate: Candidate) -> socket.socket:
            began.append(candidate)
            await asyncio.sleep(60)
            raise AssertionError

        async def lookup(host: str, port: int, type: int) -> List[Any]:
            return [(socket.AF_INET, type, 0, "", (each, port)) for each in addresses]

        dialler = Dialler(None)
        loop = asyncio.get_running_loop()
        connecting = mock.patch.object(_dial, "_connect", connect)
        with connecting, mock.patch.object(loop, "getaddrinfo", lookup):
            for _ in range(3):
                with self.assertRaises(tickstorm.ConnectError) as caught:
                    await dialler.dial(Address("edge", 8080), asyncio.Protocol, 50 * MS)
                self.assertTrue(caught.exception.was_cut_off)
        hosts = [sockaddr[0] for _, sockaddr in began]
        self.assertEqual(hosts, ["192.0.2.1", "192.0.2.2", "192.0.2.1"])

    async def test_a_failure_within_the_limit_is_not_cut_off(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = Address("127.0.0.1", unused.getsockname()[1])
            with self.assertRaises(tickstorm.ConnectError) as caught:
                await Dialler(None).dial(address, asyncio.Protocol, 10 * S)
        self.assertFalse(caught.exception.was_cut_off)


if __name__ == "__main__":
    unittest.main()
