"""The conformance vectors of changes of mode."""

from __future__ import annotations

import unittest
from typing import Optional

from tickstorm import Mode
from tickstorm._estimate import Estimator
from tickstorm._modes import ModeChange
from tickstorm._resume import Resume
from tickstorm._session import PongExchange
from tickstorm._units import US

from .vectors import Case, cases

NOW_US = 1_000_000_000


def epoch_of(value: Optional[str]) -> Optional[int]:
    return None if value is None else int(value)


def estimator_of(present: Optional[Case]) -> Estimator:
    """Returns an estimator that knows `present` at `NOW_US`."""
    estimator = Estimator()
    if present is not None:
        time_us = int(present["authority_us"])
        pong = PongExchange(NOW_US, time_us, time_us, NOW_US, present["error_us"])
        estimator.handle_exchange(pong)
    return estimator


class Modes(unittest.TestCase):
    """`modes`: the resume point of a change of mode."""

    def test_resume_points(self) -> None:
        for case in cases("modes.json", "modes"):
            with self.subTest(case["id"]):
                self.assertEqual(self.asked(case), epoch_of(case["resume_after_epoch_ms"]))

    def asked(self, case: Case) -> Optional[int]:
        """Returns the resume point of the SUBSCRIBE for the new mode."""
        old, new = Mode[case["old_mode"]], Mode[case["new_mode"]]
        last_ms = int(case["last_epoch_ms"])
        resume = Resume(new, epoch_of(case["received_before_epoch_ms"]))
        resume.handle_change(old, last_ms, last_ms, None)
        change = ModeChange()
        change.want(new, None, old)
        self.assertTrue(change.is_wanted(old))
        request = change.request(resume, estimator_of(case["present"]), False, NOW_US * US)
        self.assertIs(request.mode, new)
        return request.resume_after_ms


if __name__ == "__main__":
    unittest.main()
