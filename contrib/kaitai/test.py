#!/usr/bin/env python3
"""Checks tickstorm.ksy, and reads the frames of the conformance vectors by it.

The compiler of Kaitai Struct is a Java program, which this test does without. It interprets the
subset of the language that tickstorm.ksy uses, and refuses anything else, so this shows that the
description is right, but not that the compiler accepts it. It needs PyYAML.
"""

import json
import re
import struct
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parents[1] / "conformance/frames.json"
INTEGERS = {"u1": ">B", "u4": ">I", "u4le": "<I", "u8le": "<Q"}

KEYS = {
    "top": {"meta", "doc", "seq", "types", "enums"},
    "meta": {"id", "title", "file-extension", "endian", "bit-endian", "license"},
    "type": {"doc", "seq", "instances"},
    "attribute": {"id", "type", "size", "contents", "enum", "valid", "repeat", "repeat-until",
                  "doc"},
    "instance": {"value", "doc"},
}
# The fields of the messages, as docs/protocol.md numbers them.
NUMBERS = {
    "AUTH": ["username", "password", "client_id", "client_version", "token", "cookie"],
    "SUBSCRIBE": ["mode", None, None, None, "resume_after_epoch_ms", "ahead"],
    "HEARTBEAT": ["client_time_us"],
    "PONG": ["client_time_us", "received_unix_us", "sent_unix_us", "error_bound_us",
             "clock_error_us"],
    "DATA_BATCH": ["schema_version", "ticks", "sent_unix_us"],
    "ACK": ["acked_type", "heartbeat_interval_ms", "heartbeat_timeout_ms", "edge_id",
            "start_epoch_ms", "protocol_minor", "connection_id", "frame_rate_limit", "cookie"],
    "ERROR": ["code", "message", "retry_after_ms", "supported_versions", "connection_id"],
    "GOING_AWAY": ["deadline_ms", "reason"],
}


class Invalid(Exception):
    """The bytes do not fit the description."""


class Sized(list):
    """A list with the attribute that Kaitai Struct gives it."""

    @property
    def size(self):
        return len(self)


class Object:
    """An object of a type of the description."""


class Bytes:
    """A stream of bytes, which may be read by bits."""

    def __init__(self, data):
        self.data, self.at, self.bit = data, 0, 0

    def is_over(self):
        return self.at >= len(self.data)

    def take(self, count):
        assert self.bit == 0, "bits are left over"
        if self.at + count > len(self.data):
            raise Invalid("the bytes end")
        self.at += count
        return self.data[self.at - count:self.at]

    def take_bits(self, count):
        if self.is_over():
            raise Invalid("the bytes end")
        self.bit += count
        value = self.data[self.at] >> (8 - self.bit) & (1 << count) - 1
        if self.bit == 8:
            self.at, self.bit = self.at + 1, 0
        return value


class Description:
    """A description, which reads bytes."""

    def __init__(self, text):
        self.content = yaml.safe_load(text)
        self._check("top", self.content)
        self._check("meta", self.content["meta"])
        assert self.content["meta"]["endian"] == self.content["meta"]["bit-endian"] == "be"
        for kind in self.content["types"].values():
            self._check("type", kind)
            for attribute in kind["seq"]:
                self._check("attribute", attribute)
            for instance in kind.get("instances", {}).values():
                self._check("instance", instance)

    @staticmethod
    def _check(what, mapping):
        unknown = set(mapping) - KEYS[what]
        assert not unknown, f"this test does not know {unknown} of {what}"

    def read(self, data):
        return self._read_all(self.content, Bytes(data))

    def _read_all(self, kind, stream):
        found = Object()
        for attribute in kind["seq"]:
            setattr(found, attribute["id"], self._read_repeated(attribute, stream, found))
            # An instance may be used by the attributes after those that it is made of.
            self._add_instances(kind, found)
        self._add_instances(kind, found)
        return found

    def _add_instances(self, kind, found):
        for name, instance in kind.get("instances", {}).items():
            try:
                setattr(found, name, evaluate(instance["value"], found))
            except AttributeError:
                continue

    def _read_repeated(self, attribute, stream, owner):
        repeat = attribute.get("repeat")
        if repeat is None:
            return self._read(attribute, stream, owner)
        values = Sized()
        while repeat != "eos" or not stream.is_over():
            values.append(self._read(attribute, stream, owner))
            if repeat == "until" and evaluate(attribute["repeat-until"], owner, values[-1]):
                break
        return values

    def _read(self, attribute, stream, owner):
        if "contents" in attribute:
            found = stream.take(len(attribute["contents"]))
            if found != bytes(attribute["contents"]):
                raise Invalid(attribute["id"])
            return found
        kind = attribute.get("type")
        if isinstance(kind, dict):
            kind = self._switch(kind, owner)
        if "size" in attribute:
            data = stream.take(evaluate(str(attribute["size"]), owner))
            return data if kind is None else self._read_all(self.content["types"][kind],
                                                            Bytes(data))
        value = self._read_kind(kind, stream)
        valid = attribute.get("valid", value)
        most = valid.get("max") if isinstance(valid, dict) else None
        if value > most if most is not None else value != valid:
            raise Invalid(attribute["id"])
        if "enum" in attribute:
            return self.content["enums"][attribute["enum"]].get(value, value)
        return value

    def _switch(self, switch, owner):
        value = evaluate(switch["switch-on"], owner)
        for case, kind in switch["cases"].items():
            if isinstance(case, str):
                enum, name = case.split("::")
                assert name in self.content["enums"][enum].values(), case
                case = name
            if case == value:
                return kind
        return None

    def _read_kind(self, kind, stream):
        if kind in INTEGERS:
            size = struct.calcsize(INTEGERS[kind])
            return struct.unpack(INTEGERS[kind], stream.take(size))[0]
        if kind is None:
            raise Invalid("no case for this value")
        if match := re.fullmatch(r"b(\d)", kind):
            return stream.take_bits(int(match[1]))
        return self._read_all(self.content["types"][kind], stream)


def evaluate(expression, owner, last=None):
    """Evaluates an expression, most of which is the same in Python."""
    python = re.sub(r"\(([^()?]*)\?([^():]*):([^()]*)\)", r"(\2 if \1 else \3)", expression)
    names = dict(vars(owner))
    names["_"] = last
    try:
        return eval(python, {"__builtins__": {}}, names)  # only expressions of our own file
    except NameError as error:
        raise AttributeError from error


def check(case, description):
    data = bytes.fromhex(case["hex"])
    try:
        frames = description.read(data).frames
    except Invalid:
        assert not case["ok"], f"{case['id']} is not read"
        return False
    if not case["ok"]:
        # The checksum, the limits of an edge and UTF-8 are not part of the description.
        others = {"BAD_CHECKSUM", "MALFORMED_PAYLOAD", "MESSAGE_TOO_LARGE", "UNKNOWN_TYPE"}
        assert case["error"] in others, f"{case['id']} is read"
        return False
    (frame,) = frames
    assert frame.crc32c == int.from_bytes(data[-4:], "big"), case["id"]
    if "unknown_type" in case:
        assert frame.type == case["unknown_type"] and frame.payload == data[8:-4], case["id"]
        return True
    assert frame.type == case["type"].lower(), case["id"]
    check_message(case, NUMBERS[case["type"]], frame.payload, case["payload"])
    return True


def check_message(case, names, message, payload):
    """Compares the integers, the texts and the bytes of a message."""
    last = {}
    for field in message.fields:
        if field.number <= len(names):
            last[names[field.number - 1]] = field
    for name, expected in payload.items():
        if name in ("ticks", "supported_versions"):
            continue
        field = last[name]
        if field.wire_type == 2:
            found = field.value.body
            wanted = bytes.fromhex(expected) if name == "cookie" else expected.encode()
        else:
            found = field.value.value & 2**64 - 1
            wanted = {"MINUTE": 1}.get(expected, expected)
            wanted = int(wanted) & 2**64 - 1
        assert found == wanted, f"{case['id']}: {name} is {found}"


def main():
    description = Description((HERE / "tickstorm.ksy").read_text(encoding="utf-8"))
    content = json.loads(VECTORS.read_text(encoding="utf-8"))
    read = sum(check(case, description) for case in content["cases"])
    for stream in content["streams"]:
        if "error" not in stream and "cut-off" not in stream["id"]:
            frames = description.read(bytes.fromhex(stream["hex"])).frames
            assert len(frames) == len(stream["frames"]), stream["id"]
    assert read > 40, read
    print(f"tickstorm.ksy reads {read} frames of the vectors")


if __name__ == "__main__":
    main()
