"""Whole connections, waits and moves, checked against the conformance vectors in virtual time."""

from __future__ import annotations

import unittest
from functools import partial
from typing import Any, Dict, List, Optional

from tickstorm import _messages as messages
from tickstorm import events
from tickstorm._frames import FrameType
from tickstorm._resume import Continuity, Resume
from tickstorm._session import (
    Batch,
    Leave,
    PongExchange,
    Request,
    Session,
    SessionEvent,
    Subscribed,
    Welcome,
)
from tickstorm._actions import Dial
from tickstorm._subscription import Phase
from tickstorm._units import MS
from tickstorm.errors import ConnectionClosed, ProtocolError, Refused, TickstormError

from .test_vectors import come_back_of
from .vectors import Case, cases
from .world import AUTHORITY_MS, SimEdge, World

RANDOMS = (0.0, 0.5, 1.0)
"""Both ends and the middle of every random wait."""


class InstantWorld(World):
    """A world in which nothing needs time to arrive."""

    trip = 0


def request_of(subscribe: Case) -> Request:
    point = subscribe.get("resume_after_epoch_ms")
    mode = events.Mode[subscribe["mode"]]
    return Request(mode, subscribe.get("ahead", False), None if point is None else int(point))


class Sessions(unittest.TestCase):
    """`client_sessions`: how a client interprets bytes."""

    def test_sessions(self) -> None:
        for case in cases("sessions.json", "client_sessions"):
            data = bytes.fromhex(case["hex"])
            for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
                with self.subTest(case["id"], pieces=len(pieces)):
                    self.play(case, pieces)

    def play(self, case: Case, pieces: List[bytes]) -> None:
        session, seen = Session(), []
        session.authenticate(messages.Auth())
        requests = [request_of(each) for each in case["subscribes"]]
        for request in requests:
            session.subscribe(request)
        resume = Resume(requests[0].mode, requests[0].resume_after_ms)
        end: Optional[TickstormError] = None
        try:
            for piece in pieces:
                for event in session.handle_bytes(piece, 0):
                    if isinstance(event, Subscribed):
                        if event.request is not requests[0]:
                            resume = Resume(event.request.mode, event.request.resume_after_ms)
                        resume.handle_start(event.start_ms)
                    seen += show(event, resume)
                    if isinstance(event, Refused):
                        raise event
            if "closes" in case:
                raise ConnectionClosed
        except TickstormError as error:
            end = error
        self.assertEqual(seen, case["events"])
        if "ends" not in case:
            self.assertIsNone(end)
            return
        assert end is not None
        ends = case["ends"]
        self.assertIs(resume.classify(end.come_back), come_back_of(ends["come_back"]))
        self.assertEqual(isinstance(end, ProtocolError), ends.get("broke_the_protocol", False))
        resume.handle_end(end.come_back)
        point = ends["resume_after_epoch_ms"]
        self.assertEqual(resume.point_ms, None if point is None else int(point))


def show(event: SessionEvent, resume: Resume) -> List[Dict[str, Any]]:
    """Returns the event as the vectors show it."""
    if isinstance(event, Welcome):
        cookie = None if event.cookie is None else event.cookie.hex()
        welcome = {
            "edge_id": event.edge_id,
            "heartbeat_interval_ms": event.heartbeat_interval // MS,
            "heartbeat_timeout_ms": event.heartbeat_timeout // MS,
            "protocol_minor": event.protocol_minor,
            "connection_id": event.connection_id,
            "frame_rate_limit": event.frame_rate_limit or None,
            "cookie": cookie,
        }
        return [{"authenticated": welcome}]
    if isinstance(event, Subscribed):
        return [{"subscribed": {"start_epoch_ms": str(event.start_ms)}}]
    if isinstance(event, PongExchange):
        return [{"pong": {"client_time_us": str(event.t1_us)}}]
    if isinstance(event, Leave):
        return [{"going_away": {"deadline_ms": event.within // MS}}]
    if isinstance(event, Refused):
        error = {"code": event.code, "retry_after_ms": event.retry_after_ms}
        return [{"error": {**error, "connection_id": event.connection_id}}]
    assert isinstance(event, Batch)
    shown: List[Dict[str, Any]] = []
    for tick in event.ticks:
        point_ms = resume.point_ms
        continuity = resume.handle_tick(tick.epoch_ms)
        if continuity is Continuity.AGAIN:
            continue
        if continuity is Continuity.AFTER_GAP:
            gap = {"after_epoch_ms": str(point_ms), "before_epoch_ms": str(tick.epoch_ms)}
            shown.append({"gap": gap})
        known = {quality.value: quality.name for quality in events.Quality}
        quality = known.get(tick.quality, "NORMAL")
        epoch_ms = str(tick.epoch_ms)
        shown.append({"tick": {"mode": event.mode.name, "epoch_ms": epoch_ms, "quality": quality}})
    return shown


class Heartbeats(unittest.TestCase):
    """`heartbeats`: when a client sends HEARTBEAT."""

    def test_schedules(self) -> None:
        for case in cases("sessions.json", "heartbeats"):
            for draw in RANDOMS:
                with self.subTest(case["id"], random=draw):
                    self.play(case, draw)

    def play(self, case: Case, draw: float) -> None:
        session = Session(sparing=case.get("after_rate_limited", False))
        session.subscribe(Request(events.Mode.SECOND, case.get("ahead", False)))
        at = 1_000 * MS
        ack = messages.Ack(
            1,
            heartbeat_interval_ms=case["heartbeat_interval_ms"],
            frame_rate_limit=case.get("frame_rate_limit", 0),
        )
        list(session.handle_bytes(frame(FrameType.ACK, ack), at))
        has_time = case["pong_has_time"]
        for number, (low, high) in enumerate(case["intervals_ms"]):
            due = session.next_heartbeat
            self.assertTrue(low * MS <= due - at <= high * MS, (number, (due - at) / MS))
            at = due
            self.assertTrue(session.poll_heartbeat(at, draw))
            time_us = 1 if has_time[min(number, len(has_time) - 1)] else 0
            pong = messages.Pong(at // 1_000, time_us, time_us)
            list(session.handle_bytes(frame(FrameType.PONG, pong), at))


def frame(frame_type: FrameType, message: Any) -> bytes:
    """Returns the bytes of a frame."""
    from tickstorm._frames import encode_frame

    return encode_frame(frame_type, message)


class Runs(unittest.TestCase):
    """`runs`: a subscription over time."""

    def test_runs(self) -> None:
        for case in cases("sessions.json", "runs"):
            for draw in RANDOMS:
                with self.subTest(case["id"], random=draw):
                    self.play(case, draw)

    def play(self, case: Case, draw: float) -> None:
        edge, expect = SimEdge("a"), case["expect"]
        point = case.get("resume_after_epoch_ms")
        behave(edge, case["edge"][0])
        world = InstantWorld(
            edge,
            random=draw,
            authority_ms=int(case["authority_ms"]),
            mode=case.get("mode", "SECOND"),
            ahead=case.get("ahead", False),
            resume_after_ms=None if point is None else int(point),
            reconnect=case.get("comes_back", True),
        )
        self.assertTrue(world.run_until(lambda: world.core.phase is Phase.SUBSCRIBED, 1))
        begin = world.time
        self.assertEqual(edge.acked_subscribe_at, begin)
        for phase in case["edge"][1:]:
            world.after(phase["from_ms"] / 1_000, partial(behave, edge, phase))
        for stop in case.get("machine", []):
            suspended = "suspended_ms" in stop
            secs = stop["suspended_ms" if suspended else "stalled_ms"] / 1_000
            world.after(stop["at_ms"] / 1_000, partial(world.freeze, secs, suspended))
        if "closes" in case:
            closes = case["closes"]
            world.after(closes["at_ms"] / 1_000, partial(end, world, edge, closes["ends"]))
        if "leaves_ms" in expect:
            low, high = expect["leaves_ms"]
            self.assertTrue(world.run_until(lambda: bool(world.closed), high / 1_000))
            left = world.time
            self.assertGreaterEqual((left - begin) / MS, low)
            (lost,) = world.of(events.Reconnecting)
            self.assertIs(lost.why.come_back, come_back_of(expect["come_back"]))
            self.assertTrue(world.run_until(lambda: len(world.dials) > 1, 1))
            low, high = expect["next_dial_ms"]
            self.assertTrue(low <= (world.time - left) / MS <= high)
        else:
            world.run(expect["stays_until_ms"] / 1_000 - 0.000_001)
            self.assertEqual(world.closed, [])
            world.run(5)
        for row in expect.get("heartbeats", []):
            low, high = row["count"]
            sent = [(at - begin) / MS for at in edge.heartbeats]
            count = sum(row["from_ms"] <= at <= row["to_ms"] for at in sent)
            self.assertTrue(low <= count <= high, (row, sent))
        if "next_resume_after_epoch_ms" in expect:
            point = expect["next_resume_after_epoch_ms"]
            self.assertEqual(
                edge.subscribes[1].resume_after_epoch_ms, None if point is None else int(point)
            )
        self.check_ticks(world, expect, begin)

    def check_ticks(self, world: World, expect: Case, begin: int) -> None:
        ticks = [(at, tick) for at, tick in world.seen if isinstance(tick, events.Tick)]
        for epoch_ms in expect.get("never_epoch_ms", []):
            self.assertNotIn(int(epoch_ms), [tick.epoch_ms for _, tick in ticks])
        listed = expect.get("ticks", [])
        for row, (at, tick) in zip(listed, ticks):
            low, high = row["at_ms"]
            self.assertEqual(tick.epoch_ms, int(row["epoch_ms"]), row)
            self.assertTrue(low * MS <= at - begin <= high * MS, (row, (at - begin) / MS))
            if "quality" in row:
                self.assertEqual(tick.quality.name, row["quality"], row)
        self.assertGreaterEqual(len(ticks), len(listed))
        for _, tick in ticks[len(listed) :] if listed else []:
            self.assertGreater(tick.epoch_ms, int(listed[-1]["epoch_ms"]))
        self.assertEqual(world.of(events.Gap), [])
        if ticks and all(each.resumes for each in world.of(events.Reconnecting)):
            period = ticks[0][1].mode.period_ms
            epochs = [tick.epoch_ms for _, tick in ticks]
            self.assertEqual(epochs, list(range(epochs[0], epochs[-1] + 1, period)))


def behave(edge: SimEdge, phase: Case) -> None:
    """Makes an edge behave as a run says."""
    edge.ticks = phase["ticks"] != "none"
    edge.pongs = phase["pongs"] != "none"
    edge.knows_time = phase["pongs"] == "with time"


def end(world: World, edge: SimEdge, how: Any) -> None:
    """Ends the connections of an edge, or does something that makes the client end them."""
    if isinstance(how, dict):
        world.error(edge, how["error"]["code"], how["error"]["retry_after_ms"])
    elif how in ("eof", "reset"):
        world.cut(edge)
    elif how == "bad frame":
        for number in list(edge.connections):
            world.deliver(number, b"\xf5\x7d\x01\x04\0\0\0\0bad!")
    else:
        assert how == "other schema", how
        for number in list(edge.connections):
            world.send(number, FrameType.DATA_BATCH, messages.DataBatch(2))


class ScriptedWorld(InstantWorld):
    """A world in which each connection leads to an edge that behaves as the next attempt of a
    case."""

    def __init__(self, case: Case, draw: float, script: List[Case]) -> None:
        self.attempts: List[SimEdge] = []
        self.ticks_before: List[List[int]] = []
        """The ticks that were handed on before each attempt."""
        self.script: List[Case] = script
        """What becomes of each attempt. If there are more, they succeed."""
        names, mode = case["addresses"], case.get("mode", "SECOND")
        # A minute begins 4 s later, so that a case of minutes has a tick soon, but not at once.
        authority_ms = AUTHORITY_MS + 55_750 if mode == "MINUTE" else AUTHORITY_MS
        super().__init__(
            *[SimEdge(name) for name in names],
            random=draw,
            authority_ms=authority_ms,
            mode=mode,
        )

    def edge_at(self, dial: Dial) -> SimEdge:
        edge = SimEdge(f"edge of attempt {len(self.attempts)}")
        number = len(self.attempts)
        attempt = self.script[number] if number < len(self.script) else {}
        configure(edge, attempt, self.attempts)
        self.attempts.append(edge)
        self.edges.append(edge)
        if not edge.answers_dial:
            self.ticks_before.append(self.ticks_ms)
        return edge

    def _answer_dial(self, edge: SimEdge, number: int) -> None:
        self.ticks_before.append(self.ticks_ms)
        super()._answer_dial(edge, number)


def configure(edge: SimEdge, attempt: Case, before: List[SimEdge]) -> None:
    """Makes an edge behave as an attempt says, until the subscription."""
    edge.accepts = not attempt.get("unreachable", False)
    edge.answers_dial = not attempt.get("unanswered", False)
    edge.ip_addresses = attempt.get("ip_addresses", 1)
    if "error" in attempt:
        given = attempt["error"]
        error = messages.ErrorMsg(given["code"], retry_after_ms=given["retry_after_ms"])
        if attempt["answers"] == "AUTH":
            edge.refusal = error
        else:
            edge.refusal_of_subscribe = error
    if "silent_after" in attempt:
        edge.knows_time = False
        edge.acks_subscribe = False
        edge.acks_auth = attempt["silent_after"] != "connect"
    if attempt.get("answers") == "AUTH" and "ends" in attempt:
        edge.acks_auth = False
    edge.ack_of_auth_after_ms = attempt.get("ack_of_auth_after_ms", 0)
    edge.ack_of_subscribe_after_ms = attempt.get("ack_of_subscribe_after_ms", 0)
    edge.protocol_minor = attempt.get("protocol_minor", 1)
    edge.cookie = bytes.fromhex(attempt.get("gives_cookie") or "")
    if attempt.get("edge_id") == "same":
        edge.edge_id = before[0].edge_id
    if attempt.get("start") == "too late":
        edge.start_later_ms = 5_000


class Comebacks(unittest.TestCase):
    """`comebacks`: the attempts of a client to connect."""

    def test_comebacks(self) -> None:
        for case in cases("reconnect.json", "comebacks"):
            for draw in RANDOMS:
                with self.subTest(case["id"], random=draw):
                    self.play(case, draw)

    def play(self, case: Case, draw: float) -> None:
        attempts = case["attempts"]
        world = ScriptedWorld(case, draw, attempts)
        self.start_ms: Optional[int] = None
        ended = world.time
        for number, attempt in enumerate(attempts):
            if "authority_jumps_ms" in attempt:
                world.step_authority(attempt["authority_jumps_ms"])
            low, high = attempt["wait_ms"]
            left = high / 1_000 - (world.time - ended) / 1e9
            dialled = world.run_until(lambda n=number: len(world.dials) > n, left)  # type: ignore
            self.assertTrue(dialled, f"attempt {number} is not made in time")
            at, address = world.dials[number]
            self.assertEqual(case["addresses"][address], attempt["address"], f"attempt {number}")
            self.assertGreaterEqual((at - ended) / MS, low, f"attempt {number}")
            edge = world.attempts[number]
            ended = self.attempt(world, edge, attempt, number)
            self.check(world, edge, attempt, number)
        if case.get("gives_up"):
            world.run(200)
            self.assertEqual(len(world.dials), len(attempts))
            self.assertIs(world.core.phase, Phase.ENDED)
        self.assertEqual(world.of(events.Gap), [])

    def attempt(self, world: ScriptedWorld, edge: SimEdge, attempt: Case, number: int) -> int:
        """Lets an attempt take place. Returns when it ended."""
        link, dialled = number + 1, world.dials[number][0]
        if "serves_ms" in attempt:
            subscribed = world.run_until(lambda: edge.acked_subscribe_at is not None, 120)
            self.assertTrue(subscribed, f"attempt {number} leads to no subscription")
            if self.start_ms is None:
                self.start_ms = world.core.resume.point_ms
            world.run(attempt["serves_ms"] / 1_000)
            self.assertIn(link, edge.connections, f"attempt {number} ended early")
            end(world, edge, attempt["ends"])
        limit = attempt["gives_up_ms"][1] / 1_000 if "gives_up_ms" in attempt else 1
        world.run_until(lambda: link in [closed for _, closed in world.closed], limit)
        ended = [at for at, closed in world.closed if closed == link]
        self.assertTrue(ended, f"attempt {number} does not end")
        if "gives_up_ms" in attempt:
            self.assertGreaterEqual((ended[0] - dialled) / MS, attempt["gives_up_ms"][0])
        return ended[0]

    def check(self, world: ScriptedWorld, edge: SimEdge, attempt: Case, number: int) -> None:
        if "resume_after" in attempt and edge.subscribes:
            point = edge.subscribes[0].resume_after_epoch_ms
            if attempt["resume_after"] is None:
                self.assertIsNone(point)
            elif attempt["resume_after"] == "last tick":
                self.assertEqual(point, world.ticks_before[number][-1])
            else:
                self.assertEqual(point, self.start_ms)
        if "presents_cookie" in attempt:
            cookie = edge.auths[0].cookie.hex() or None
            self.assertEqual(cookie, attempt["presents_cookie"])
        if "heartbeats" in attempt:
            low, high = attempt["heartbeats"]["count"]
            until = edge.acked_auth_at + attempt["heartbeats"]["within_ms"] * MS
            count = sum(at <= until for at in edge.heartbeats)
            self.assertTrue(low <= count <= high, count)


class Moves(unittest.TestCase):
    """`moves`: from one edge to another."""

    def test_moves(self) -> None:
        for case in cases("moves.json", "moves"):
            for draw in RANDOMS:
                with self.subTest(case["id"], random=draw):
                    self.play(case, draw)

    def play(self, case: Case, draw: float) -> None:
        attempts = case["attempts"]
        self.case, self.world = case, ScriptedWorld(case, draw, [])
        world = self.world
        self.fail_before(case)
        self.old = old = world.attempts[-1]
        world.run(case.get("subscribed_before_ms", 5_000) / 1_000)
        self.begin = self.ended = world.time
        # A case says what becomes of each attempt, apart from those that are repeated.
        made = len(world.attempts)
        if any(attempt.get("repeats") for attempt in attempts):
            first = next(n for n, attempt in enumerate(attempts) if attempt.get("repeats"))
            world.script = [{}] * made + attempts[:first] + [attempts[first]] * 100
        else:
            world.script = [{}] * made + attempts
        for asked in case["going_away"]:
            ask = partial(world.going_away, old, asked["deadline_ms"], closes=False)
            world.after(asked["at_ms"] / 1_000, ask)
        old_ends = case.get("old_ends", {})
        if "at_ms" in old_ends:
            world.after(old_ends["at_ms"] / 1_000, partial(end, world, old, old_ends["ends"]))
        last = case["going_away"][-1]
        self.until = self.begin + (last["at_ms"] + last["deadline_ms"]) * MS
        self.is_over = False
        for number, attempt in enumerate(attempts):
            if attempt.get("repeats") and not self.is_over:
                self.repeat(attempt, attempts[number + 1 :])
            else:
                self.attempt(attempt, made, is_first=number == 0)
                made += 1
            made = max(made, len(world.dials))
        if "then" in case:
            self.then(case)
        world.run(2)
        self.check_ticks()

    def fail_before(self, case: Case) -> None:
        """Lets attempts fail before the subscription, which is made at the first address. A first
        connection that fails would be given up, so it is made and lost before them."""
        world, count = self.world, case.get("failures_before", 0)
        is_subscribed = partial(lambda core: core.phase is Phase.SUBSCRIBED, world.core)
        self.assertTrue(world.run_until(is_subscribed, 1))
        if not count:
            return
        names = case["addresses"]
        # The end of that connection counts, too, and the addresses follow in turn.
        count += (len(names) - (count + 1) % len(names)) % len(names)
        world.script = [{}] + [{"unreachable": True}] * count
        world.cut(world.attempts[0])
        self.assertTrue(world.run_until(is_subscribed, 300))
        self.assertEqual(world.dials[-1][1], 0)
        self.assertGreaterEqual(len(world.dials), case["failures_before"] + 1)

    def attempt(self, attempt: Case, number: int, is_first: bool) -> None:
        """Checks the attempt with this number, and what becomes of it."""
        world, link = self.world, number + 1
        since, key = (self.begin, "at_ms") if "at_ms" in attempt else (self.ended, "wait_ms")
        low, high = attempt[key]
        if since + low * MS > self.until or self.is_over:
            return
        left = min(high / 1_000 - (world.time - since) / 1e9, (self.until - world.time) / 1e9)
        dialled_in_time = world.run_until(lambda: len(world.dials) > number, left)
        if not dialled_in_time and since + high * MS > self.until:
            # An attempt that would be made after the deadline is left out.
            self.is_over = True
            return
        self.assertTrue(dialled_in_time, attempt)
        dialled, address = world.dials[number]
        self.assertGreaterEqual((dialled - since) / MS, low)
        if not self.case.get("any_address"):
            self.assertEqual(self.case["addresses"][address], attempt["address"])
        edge, old_ends = world.attempts[number], self.case.get("old_ends", {})
        if is_first and "after_attempt_ms" in old_ends:
            after = old_ends["after_attempt_ms"] / 1_000
            world.after(after, partial(end, world, self.old, old_ends["ends"]))
        if "ends" in attempt:
            world.run(0)
            end(world, edge, attempt["ends"])
        if attempt.get("moves"):
            self.assertTrue(world.run_until(lambda: bool(world.of(events.Moved)), 5))
            self.assertFalse(self.old.connections)
            self.assertIn(link, edge.connections)
        else:
            limit = attempt.get("gives_up_ms", [0, 5_000])[1] / 1_000
            world.run_until(lambda: link in [closed for _, closed in world.closed], limit)
            closed = [at for at, closed in world.closed if closed == link]
            self.assertTrue(closed, attempt)
            self.ended = closed[0]
            self.assertEqual(world.of(events.Moved), [])
            if "gives_up_ms" in attempt:
                self.assertGreaterEqual((self.ended - dialled) / MS, attempt["gives_up_ms"][0])
            if not old_ends:
                self.assertTrue(self.old.connections)
        if "start" in attempt and edge.subscribes:
            point = edge.subscribes[0].resume_after_epoch_ms
            self.assertEqual(point, world.ticks_before[number][-1])

    def repeat(self, attempt: Case, following: List[Case]) -> None:
        """Lets attempts take place until no more are made."""
        world = self.world
        until_ms: int = attempt.get("until_ms") or self.case["until_ms"]
        until = self.begin + until_ms * MS
        before = len(world.dials)
        world.run((until - world.time) / 1e9)
        made = len(world.dials)
        begun = [at for at, _ in world.dials[before:]]
        self.assertLessEqual(max(begun, default=0), until)
        low, high = attempt.get("wait_ms", [0, 60_000])
        for earlier, later in zip([self.ended, *begun], begun):
            self.assertTrue(low * MS <= later - earlier <= high * MS, (earlier, later))
        world.run(0.4)
        self.assertEqual(len(world.dials), made)
        world.script = [{}] * made + following
        self.ended = world.time

    def then(self, case: Case) -> None:
        """Checks the first attempt after the end of both connections."""
        world, attempt = self.world, case["then"]
        link = len(world.dials)
        if "new_ends" in case:
            world.run(case["subscribed_after_ms"] / 1_000)
            end(world, world.attempts[-1], case["new_ends"])
            ended = world.time
        else:
            # The wait begins when neither the old connection nor an attempt is left.
            world.run_until(lambda: bool(world.of(events.Reconnecting)), 30)
            (ended,) = [at for at, each in world.seen if isinstance(each, events.Reconnecting)]
        low, high = attempt["wait_ms"]
        left = high / 1_000 - (world.time - ended) / 1e9
        self.assertTrue(world.run_until(lambda: len(world.dials) > link, left), attempt)
        dialled, address = world.dials[link]
        self.assertGreaterEqual((dialled - ended) / MS, low)
        if "address" in attempt:
            self.assertEqual(case["addresses"][address], attempt["address"])
        world.run(0)
        if "resume_after" in attempt:
            point = world.attempts[link].subscribes[0].resume_after_epoch_ms
            expected = None if attempt["resume_after"] is None else world.ticks_before[link][-1]
            self.assertEqual(point, expected)

    def check_ticks(self) -> None:
        world = self.world
        self.assertEqual(world.of(events.Gap), [])
        if all(each.resumes for each in world.of(events.Reconnecting)):
            epochs = world.ticks_ms
            self.assertEqual(epochs, list(range(epochs[0], epochs[-1] + 1, 1_000)))
            self.assertGreaterEqual(epochs[-1] + 1_000, world.authority_ms)


if __name__ == "__main__":
    unittest.main()
