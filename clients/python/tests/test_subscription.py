"""The life of a subscription, in virtual time."""

from __future__ import annotations

import unittest
from typing import List, Optional, Tuple

from tickstorm import events
from tickstorm._held import HELD_MAX
from tickstorm._messages import ErrorMsg
from tickstorm._resume import Resume
from tickstorm._subscription import Phase
from tickstorm._units import MS, S
from tickstorm.errors import AuthenticationError, ConnectError, EdgeTimeout, Refused, TimeUnknown
from tickstorm.options import Credentials

from .world import AUTHORITY_MS, BEGIN, SimEdge, World, two_edges

FIRST_MS = AUTHORITY_MS - 250
"""The tick before the world began."""


def seconds(first: int, last: int) -> List[int]:
    """Returns the SECOND ticks with these numbers after the beginning."""
    return [FIRST_MS + 1_000 * number for number in range(first, last + 1)]


class Waits(unittest.TestCase):
    def test_ticks_arrive_and_the_time_is_learned(self) -> None:
        world = World(SimEdge("a"))
        world.run(5)
        self.assertEqual(world.ticks_ms, seconds(1, 5))
        estimate = world.core.estimator.estimate(world.now)
        assert estimate is not None
        self.assertLessEqual(abs(estimate.unix_us / 1_000 - world.authority_ms), 0.001)
        self.assertLess(estimate.error_us, 2_500)

    def test_after_a_loss_it_waits_and_resumes_at_the_next_address(self) -> None:
        one, other = two_edges()
        world = World(one, other)
        world.run(3)
        one.accepts = False
        world.cut(one)
        world.run(3)
        self.assertEqual([index for _, index in world.dials], [0, 1])
        (lost,) = world.of(events.Reconnecting)
        self.assertEqual((lost.after, lost.resumes, lost.connection_id), (0.5, True, "a-1"))
        self.assertEqual(other.subscribes[0].resume_after_epoch_ms, seconds(3, 3)[0])
        self.assertEqual(world.ticks_ms, seconds(1, 6))

    def test_the_bound_of_the_wait_doubles_up_to_30_s_and_is_first_again_after_30_s(self) -> None:
        edge = SimEdge("a")
        world = World(edge, random=1.0)
        world.run(1)
        edge.accepts = False
        world.cut(edge)
        world.run(100)
        waits = [round(each.after) for each in world.of(events.Reconnecting)]
        self.assertEqual(waits, [1, 2, 4, 8, 16, 30, 30, 30])
        edge.accepts = True
        world.run(60)
        world.cut(edge)
        self.assertEqual(world.of(events.Reconnecting)[-1].after, 1.0)

    def test_a_hint_replaces_the_first_wait_and_no_later_one_is_shorter(self) -> None:
        edge = SimEdge("a")
        world = World(edge, random=0.0)
        world.run(1)
        edge.refusal = ErrorMsg(code="SERVER_FULL", retry_after_ms=7_000)
        world.error(edge, "SLOW_CONSUMER", 250)
        world.run(9)
        waits = [each.after for each in world.of(events.Reconnecting)]
        self.assertEqual(waits, [0.25, 7.0, 7.0])

    def test_a_refusal_rests_the_address_for_a_minute_and_the_others_are_tried(self) -> None:
        one, other = two_edges()
        world = World(one, other, random=0.0)
        world.run(1)
        one.refusal = ErrorMsg(code="AUTH_FAILED")
        other.refusal = ErrorMsg(code="AUTH_FAILED")
        world.cut(one)
        world.run(59)
        self.assertEqual([index for _, index in world.dials], [0, 1, 0])
        world.run(3)
        self.assertEqual([index for _, index in world.dials], [0, 1, 0, 1, 0])
        why = world.of(events.Reconnecting)[-1].why
        self.assertIsInstance(why, AuthenticationError)

    def test_time_that_was_stepped_back_drops_the_resume_point_and_the_samples(self) -> None:
        edge = SimEdge("a")
        world = World(edge, random=0.0)
        world.run(20)
        world.step_authority(-15_000)
        edge.accepts = False
        world.error(edge, "TIME_STEPPED", 100)
        world.run(0.01)
        self.assertIsNone(world.core.estimator.estimate(world.now))
        edge.accepts = True
        world.run(3)
        self.assertIsNone(edge.subscribes[-1].resume_after_epoch_ms)
        self.assertFalse(world.of(events.Reconnecting)[0].resumes)
        # It begins with the second tick after the step, since it was away for the first.
        self.assertEqual(world.ticks_ms[-3:], seconds(6, 8))
        self.assertEqual(world.of(events.Gap), [])

    def test_a_resume_point_that_is_refused_is_tried_once_more(self) -> None:
        edge = SimEdge("a")
        world = World(edge, random=0.0)
        world.run(2)
        edge.refusal = ErrorMsg(code="INVALID_SUBSCRIPTION", retry_after_ms=1_100)
        world.cut(edge)
        world.run(1.5)
        edge.refusal = None
        world.run(2)
        resumed = [each.resumes for each in world.of(events.Reconnecting)]
        self.assertEqual(resumed, [True, True, False])
        self.assertIsNone(edge.subscribes[-1].resume_after_epoch_ms)

    def test_lost_ticks_are_reported_as_a_gap(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(2)
        edge.start_ms = seconds(9, 9)[0]
        world.step_authority(10_000)
        world.cut(edge)
        world.run(3)
        (gap,) = world.of(events.Gap)
        self.assertEqual((gap.after_ms, gap.before_ms), (seconds(2, 2)[0], seconds(10, 10)[0]))

    def test_a_cookie_is_presented_with_the_same_credentials_only(self) -> None:
        edge = SimEdge("a")
        edge.cookie = b"cookie"
        world = World(edge)
        world.run(1)
        world.cut(edge)
        world.run(2)
        world.credentials = Credentials("ada", "another one")
        world.cut(edge)
        world.run(4)
        self.assertEqual([auth.cookie for auth in edge.auths], [b"", b"cookie", b""])
        self.assertEqual(edge.auths[-1].password, "another one")


class FirstConnection(unittest.TestCase):
    def test_each_address_is_tried_once_without_a_wait(self) -> None:
        edges = [SimEdge(each) for each in "abc"]
        edges[0].accepts = False
        edges[1].refusal = ErrorMsg(code="AUTH_FAILED")
        edges[2].accepts = False
        world = World(*edges)
        world.run(0.1)
        self.assertEqual([index for _, index in world.dials], [0, 1, 2])
        self.assertIs(world.core.phase, Phase.ENDED)
        # What will fail again says more than what may not.
        self.assertIsInstance(world.core.ended, AuthenticationError)

    def test_an_edge_that_does_not_know_the_time_is_asked_again(self) -> None:
        one, other = two_edges()
        one.refusal = ErrorMsg(code="NO_TIME", retry_after_ms=3_000)
        other.accepts = False
        world = World(one, other)
        world.run(2.9)
        self.assertEqual(len(world.dials), 2)
        one.refusal = None
        world.run(0.2)
        self.assertIs(world.core.phase, Phase.SUBSCRIBED)

    def test_a_failure_ends_it_and_names_the_address(self) -> None:
        edge = SimEdge("a")
        edge.accepts = False
        world = World(edge)
        world.run(0.1)
        self.assertIsInstance(world.core.ended, ConnectError)

    def test_silence_after_auth_is_given_up_after_10_s(self) -> None:
        edge = SimEdge("a")
        edge.answers = False
        world = World(edge)
        world.run(9.9)
        self.assertIs(world.core.phase, Phase.FIRST)
        world.run(0.2)
        self.assertIsInstance(world.core.ended, EdgeTimeout)


class EdgesOfNoUse(unittest.TestCase):
    def leave(self, break_edge: str) -> "tuple[float, object]":
        """Breaks an edge at 3 s. Returns after how many seconds it was left, and why."""
        one, other = two_edges()
        world = World(one, other)
        world.run(3)
        setattr(one, break_edge, False)
        world.run(30)
        (left,) = [at for at, event in world.seen if isinstance(event, events.Reconnecting)]
        why = world.of(events.Reconnecting)[0].why
        self.assertEqual(world.ticks_ms, seconds(1, 33))
        return (left - BEGIN) / S - 3, why

    def test_silence(self) -> None:
        # The next tick is due at 3.75 s, and has been overdue by 4 s at 7.75 s.
        after, why = self.leave("answers")
        self.assertAlmostEqual(after, 4.75, delta=0.1)
        self.assertIsInstance(why, EdgeTimeout)

    def test_no_time(self) -> None:
        one, other = two_edges()
        world = World(one, other)
        world.run(3)
        one.knows_time = one.ticks = False
        world.run(30)
        why = world.of(events.Reconnecting)[0].why
        self.assertIsInstance(why, TimeUnknown)
        self.assertEqual(world.ticks_ms, seconds(1, 33))

    def test_no_ticks(self) -> None:
        after, why = self.leave("ticks")
        self.assertAlmostEqual(after, 5.75, delta=0.1)
        self.assertIsInstance(why, EdgeTimeout)

    def test_no_answer_to_subscribe(self) -> None:
        one, other = two_edges()
        one.acks_subscribe = False
        world = World(one, other)
        world.run(7.9)
        self.assertEqual(len(world.dials), 1)
        world.run(2)
        self.assertEqual(len(world.dials), 2)

    def test_an_edge_is_not_blamed_for_a_stall(self) -> None:
        for secs, suspended in ((1.0, False), (30.0, False), (30.0, True)):
            edge = SimEdge("a")
            world = World(edge)
            world.run(3)
            world.freeze(secs, suspended)
            world.run(secs + 3)
            self.assertEqual(world.of(events.Reconnecting), [], (secs, suspended))
            self.assertEqual(len(world.dials), 1)

    def test_an_edge_is_not_blamed_while_it_is_not_read(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(3)
        world.is_read = False
        edge.ticks = False
        world.run(60)
        self.assertEqual(world.of(events.Reconnecting), [])
        world.is_read = True
        edge.ticks = True
        world.run(2)
        self.assertEqual(world.of(events.Reconnecting), [])


    def test_without_room_for_events_no_connection_is_made(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(3)
        world.is_read = False
        world.input(lambda: None)
        world.cut(edge)
        world.run(60)
        self.assertEqual(len(world.dials), 1)
        world.is_read = True
        world.run(3)
        self.assertEqual(len(world.dials), 2)
        self.assertEqual(world.ticks_ms, seconds(1, 66))


class Moves(unittest.TestCase):
    def test_a_move_is_made_before_the_break(self) -> None:
        one, other = two_edges()
        world = World(one, other)
        world.run(3)
        world.going_away(one, 12_000)
        world.run(20)
        (moved,) = world.of(events.Moved)
        self.assertEqual((moved.edge_id, moved.address), ("b", "edge-1:8080"))
        self.assertEqual(world.of(events.Reconnecting), [])
        self.assertEqual(world.ticks_ms, seconds(1, 23))
        self.assertLess(max(world.tick_delays_ms()), 3)
        # Half of the 9 s that are left without the margin.
        self.assertAlmostEqual((world.dials[1][0] - BEGIN) / S, 7.5, delta=0.01)
        self.assertEqual(one.connections, {})

    def test_what_an_attempt_has_learned_about_the_time_counts_after_the_move(self) -> None:
        one, other = two_edges()
        one.pongs = False
        other.ack_of_subscribe_after_ms = 1_000
        world = World(one, other, random=0.0)
        world.run(3)
        world.going_away(one, 12_000)
        self.assertTrue(world.run_until(lambda: bool(world.of(events.Moved)), 5))
        self.assertIsNotNone(world.core.estimator.estimate(world.now))

    def test_the_same_edge_is_no_place_to_move_to(self) -> None:
        one, other = SimEdge("a"), SimEdge("a")
        world = World(one, other)
        world.run(3)
        world.going_away(one, 4_000)
        world.run(5)
        self.assertEqual(world.of(events.Moved), [])
        self.assertGreater(len(world.dials), 2)
        self.assertEqual(len(world.of(events.Reconnecting)), 1)
        self.assertEqual(world.ticks_ms, seconds(1, 8))

    def test_an_edge_that_would_lose_ticks_is_no_place_to_move_to(self) -> None:
        one, other = two_edges()
        world = World(one, other)
        world.run(3)
        other.start_ms = seconds(60, 60)[0]
        world.going_away(one, 4_000, closes=False)
        world.run(10)
        self.assertEqual(world.of(events.Moved), [])
        self.assertEqual(world.of(events.Gap), [])
        self.assertEqual(world.ticks_ms, seconds(1, 13))

    def test_failed_attempts_are_spaced_until_the_deadline(self) -> None:
        one, other = two_edges()
        other.accepts = False
        world = World(one, other, random=1.0)
        world.run(3)
        world.going_away(one, 20_000, closes=False)
        world.run(40)
        begun = [(at - BEGIN) / S for at, index in world.dials if index == 1]
        waits = [round(later - earlier, 1) for earlier, later in zip(begun, begun[1:])]
        # The attempts in between were made at the address in use, whose edge is the same.
        self.assertEqual(round(begun[0], 1), 18.0)
        self.assertLessEqual(begun[-1], 23.01)
        self.assertEqual(waits, [1.5])
        self.assertEqual(world.of(events.Reconnecting), [])

    def test_the_hint_of_a_draining_edge_does_not_rest_its_address(self) -> None:
        one, other = two_edges()
        other.refusal = ErrorMsg("SERVER_DRAINING", retry_after_ms=9_000)
        world = World(one, other, random=0.0)
        world.run(3)
        world.going_away(one, 20_000, closes=False)
        world.run(2)
        self.assertGreaterEqual([index for _, index in world.dials[1:]].count(1), 2)

    def test_no_time_during_a_move_does_not_rest_the_name_that_is_in_use(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(3)
        edge.refusal = ErrorMsg("NO_TIME", retry_after_ms=9_000)
        world.going_away(edge, 3_000)
        world.run(3)
        self.assertEqual(len(world.dials), 2)
        edge.refusal = None
        world.run(1)
        self.assertEqual(world.of(events.Reconnecting)[-1].after, 0.25)
        self.assertEqual(len(world.dials), 3)

    def test_an_attempt_under_way_survives_the_old_connection(self) -> None:
        one, other = two_edges()
        world = World(one, other, random=0.0)
        world.run(3)
        world.going_away(one, 4_000, closes=False)
        world.run(0.004)
        self.assertEqual(len(other.connections), 1)
        world.cut(one)
        self.assertIs(world.core.phase, Phase.RESCUING)
        world.run(5)
        self.assertEqual(len(world.of(events.Moved)), 1)
        self.assertEqual(world.of(events.Reconnecting), [])
        self.assertEqual(world.ticks_ms, seconds(1, 8))

    def test_an_attempt_that_hangs_is_dropped_2_s_after_the_end_of_the_old_connection(self) -> None:
        one, other = two_edges()
        other.answers = False
        world = World(one, other, random=0.0)
        world.run(3)
        world.going_away(one, 4_000, closes=False)
        world.run(0.5)
        world.cut(one)
        world.run(1.9)
        self.assertEqual(world.of(events.Reconnecting), [])
        world.run(0.2)
        # The next address is the one after the attempt's.
        self.assertEqual(len(world.of(events.Reconnecting)), 1)
        self.assertEqual([index for _, index in world.dials], [0, 1, 0])
        world.run(5)
        self.assertEqual(world.ticks_ms, seconds(1, 10))

    def test_a_move_is_given_up_if_time_is_stepped(self) -> None:
        one, other = two_edges()
        other.acks_subscribe = False
        world = World(one, other, random=0.0)
        world.run(3)
        world.going_away(one, 4_000, closes=False)
        world.run(0.5)
        world.error(one, "TIME_STEPPED", 100)
        world.run(0.01)
        self.assertIs(world.core.phase, Phase.WAITING)
        self.assertFalse(world.of(events.Reconnecting)[0].resumes)
        self.assertEqual(other.connections, {})

    def test_a_client_that_may_not_move_stays(self) -> None:
        one, other = two_edges()
        world = World(one, other, moves=False)
        world.run(3)
        world.going_away(one, 2_000)
        world.run(5)
        self.assertEqual(world.of(events.Moved), [])
        self.assertEqual(len(world.of(events.Reconnecting)), 1)
        self.assertEqual(world.ticks_ms, seconds(1, 8))


class Ahead(unittest.TestCase):
    def test_ticks_are_released_at_their_time(self) -> None:
        world = World(SimEdge("a"), ahead=True)
        world.run(10)
        self.assertEqual(world.ticks_ms, seconds(1, 10))
        for late_ms in world.tick_delays_ms():
            self.assertAlmostEqual(late_ms, 0, delta=0.01)

    def test_held_ticks_survive_a_lost_connection(self) -> None:
        edge = SimEdge("a")
        world = World(edge, ahead=True)
        world.run(3.2)
        world.cut(edge)
        world.run(3)
        self.assertEqual(edge.subscribes[-1].resume_after_epoch_ms, seconds(4, 4)[0])
        self.assertEqual(world.ticks_ms, seconds(1, 6))
        self.assertGreater(min(world.tick_delays_ms()), -0.01)

    def test_after_a_suspension_nothing_is_released_before_its_time(self) -> None:
        for secs, suspended in ((0.7, True), (30.0, True), (30.0, False)):
            edge = SimEdge("a")
            world = World(edge, ahead=True)
            world.run(3.2)
            world.freeze(secs, suspended)
            world.run(secs + 5)
            self.assertGreater(min(world.tick_delays_ms()), -0.5, (secs, suspended))
            count = len(world.ticks_ms)
            self.assertEqual(world.ticks_ms, seconds(1, count), (secs, suspended))
            self.assertGreaterEqual(count, int(7 + secs), (secs, suspended))

    def test_after_a_long_suspension_all_ticks_are_released(self) -> None:
        # More ticks arrive than may wait for their time, before the PONG that tells it.
        for ended_by in ("nobody", "the edge", "the network", "both"):
            for begin in (5.0, 5.1, 5.3, 5.6, 5.9):
                edge = SimEdge("a")
                world = World(edge, ahead=True)
                world.run(begin)
                world.freeze(180, suspended=True)
                if ended_by in ("the edge", "both"):
                    world.after(21, lambda: world.error(edge, "HEARTBEAT_TIMEOUT"))
                if ended_by == "the network":
                    world.after(181, lambda: world.cut(edge))
                world.run(181)
                if ended_by == "both":
                    world.run(0.3)
                    world.freeze(180, suspended=True)
                    world.run(181)
                world.run(9)
                with self.subTest(ended_by=ended_by, begin=begin):
                    last = int(world.authority_ms) // 1_000 * 1_000
                    expected = list(range(seconds(1, 1)[0], last + 1, 1_000))
                    self.assertEqual(world.ticks_ms, expected)
                    self.assertGreater(min(world.tick_delays_ms()), -0.5)
                    self.assertFalse(world.core.held.is_full)

    def test_a_replayed_tick_shows_that_the_time_of_those_before_it_has_passed(self) -> None:
        edge = SimEdge("a")
        edge.pongs = edge.ticks = False
        world = World(edge, ahead=True)
        world.run(1)
        ticks = seconds(1, 200)
        for epoch_ms in ticks:
            is_replay = ticks[0] < epoch_ms < ticks[-1]
            quality = events.Quality.REPLAY if is_replay else events.Quality.NORMAL
            world.core.held.push(events.Tick(events.Mode.SECOND, epoch_ms, quality), True)
        self.assertFalse(world.core.held.is_full)
        world.input(lambda: None)
        self.assertEqual(world.ticks_ms, ticks[:-1])

    def test_ticks_that_wait_prevent_no_reading_before_the_time_is_known(self) -> None:
        edge = SimEdge("a")
        edge.knows_time = False
        world = World(edge, ahead=True)
        world.run(HELD_MAX + 6)
        self.assertTrue(world.core.held.is_full)
        for end in ("none", "cut"):
            if end == "cut":
                world.cut(edge)
                world.run(3)
            self.assertEqual(world.core.link and world.core.link.is_read, True, end)
        self.assertEqual(len(world.dials), 2)
        edge.knows_time = True
        world.run(3)
        self.assertEqual(world.ticks_ms, seconds(1, HELD_MAX + 6 + 3 + 3))

    def test_a_connection_whose_edge_has_told_the_time_is_not_read_while_many_ticks_wait(
        self,
    ) -> None:
        edge = SimEdge("a")
        world = World(edge, ahead=True)
        world.run(2.9)
        edge.ticks = False
        for epoch_ms in seconds(10, 9 + HELD_MAX):
            world.core.held.push(events.Tick(events.Mode.SECOND, epoch_ms), True)
        world.run(1)
        self.assertEqual(world.core.link and world.core.link.is_read, False)
        world.run(6)
        self.assertEqual(world.ticks_ms, seconds(1, 3) + seconds(10, 10))
        self.assertEqual(world.core.link and world.core.link.is_read, True)

    def test_without_a_time_at_the_start_ticks_are_held_until_it_is_known(self) -> None:
        edge = SimEdge("a")
        edge.knows_time = False
        world = World(edge, ahead=True)
        world.run(3)
        self.assertEqual(world.ticks_ms, [])
        edge.knows_time = True
        world.run(3)
        self.assertEqual(world.ticks_ms, seconds(1, 6))


def set_mode(world: World, mode: events.Mode, resume_after_ms: Optional[int] = None) -> None:
    """Changes the mode, as the program does."""
    world.input(lambda: world.core.set_mode(mode, resume_after_ms))


MODE_BEGIN_MS = 1_800_000_000_000
"""A full minute."""


def ticks_by_mode(world: World) -> List[Tuple[str, float]]:
    """Returns the ticks, in seconds after MODE_BEGIN_MS."""
    ticks = world.of(events.Tick)
    return [(tick.mode.name, (tick.epoch_ms - MODE_BEGIN_MS) / 1_000) for tick in ticks]


class Modes(unittest.TestCase):
    def test_the_mode_changes_on_the_same_connection(self) -> None:
        edge = SimEdge("a")
        world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250)
        world.run(2)
        set_mode(world, events.Mode.MINUTE)
        world.run(70)
        set_mode(world, events.Mode.SECOND)
        world.run(3)
        self.assertEqual(len(world.dials), 1)
        self.assertEqual(
            ticks_by_mode(world),
            [("SECOND", 58), ("SECOND", 59), ("MINUTE", 60), ("MINUTE", 120)]
            + [("SECOND", second) for second in range(130, 133)],
        )
        changes = [change.mode.name for change in world.of(events.ModeChanged)]
        self.assertEqual(changes, ["MINUTE", "SECOND"])
        self.assertEqual(world.of(events.Gap), [])

    def test_minutes_resume_after_the_last_second(self) -> None:
        edge = SimEdge("a")
        world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250)
        world.run(2)
        # The minute begins before the edge hears of the change.
        edge.ticks = False
        world.run(2)
        set_mode(world, events.Mode.MINUTE)
        world.run(0.5)
        self.assertEqual(edge.subscribes[-1].resume_after_epoch_ms, MODE_BEGIN_MS + 59_000)
        edge.ticks = True
        world.run(1)
        self.assertEqual(ticks_by_mode(world)[-2:], [("SECOND", 59), ("MINUTE", 60)])

    def test_a_minute_that_has_not_arrived_is_covered_by_its_second(self) -> None:
        minutes = Resume(events.Mode.MINUTE, 120_000)
        for present_ms, point_ms in ((179_999, 179_998), (180_003, 179_999), (240_000, 179_999)):
            self.assertEqual(minutes.point_in(events.Mode.SECOND, present_ms), point_ms)
        self.assertEqual(minutes.point_in(events.Mode.SECOND, 130_500), 130_499)

    def test_seconds_start_at_the_present(self) -> None:
        for knows_time in (True, False):
            edge = SimEdge("a")
            world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250, mode="minute")
            world.run(20)
            if not knows_time:
                world.core.estimator.clear()
                edge.pongs = False
            estimate = world.core.estimator.estimate_lateness(world.now)
            set_mode(world, events.Mode.SECOND)
            world.run(2)
            expected = None
            if estimate is not None:
                self.assertGreater(estimate.error_us, 0)
                expected = (estimate.unix_us - estimate.error_us) // 1_000 - 1
            self.assertEqual(edge.subscribes[-1].resume_after_epoch_ms, expected)
            self.assertEqual(
                ticks_by_mode(world), [("MINUTE", 60), ("SECOND", 78), ("SECOND", 79)]
            )
            self.assertEqual(world.of(events.Gap), [])

    def test_two_changes_within_a_second_repeat_and_lose_no_tick(self) -> None:
        for ahead in (False, True):
            for knows_time in (True, False):
                edge = SimEdge("a")
                edge.frame_rate_limit = 1_000
                world = World(edge, authority_ms=MODE_BEGIN_MS + 3_050, ahead=ahead)
                world.run(3.2)
                set_mode(world, events.Mode.MINUTE)
                world.run(0.4)
                if not knows_time:
                    world.core.estimator.clear()
                    edge.pongs = False
                set_mode(world, events.Mode.SECOND)
                world.run(0.3)
                self.assertEqual(len(edge.subscribes), 3)
                # Ahead, the tick of the next second has arrived.
                last = MODE_BEGIN_MS + (7_000 if ahead else 6_000)
                expected = None
                if knows_time:
                    expected = last if ahead else edge.subscribes[-1].resume_after_epoch_ms
                    self.assertGreaterEqual(expected or 0, last)
                self.assertEqual(edge.subscribes[-1].resume_after_epoch_ms, expected)
                edge.pongs = True
                world.run(5)
                with self.subTest(ahead=ahead, knows_time=knows_time):
                    self.assertEqual(
                        ticks_by_mode(world), [("SECOND", second) for second in range(4, 12)]
                    )
                    self.assertEqual(len(world.of(events.ModeChanged)), 2)
                    self.assertEqual(world.of(events.Gap), [])

    def test_a_minute_that_is_held_delays_nothing_and_is_not_lost(self) -> None:
        edge = SimEdge("a")
        edge.frame_rate_limit = 1_000
        world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250, mode="minute", ahead=True)
        # The connection is made at 57.25, and the MINUTE tick arrives at 59.2.
        world.run(2.05)
        self.assertEqual(len(world.core.held), 1)
        edge.ticks = False
        set_mode(world, events.Mode.SECOND)
        world.run(0.01)
        self.assertEqual([type(event) for _, event in world.seen], [events.ModeChanged])
        set_mode(world, events.Mode.MINUTE)
        world.run(0.6)
        edge.ticks = True
        world.run(61)
        self.assertEqual(ticks_by_mode(world), [("MINUTE", 60), ("MINUTE", 120)])
        self.assertGreater(min(world.tick_delays_ms()), -0.5)

    def test_replayed_minutes_are_kept_when_the_mode_changes(self) -> None:
        for knows_time in (True, False):
            edge = SimEdge("a")
            edge.ticks = False
            world = World(edge, authority_ms=MODE_BEGIN_MS + 130_250, mode="minute", ahead=True)
            world.run(3)
            if not knows_time:
                world.core.estimator.clear()
                edge.pongs = False
            for minute, quality in (
                (3, events.Quality.NORMAL),
                (1, events.Quality.REPLAY),
                (2, events.Quality.REPLAY),
            ):
                epoch_ms = MODE_BEGIN_MS + 60_000 * minute
                world.core.held.push(events.Tick(events.Mode.MINUTE, epoch_ms, quality), True)
            set_mode(world, events.Mode.SECOND)
            world.run(0.5)
            with self.subTest(knows_time=knows_time):
                self.assertEqual(ticks_by_mode(world), [("MINUTE", 60), ("MINUTE", 120)])
                self.assertEqual(len(world.of(events.ModeChanged)), 1)

    def test_after_a_step_of_time_earlier_ticks_of_the_other_mode_are_no_repetitions(self) -> None:
        edge = SimEdge("a")
        world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250, random=0.0)
        world.run(20)
        set_mode(world, events.Mode.MINUTE)
        world.run(2)
        world.step_authority(-40_000)
        world.error(edge, "TIME_STEPPED")
        world.run(5)
        seen = len(ticks_by_mode(world))
        set_mode(world, events.Mode.SECOND)
        world.run(3)
        self.assertEqual(
            ticks_by_mode(world)[seen:], [("SECOND", second) for second in (45, 46, 47)]
        )

    def test_a_resume_point_that_is_given_is_used_as_it_is(self) -> None:
        edge = SimEdge("a")
        world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250)
        world.run(2)
        # Ticks of the same mode may be asked for again.
        set_mode(world, events.Mode.SECOND, MODE_BEGIN_MS + 57_000)
        world.run(1)
        self.assertEqual(
            ticks_by_mode(world), [("SECOND", second) for second in (58, 59, 58, 59, 60)]
        )
        set_mode(world, events.Mode.MINUTE, MODE_BEGIN_MS - 1)
        world.run(2)
        self.assertEqual(ticks_by_mode(world)[-2:], [("MINUTE", 0), ("MINUTE", 60)])
        set_mode(world, events.Mode.SECOND, MODE_BEGIN_MS + 60_000)
        world.run(2)
        points = [each.resume_after_epoch_ms for each in edge.subscribes[1:]]
        self.assertEqual(points, [MODE_BEGIN_MS + ms for ms in (57_000, -1, 60_000)])
        self.assertIn(("SECOND", 61), ticks_by_mode(world)[-4:])

    def test_changes_are_spaced_by_the_frame_rate_and_the_last_wish_counts(self) -> None:
        for limit, sparing, apart in (
            (0, False, 1_500),
            (0, True, 3_000),
            (1, False, 15_000),
            (5, True, 6_000),
            (1_000, False, 500),
            (1_000, True, 2_000),
        ):
            edge = SimEdge("a")
            edge.frame_rate_limit = limit
            world = World(edge, random=0.0)
            world.run(1)
            if sparing:
                world.error(edge, "RATE_LIMITED", 100)
                world.run(1)
            begin = len(edge.subscribes) - 1
            for flip in range(int(10 * apart / 1_000 * 5)):
                set_mode(world, events.Mode.MINUTE if flip % 2 == 0 else events.Mode.SECOND)
                world.run(0.1)
            set_mode(world, events.Mode.MINUTE)
            world.run(2 * apart / 1_000)
            self.assertEqual(world.core.resume.mode, events.Mode.MINUTE)
            at = edge.subscribed_at[begin:]
            with self.subTest(limit=limit, sparing=sparing):
                waits = [(after - before) / MS for before, after in zip(at, at[1:])]
                self.assertGreaterEqual(len(waits), 2)
                self.assertGreaterEqual(min(waits), apart)
                self.assertLess(min(waits), apart + 150)

    def test_at_most_one_change_is_unanswered(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(2)
        edge.ack_of_subscribe_after_ms = 4_000
        set_mode(world, events.Mode.MINUTE)
        world.run(3)
        set_mode(world, events.Mode.SECOND)
        world.run(0.9)
        self.assertEqual([each.mode for each in edge.subscribes], [0, 1])
        world.run(0.3)
        self.assertEqual([each.mode for each in edge.subscribes], [0, 1, 0])

    def test_a_mode_that_is_wanted_no_longer_is_not_asked_for(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(0.5)
        set_mode(world, events.Mode.MINUTE)
        set_mode(world, events.Mode.SECOND)
        world.run(5)
        self.assertEqual(len(edge.subscribes), 1)
        self.assertEqual(world.of(events.ModeChanged), [])

    def test_a_change_that_was_not_accepted_is_asked_for_again(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(2)
        world.input(lambda: world.core.set_mode(events.Mode.MINUTE, None))
        world.cut(edge)
        world.run(3)
        self.assertIs(world.core.resume.mode, events.Mode.MINUTE)

    def test_a_mode_that_is_wanted_without_a_connection_is_asked_for_with_the_next(self) -> None:
        for begin, wanted, point_ms, ticks in (
            # Before the first connection.
            ("second", events.Mode.MINUTE, None, [("MINUTE", 60)]),
            ("minute", events.Mode.SECOND, None, [("SECOND", s) for s in range(58, 66)]),
        ):
            edge = SimEdge("a")
            world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250, mode=begin)
            set_mode(world, wanted)
            world.run(8)
            with self.subTest("first", wanted=wanted):
                asked = [(each.mode, each.resume_after_epoch_ms) for each in edge.subscribes]
                self.assertEqual(asked, [(wanted, point_ms)])
                self.assertEqual(ticks_by_mode(world), ticks)
                self.assertEqual(len(world.of(events.ModeChanged)), 1)
        for ahead in (False, True):
            # While it comes back, after the SECOND ticks 58 and 59.
            edge = SimEdge("a")
            world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250, ahead=ahead)
            world.run(2)
            world.cut(edge)
            set_mode(world, events.Mode.MINUTE)
            world.run(8)
            with self.subTest("again", ahead=ahead):
                last_ms = MODE_BEGIN_MS + (60_000 if ahead else 59_000)
                asked = [(each.mode, each.resume_after_epoch_ms) for each in edge.subscribes]
                self.assertEqual(asked[1:], [(events.Mode.MINUTE, last_ms)])
                happened = [type(event) for _, event in world.seen]
                self.assertEqual(
                    [kind for kind in happened if kind is not events.Tick],
                    [events.Reconnecting, events.Reconnected, events.ModeChanged],
                )
                times = [second for _, second in ticks_by_mode(world)]
                self.assertEqual(times, [58, 59, 60])
                self.assertEqual(world.of(events.Gap), [])

    def test_a_change_takes_the_place_of_the_mode_only_when_the_edge_has_accepted_it(self) -> None:
        edge = SimEdge("a")
        world = World(edge, authority_ms=MODE_BEGIN_MS + 50_250)
        world.run(2)
        edge.acks_subscribe = False
        world.cut(edge)
        set_mode(world, events.Mode.MINUTE)
        world.run_until(lambda: len(edge.subscribes) == 2, 5)
        self.assertIs(world.core.resume.mode, events.Mode.SECOND)
        # The wish is withdrawn before the edge has answered, and the connection ends.
        set_mode(world, events.Mode.SECOND)
        world.cut(edge)
        edge.acks_subscribe = True
        world.run(6)
        asked = [(each.mode, each.resume_after_epoch_ms) for each in edge.subscribes]
        point_ms = MODE_BEGIN_MS + 52_000
        self.assertEqual(
            asked[1:], [(events.Mode.MINUTE, point_ms), (events.Mode.SECOND, point_ms)]
        )
        self.assertEqual(world.of(events.ModeChanged), [])
        count = len(world.ticks_ms)
        self.assertEqual(
            ticks_by_mode(world), [("SECOND", 51 + index) for index in range(count)]
        )

    def test_a_resume_point_that_is_refused_with_a_new_connection_is_not_tried_again(self) -> None:
        edge = SimEdge("a")
        world = World(edge, authority_ms=MODE_BEGIN_MS + 57_250)
        world.run(2)
        edge.refusal_of_subscribe = ErrorMsg(code="INVALID_SUBSCRIPTION", retry_after_ms=1_100)
        world.cut(edge)
        bad_ms = MODE_BEGIN_MS + 10_000_000
        set_mode(world, events.Mode.MINUTE, bad_ms)
        world.run_until(lambda: len(edge.subscribes) == 2, 5)
        edge.refusal_of_subscribe = None
        world.run(5)
        asked = [(each.mode, each.resume_after_epoch_ms) for each in edge.subscribes[1:]]
        self.assertEqual(
            asked,
            [(events.Mode.MINUTE, bad_ms), (events.Mode.MINUTE, MODE_BEGIN_MS + 59_000)],
        )
        self.assertEqual(ticks_by_mode(world)[-1], ("MINUTE", 60))

    def test_an_attempt_to_move_with_the_old_mode_is_dropped(self) -> None:
        one, other = two_edges()
        other.ack_of_subscribe_after_ms = 1_000
        world = World(one, other, random=0.0)
        world.run(2)
        world.going_away(one, 20_000)
        world.run(0.5)
        world.input(lambda: world.core.set_mode(events.Mode.MINUTE, None))
        world.run(1)
        self.assertEqual(other.subscribes[0].mode, events.Mode.SECOND)
        self.assertEqual((world.of(events.Moved), other.connections), ([], {}))
        world.run(30)
        self.assertEqual(len(world.of(events.Moved)), 1)
        self.assertIs(world.core.resume.mode, events.Mode.MINUTE)
        self.assertEqual(world.core.link and world.core.link.mode, events.Mode.MINUTE)


class Refusals(unittest.TestCase):
    def test_unknown_codes_mean_later(self) -> None:
        edge = SimEdge("a")
        world = World(edge, random=0.0)
        world.run(1)
        world.error(edge, "SOMETHING_NEW", 3_000)
        world.run(1)
        (lost,) = world.of(events.Reconnecting)
        assert isinstance(lost.why, Refused)
        self.assertEqual((lost.why.code, lost.after), ("SOMETHING_NEW", 3.0))

    def test_after_rate_limited_heartbeats_are_sparing(self) -> None:
        edge = SimEdge("a")
        world = World(edge, random=0.0)
        world.run(3)
        self.assertEqual(len(edge.heartbeats), 8)
        world.error(edge, "RATE_LIMITED", 1_000)
        del edge.heartbeats[:]
        world.run(4)
        self.assertEqual(len(edge.heartbeats), 1)

    def test_heartbeats_keep_to_the_frame_rate(self) -> None:
        for limit, interval_ms, knows_time, sparing, least_ms in (
            (1, 15_000, False, False, 1_200),
            (1, 15_000, True, False, 1_200),
            (1, 1_000, True, False, 1_200),
            (1, 1_000, True, True, 1_200),
            (1, 15_000, False, True, 2_000),
            (2, 100, True, False, 600),
            (10, 100, False, False, 120),
            (0, 150, True, False, 90),
        ):
            edge = SimEdge("a")
            edge.frame_rate_limit, edge.heartbeat_interval_ms = limit, interval_ms
            edge.knows_time = knows_time
            world = World(edge, random=0.0, ahead=True)
            world.run(3)
            if sparing:
                world.error(edge, "RATE_LIMITED", 100)
                world.run(3)
            # Long after the HEARTBEATs at the start.
            del edge.heartbeats[:]
            world.run(30)
            at = edge.heartbeats
            with self.subTest(limit=limit, interval_ms=interval_ms, knows_time=knows_time):
                waits = [(after - before) / MS for before, after in zip(at, at[1:])]
                self.assertGreaterEqual(len(waits), 5)
                self.assertGreaterEqual(min(waits), least_ms - 0.001)

    def test_no_time_at_a_single_address_is_asked_once_at_once(self) -> None:
        edge = SimEdge("a")
        world = World(edge)
        world.run(2)
        edge.refusal = ErrorMsg(code="NO_TIME", retry_after_ms=9_000)
        world.error(edge, "NO_TIME", 9_000)
        world.run(20)
        waits = [each.after for each in world.of(events.Reconnecting)]
        self.assertEqual(waits[:2], [0.25, 9.0])


if __name__ == "__main__":
    unittest.main()
