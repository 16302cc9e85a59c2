#!/usr/bin/env python3
"""Runs tshark with the dissector over session.pcap and over the frames of the conformance vectors.

With --write, it writes expected.txt instead of comparing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

from make_capture import Capture, Connection  # noqa: E402

VECTORS = HERE.parents[1] / "conformance/frames.json"
MODES = {"SECOND": 0, "MINUTE": 1}
QUALITIES = {"NORMAL": 0, "HOLDOVER": 1, "REPLAY": 2}
EXPERTS = {
    "BAD_MAGIC": "magic",
    "UNSUPPORTED_VERSION": "version",
    "UNKNOWN_TYPE": "refused_type",
    "MESSAGE_TOO_LARGE": "length",
    "BAD_CHECKSUM": "checksum",
    "MALFORMED_PAYLOAD": "payload",
}
GOOD = bytes.fromhex("f57d010300000000bc04cd7d")


def tshark(capture, *arguments):
    command = ["tshark", "-X", f"lua_script:{HERE / 'tickstorm.lua'}", "-r", str(capture)]
    run = subprocess.run([*command, *arguments], capture_output=True, check=False)
    errors = run.stderr.decode()
    problems = [line for line in errors.splitlines() if "Running as user" not in line]
    if run.returncode or problems:
        sys.exit(f"tshark: {problems or run.returncode}")
    return run.stdout.decode()


def shown(capture, *arguments):
    """Returns the summaries, and what the dissector shows of each packet."""
    rows = tshark(capture, *arguments, "-T", "fields", "-e", "frame.number", "-e",
                  "_ws.col.Protocol", "-e", "_ws.col.Info")
    summary = [row for row in rows.splitlines() if "\tTCP\t" not in row]
    tree = tshark(capture, *arguments, "-O", "tickstorm", "-Y", "tickstorm").splitlines()
    others = ("Frame ", "Raw packet", "Internet Protocol", "Transmission Control")
    return "\n".join([*summary, "", *(row for row in tree if not row.startswith(others)), ""])


def check_session(write):
    session, expected = HERE / "session.pcap", HERE / "expected.txt"
    found = shown(session)
    if write:
        expected.write_text(found, encoding="utf-8")
    elif found != expected.read_text(encoding="utf-8"):
        Path("found.txt").write_text(found, encoding="utf-8")
        sys.exit("tshark shows session.pcap otherwise than expected.txt: see found.txt")
    apart = tshark(session, "-o", "tickstorm.desegment:FALSE", "-Y", "tickstorm.expert.cut")
    assert apart, "without reassembly, a part of a frame is told"
    moved = tshark(session, "-o", "tickstorm.ports:9000", "-Y", "tcp.port == 8080 && tickstorm")
    assert moved, "the magic is enough at another port"


def check_vectors():
    cases = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
    capture, used = Capture(), []
    for case in cases:
        data = bytes.fromhex(case["hex"])
        is_cut = len(data) < 12 or len(data) < 12 + int.from_bytes(data[4:8], "big")
        # The limits of an edge are no faults of a frame, and a frame that is cut off is not shown.
        is_ours = case["ok"] or case.get("error") in ("BAD_MAGIC", "UNSUPPORTED_VERSION")
        if not is_ours and is_cut and case["id"] not in ("frames/payload-65537",):
            continue
        # TCP over IPv4 has at most 65,495 bytes in a packet.
        pieces = [data[at:at + 60_000] for at in range(0, len(data), 60_000)]
        Connection(capture, 20_000 + len(used)).send("client", GOOD, *pieces)
        used.append(case)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vectors.pcap"
        path.write_bytes(capture.bytes())
        rows = json.loads(tshark(path, "-T", "json", "-J", "tickstorm tcp", "-Y", "tickstorm",
                                 "--no-duplicate-keys"))
    by_port = {}
    for row in rows:
        layers = row["_source"]["layers"]
        by_port.setdefault(int(layers["tcp"]["tcp.srcport"]), []).append(layers["tickstorm"])
    for number, case in enumerate(used):
        found = by_port[20_000 + number]
        assert len(found) == 2, f"{case['id']}: {len(found)} frames"
        check_frame(case, found[1])
    print(f"{len(used)} of {len(cases)} frames of the vectors are shown as they should be")


def check_frame(case, found):
    fields = dict(_flat(found))
    if not case["ok"]:
        name = f"tickstorm.expert.{EXPERTS[case['error']]}"
        assert name in fields, f"{case['id']}: {sorted(fields)} without {name}"
        return
    assert fields["tickstorm.crc.valid"] in (["1"], ["True"]), case["id"]
    if "unknown_type" in case:
        assert fields["tickstorm.type"] == [f"0x{case['unknown_type']:02x}"], case["id"]
        return
    expected = dict(_expected(case["type"].lower(), case["payload"]))
    prefix = f"tickstorm.{case['type'].lower()}."
    own = {key: value for key, value in fields.items()
           if key.startswith((prefix, "tickstorm.tick.")) and key != "tickstorm.tick.time"}
    # A default value may be on the wire.
    own = {key: value for key, value in own.items()
           if key in expected or any(each not in ("0", "") for each in value)}
    if case["id"].endswith("-twice"):
        own = {key: value[-1:] for key, value in own.items()}
    assert own == expected, f"{case['id']}: {own} instead of {expected}"


def _expected(message, payload):
    for name, value in payload.items():
        if name == "ticks":
            merged = {}
            for tick in value:
                for key, each in _expected("tick", tick):
                    merged.setdefault(key, []).extend(each)
            yield from merged.items()
            continue
        values = value if isinstance(value, list) else [value]
        yield f"tickstorm.{message}.{name}", [_text(name, each) for each in values]


def _text(name, value):
    if name == "cookie":
        return ":".join(value[at:at + 2] for at in range(0, len(value), 2))
    if name == "mode":
        value = MODES.get(value, value)
    elif name == "quality":
        value = QUALITIES.get(value, value)
    return "1" if value is True else str(value)


def _flat(value):
    """Returns the fields of a tree by name, each with the list of its values."""
    found = {}

    def visit(node):
        for key, each in node.items():
            for one in each if isinstance(each, list) else [each]:
                if isinstance(one, dict):
                    found.setdefault(key, [])
                    visit(one)
                else:
                    found.setdefault(key, []).append(one)

    visit(value)
    return found.items()


if __name__ == "__main__":
    check_session("--write" in sys.argv[1:])
    check_vectors()
