"""Authority time after stalls, suspensions and moves. The vectors have the arithmetic."""

from __future__ import annotations

import sys
import unittest

from tickstorm import _clock
from tickstorm._estimate import Estimator
from tickstorm._held import Held
from tickstorm._rate import ASSUMED_PPM, Point, RateWatch
from tickstorm._session import PongExchange
from tickstorm._units import MS, NEVER, S, US
from tickstorm.events import Mode, Tick

UNIX_US = 1_800_000_000_000_000


def exchange(sent_us: int, offset_us: int = UNIX_US, trip_us: int = 200) -> PongExchange:
    """A HEARTBEAT that was sent at a time of the machine's clock, and answered half-way."""
    at_edge = sent_us + trip_us // 2 + offset_us
    return PongExchange(sent_us, at_edge, at_edge, sent_us + trip_us, 10)


class Stalls(unittest.TestCase):
    def test_a_pong_to_a_heartbeat_from_before_a_stall_is_no_sample(self) -> None:
        estimator = Estimator()
        estimator.handle_stall(5 * S)
        estimator.handle_exchange(exchange(4_999_900))
        self.assertIsNone(estimator.estimate(5 * S + MS))
        estimator.handle_exchange(exchange(5_000_000))
        self.assertIsNotNone(estimator.estimate(5 * S + MS))

    def test_until_the_time_is_known_again_lateness_is_told_with_a_larger_error(self) -> None:
        estimator = Estimator()
        estimator.handle_exchange(exchange(1_000_000))
        estimator.handle_stall(5 * S)
        self.assertIsNone(estimator.estimate(5 * S))
        estimate = estimator.estimate_lateness(5 * S)
        assert estimate is not None
        self.assertEqual(estimate.unix_us, UNIX_US + 5_000_000)
        self.assertGreater(estimate.error_us, 1_000_000)
        estimator.handle_exchange(exchange(5_000_100))
        estimate = estimator.estimate_lateness(5 * S + MS)
        assert estimate is not None
        self.assertLess(estimate.error_us, 1_000)

    def test_a_suspension_voids_all_samples_and_moves_what_was_known(self) -> None:
        estimator = Estimator()
        estimator.handle_suspended(0, 7 * S)
        estimator.handle_exchange(exchange(1_000_000))
        self.assertFalse(estimator.handle_suspended(2 * S, 7 * S + 9 * MS))
        self.assertIsNotNone(estimator.estimate(2 * S))
        self.assertTrue(estimator.handle_suspended(3 * S, 67 * S + 9 * MS))
        self.assertIsNone(estimator.estimate(3 * S))
        estimate = estimator.estimate_lateness(3 * S)
        assert estimate is not None
        self.assertEqual(estimate.unix_us, UNIX_US + 63_000_000)

    def test_a_clear_leaves_nothing(self) -> None:
        estimator = Estimator()
        estimator.handle_exchange(exchange(1_000_000))
        estimator.handle_stall(2 * S)
        estimator.clear()
        self.assertIsNone(estimator.estimate_lateness(2 * S))
        self.assertIsNone(estimator.stalled_at)

    def test_what_another_connection_has_learned_is_taken_over(self) -> None:
        estimator = Estimator()
        estimator.handle_exchange(exchange(1_000_000, trip_us=40_000))
        other = estimator.apart()
        self.assertIsNone(other.estimate(2 * S))
        other.handle_exchange(exchange(2_000_000))
        estimator.take_over(other)
        estimate = estimator.estimate(2 * S + MS)
        assert estimate is not None
        self.assertLess(estimate.error_us, 200)

    def test_samples_from_before_a_stall_are_not_taken_over(self) -> None:
        estimator = Estimator()
        other = estimator.apart()
        other.handle_exchange(exchange(2_000_000))
        estimator.handle_stall(3 * S)
        estimator.take_over(other)
        self.assertIsNone(estimator.estimate(3 * S))

    def test_the_number_of_samples_is_bounded(self) -> None:
        estimator = Estimator()
        for number in range(1_000):
            estimator.handle_exchange(exchange(number * 1_000))
        self.assertLessEqual(len(estimator._samples), 64)


class Rates(unittest.TestCase):
    def drift(self, *offsets_us: int) -> int:
        """Returns the drift that is assumed after offsets every 10 s."""
        rate = RateWatch()
        for number, offset_us in enumerate(offsets_us):
            rate.handle_sample(Point(number * 10 * S, offset_us * US, 10 * US))
        return rate.drift_ppm

    def test_a_rate_beyond_200_ppm_is_seen_in_either_direction(self) -> None:
        for ppm in (-50_000, -1_000, -300, 300, 1_000):
            seen = self.drift(*(ppm * 10 * number for number in range(13)))
            self.assertTrue(abs(ppm) <= seen <= abs(ppm) + 2, (ppm, seen))
        self.assertEqual(self.drift(*(2_000 * number for number in range(13))), ASSUMED_PPM)

    def test_jumps_are_no_rate(self) -> None:
        jumps = [0, 300, 1_100, 1_250, 2_900, 3_000, 4_700, 5_100, 5_900]
        offsets = [jumps[number // 3] * 1_000 for number in range(27)]
        self.assertEqual(self.drift(*offsets), ASSUMED_PPM)

    def test_a_rate_is_kept_until_it_is_measured_again(self) -> None:
        rate = RateWatch()
        for second in range(0, 120, 10):
            rate.handle_sample(Point(second * S, second * 2_000 * US, 10 * US))
        self.assertGreaterEqual(rate.drift_ppm, 2_000)
        self.assertEqual(rate.apart().drift_ppm, rate.drift_ppm)
        rate.restart()
        for second in range(200, 240, 10):
            rate.handle_sample(Point(second * S, 7, 10 * US))
        self.assertGreaterEqual(rate.drift_ppm, 2_000)
        for second in range(240, 400, 10):
            rate.handle_sample(Point(second * S, 7, 10 * US))
        self.assertEqual(rate.drift_ppm, ASSUMED_PPM)


class HeldTicks(unittest.TestCase):
    def test_after_a_stall_the_last_estimate_is_void(self) -> None:
        estimator, held = Estimator(), Held()
        estimator.handle_exchange(exchange(1_000_000))
        epoch_ms = UNIX_US // 1_000 + 40_000
        held.push(Tick(Mode.SECOND, epoch_ms), ahead=True)
        self.assertLessEqual(abs(held.due(estimator, 2 * S) - 40 * S), MS)
        # All samples are too old, so the last estimate counts.
        self.assertIsNone(estimator.estimate(35 * S))
        self.assertLessEqual(abs(held.due(estimator, 35 * S) - 40 * S), MS)
        estimator.handle_stall(36 * S)
        self.assertEqual(held.due(estimator, 37 * S), NEVER)
        estimator.handle_exchange(exchange(37_000_000))
        self.assertLessEqual(abs(held.due(estimator, 38 * S) - 40 * S), MS)

    def test_at_the_end_ticks_are_released_by_the_last_estimate_or_dropped(self) -> None:
        for knows_time in (True, False):
            estimator, held = Estimator(), Held()
            if knows_time:
                estimator.handle_exchange(exchange(1_000_000))
            held.push(Tick(Mode.SECOND, UNIX_US // 1_000 + 3_000), ahead=True)
            held.due(estimator, 1 * S)
            estimator.handle_stall(2 * S)
            held.handle_end(estimator, 2 * S)
            if knows_time:
                # No earlier than at its time, given the error.
                self.assertTrue(3 * S <= held.due(estimator, 2 * S) <= 5 * S)
            else:
                self.assertEqual(len(held), 0)


class Clock(unittest.TestCase):
    def test_a_machine_that_runs_shows_no_suspension(self) -> None:
        before = _clock.suspended()
        readings = [_clock.monotonic() for _ in range(1_000)]
        self.assertEqual(readings, sorted(readings))
        if sys.platform == "linux":
            self.assertLess(abs(_clock.suspended() - before), 10 * MS)
        self.assertGreater(readings[0], 1_000 * US)


if __name__ == "__main__":
    unittest.main()
