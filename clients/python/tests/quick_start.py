"""Runs the examples of the README against `tickstorm dev`, whose path is the argument, until each
has printed three ticks. `cargo xtask test clients` does this where only the wheel is installed."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator

TICKS = 3


def main() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert len(examples) == 2, "the README has another number of examples"
    with dev(sys.argv[1]) as address:
        for example in examples:
            assert "127.0.0.1:8080" in example
            run(example.replace("127.0.0.1:8080", address))


@contextlib.contextmanager
def dev(program: "str | os.PathLike[str]") -> Iterator[str]:
    """Runs `tickstorm dev`, and returns its address."""
    environment = {**os.environ, "LISTEN_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0"}
    with subprocess.Popen(
        [program, "dev"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            yield address_of(server)
        finally:
            server.kill()


def address_of(server: "subprocess.Popen[str]") -> str:
    """Returns the address that the server prints."""
    assert server.stdout is not None
    for line in server.stdout:
        found = re.match(r"\s+clients\s+(\S+)", line)
        if found:
            return found[1]
    raise AssertionError("tickstorm dev has printed no address")


def run(example: str) -> None:
    """Runs an example until it has printed some ticks."""
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", example], stdout=subprocess.PIPE, text=True
    ) as client:
        try:
            assert client.stdout is not None
            lines = [client.stdout.readline().strip() for _ in range(TICKS)]
        finally:
            client.kill()
    print("\n".join(lines))
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00 (NORMAL|REPLAY|HOLDOVER)"
    for line in lines:
        assert re.fullmatch(pattern, line), f"{line!r} is not a tick"
    assert len(set(lines)) == TICKS


if __name__ == "__main__":
    main()
