"""Frames, sessions, estimates and codes, checked against the conformance vectors."""

from __future__ import annotations

import unittest
from typing import Any, Dict, List, Optional, Tuple

from tickstorm import _messages as messages
from tickstorm._crc32c import crc32c
from tickstorm._estimate import Estimator
from tickstorm._frames import MESSAGE_BY_TYPE, Decoder, FrameType, encode_frame
from tickstorm._resume import Resume
from tickstorm._session import PongExchange
from tickstorm._units import US
from tickstorm._wire import Kind, Message
from tickstorm.errors import COME_BACK_BY_CODE, ComeBack, ProtocolError
from tickstorm.events import Mode, Quality

from .vectors import DIRECTORY, KNOWN, NOT_FOR_CLIENTS, Case, cases, load

ENUMS = {"mode": Mode, "quality": Quality}


class Files(unittest.TestCase):
    def test_every_file_and_every_list_of_cases_is_known(self) -> None:
        files = {path.name for path in DIRECTORY.glob("*.json")}
        self.assertEqual(files, {*KNOWN, *NOT_FOR_CLIENTS})
        for file, kinds in KNOWN.items():
            lists = {name for name, value in load(file).items() if isinstance(value, list)}
            self.assertEqual(lists - {"edge_sessions"}, set(kinds), file)
            for kind in kinds:
                self.assertGreater(len(cases(file, kind)), 0)


def as_json(message: Message) -> Dict[str, Any]:
    """Returns a message as the vectors show it."""
    shown: Dict[str, Any] = {}
    for field in message.FIELDS.values():
        value = getattr(message, field.name)
        if value is None or (not value and field.kind is not Kind.OPTIONAL_INT64):
            continue
        if field.kind in (Kind.INT64, Kind.OPTIONAL_INT64):
            value = str(value)
        elif field.kind is Kind.BYTES:
            value = value.hex()
        elif field.kind is Kind.ENUM:
            known = ENUMS[field.name]
            value = known(value).name if value in list(known) else value
        elif field.kind is Kind.MESSAGES:
            value = [as_json(each) for each in value]
        shown[field.name] = value
    return shown


def from_json(kind: type, shown: Dict[str, Any]) -> Message:
    """Returns the message that the vectors show."""
    message: Message = kind()
    for field in message.FIELDS.values():
        if field.name not in shown:
            continue
        value = shown[field.name]
        if field.kind in (Kind.INT64, Kind.OPTIONAL_INT64):
            value = int(value)
        elif field.kind is Kind.BYTES:
            value = bytes.fromhex(value)
        elif field.kind is Kind.ENUM and isinstance(value, str):
            value = ENUMS[field.name][value].value
        elif field.kind is Kind.MESSAGES:
            value = [from_json(messages.WireTick, each) for each in value]
        setattr(message, field.name, value)
    return message


def read(pieces: List[bytes]) -> Tuple[List[Any], Optional[Tuple[str, int]]]:
    """Reads frames in pieces. Returns them, and the error with the number of bytes before it."""
    decoder, count = Decoder(), 0
    frames: List[Any] = []
    for piece in pieces:
        decoder.feed(piece)
        count += len(piece)
        try:
            while True:
                frame = decoder.poll()
                if frame is None:
                    break
                message = frame.decode()
                if message is None:
                    frames.append(frame.type_byte)
                else:
                    frames.append((FrameType(frame.type_byte).name, as_json(message)))
        except ProtocolError as error:
            return frames, (error.kind, count)
    return frames, None


def shown(frame: Case) -> Any:
    """Returns a frame of a case as :func:`read` does."""
    if "unknown_type" in frame:
        return frame["unknown_type"]
    return (frame["type"], frame["payload"])


class Frames(unittest.TestCase):
    def test_checksums(self) -> None:
        for case in cases("frames.json", "checksums"):
            with self.subTest(case["id"]):
                self.assertEqual(f"{crc32c(bytes.fromhex(case['hex'])):08x}", case["crc32c"])

    def test_single_frames(self) -> None:
        ours = [c for c in cases("frames.json", "cases") if c["reader"] in ("client", "both")]
        self.assertGreater(len(ours), 0)
        for case in ours:
            with self.subTest(case["id"]):
                data = bytes.fromhex(case["hex"])
                if case["ok"]:
                    self.assertEqual(read([data]), ([shown(case)], None))
                else:
                    byte_by_byte = [data[at : at + 1] for at in range(len(data))]
                    self.assertEqual(
                        read(byte_by_byte), ([], (case["error"], case["after_bytes"]))
                    )

    def test_frames_are_written_as_the_vectors_have_them(self) -> None:
        canonical = [case for case in cases("frames.json", "cases") if case.get("canonical")]
        self.assertGreater(len(canonical), 0)
        for case in canonical:
            with self.subTest(case["id"]):
                frame_type = FrameType[case["type"]]
                message = from_json(MESSAGE_BY_TYPE[frame_type], case["payload"])
                self.assertEqual(encode_frame(frame_type, message).hex(), case["hex"])

    def test_streams_however_they_are_cut(self) -> None:
        ours = [c for c in cases("frames.json", "streams") if c["reader"] in ("client", "both")]
        self.assertGreater(len(ours), 0)
        for case in ours:
            with self.subTest(case["id"]):
                data = bytes.fromhex(case["hex"])
                frames = [shown(frame) for frame in case["frames"]]
                error = case.get("error")
                single = [data[at : at + 1] for at in range(len(data))]
                expected = (error, case["after_bytes"]) if error else None
                self.assertEqual(read(single), (frames, expected))
                for at in range(len(data) + 1):
                    found, failed = read([data[:at], data[at:]])
                    self.assertEqual((found, failed and failed[0]), (frames, error))


class Codes(unittest.TestCase):
    def test_each_code_says_how_to_come_back(self) -> None:
        codes = cases("reconnect.json", "codes")
        self.assertEqual({case["code"] for case in codes}, set(COME_BACK_BY_CODE))
        for case in codes:
            with self.subTest(case["id"]):
                come_back = COME_BACK_BY_CODE[case["code"]]
                without = Resume(Mode.SECOND, None).classify(come_back)
                self.assertIs(without, come_back_of(case["come_back"]))
                if "with_resume_point" in case:
                    expected = come_back_of(case["with_resume_point"]["come_back"])
                    self.assertIs(Resume(Mode.SECOND, 0).classify(come_back), expected)


def come_back_of(text: str) -> ComeBack:
    """Returns how to come back, from the words of the vectors."""
    words = {
        "once more with it, then without": ComeBack.RETRY_RESUME_ONCE,
        "at once, without the resume point": ComeBack.AT_ONCE_WITHOUT_RESUME,
    }
    return words.get(text) or ComeBack(text)


class Estimates(unittest.TestCase):
    def test_estimates(self) -> None:
        tolerance = load("estimate.json")["tolerance_us"]
        for case in cases("estimate.json", "cases"):
            with self.subTest(case["id"]):
                self.play(case, tolerance)

    def play(self, case: Case, tolerance: int) -> None:
        estimator = Estimator()
        for step in case["steps"]:
            if "pong" in step:
                pong = {name: int(value) for name, value in step["pong"].items()}
                estimator.handle_exchange(PongExchange(**pong))
            elif "stall_at_us" in step:
                estimator.handle_stall(int(step["stall_at_us"]) * US)
            elif "new_connection" in step:
                estimator.handle_connection()
            else:
                self.compare(estimator, step, tolerance)

    def compare(self, estimator: Estimator, step: Case, tolerance: int) -> None:
        at_us, expected = int(step["at_us"]), step["expect"]
        estimate = estimator.estimate(at_us * US)
        if expected is None:
            self.assertIsNone(estimate)
            return
        assert estimate is not None, step
        offset_us = estimate.unix_us - at_us
        self.assertLessEqual(abs(offset_us - int(expected["offset_us"])), tolerance)
        error_us = expected["error_us"]
        low, high = error_us if isinstance(error_us, list) else (error_us, error_us)
        self.assertGreaterEqual(estimate.error_us, low - tolerance)
        self.assertLessEqual(estimate.error_us, high + tolerance)


if __name__ == "__main__":
    unittest.main()
