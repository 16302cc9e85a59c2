#!/usr/bin/env python3
"""Writes the conformance vectors, or checks with --check that they are up to date.

This needs Python 3.9 and its standard library. It shares no code with the crates: everything
follows from docs/protocol.md. README.md describes the files.
"""

import argparse
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from generator import (  # noqa: E402
    catalogue,
    client_sessions,
    cookies,
    edge_sessions,
    estimate,
    frames,
    modes,
    moves,
    names,
    reconnect,
    runs,
)

HERE = Path(__file__).resolve().parent
FORMAT = 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and compare")
    arguments = parser.parse_args()
    try:
        files = generate()
    except (catalogue.Problem, names.Problem) as problem:
        sys.exit(f"generate.py: {problem}")
    outdated = [name for name, text in files.items() if not is_current(name, text)]
    if arguments.check:
        if outdated:
            sys.exit(f"generate.py: {', '.join(outdated)} outdated: run conformance/generate.py")
        return
    for name in outdated:
        (HERE / name).write_text(files[name], encoding="utf-8")
        print(f"wrote {name}")


def generate():
    """Returns the text of each file by its name."""
    sentences = catalogue.load()
    files = {
        "frames.json": frames.generate(),
        "sessions.json": {
            "edge_sessions": edge_sessions.generate(),
            "client_sessions": client_sessions.generate(),
            "heartbeats": runs.heartbeats(),
            "runs": runs.runs(),
        },
        "estimate.json": estimate.generate(),
        "reconnect.json": reconnect.generate(),
        "moves.json": moves.generate(),
        "modes.json": modes.generate(),
        "cookies.json": cookies.generate(),
    }
    files["sentences.json"] = catalogue.attach(sentences, files)
    names.check(files, (HERE / "README.md").read_text(encoding="utf-8"))
    return {name: to_text(content) for name, content in files.items()}


def to_text(content):
    """Returns JSON with one case a line."""
    parts = [f'"format": {FORMAT}']
    for key, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(each, ensure_ascii=False) for each in value)
            parts.append(f'"{key}": [\n{rows}\n]')
        else:
            parts.append(f'"{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def is_current(name, text):
    path = HERE / name
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
