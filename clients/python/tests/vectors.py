"""The conformance vectors of this repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List

DIRECTORY = Path(
    os.environ.get("TICKSTORM_CONFORMANCE", Path(__file__).parents[3] / "conformance")
)

KNOWN = {
    "frames.json": ["checksums", "cases", "streams"],
    "sessions.json": ["client_sessions", "heartbeats", "runs"],
    "estimate.json": ["cases"],
    "reconnect.json": ["codes", "comebacks"],
    "moves.json": ["moves"],
    "modes.json": ["modes"],
}
"""The lists of cases of a client, by file. `edge_sessions` are for edges."""
NOT_FOR_CLIENTS = {"cookies.json", "sentences.json"}

Case = Dict[str, Any]


def cases(file: str, kind: str) -> List[Case]:
    """Returns the cases of a list, of which there must be some."""
    found = load(file)[kind]
    assert found, f"{file} has no {kind}"
    result: List[Case] = found
    return result


def load(file: str) -> Dict[str, Any]:
    """Returns the content of a file."""
    content: Dict[str, Any] = json.loads((DIRECTORY / file).read_text(encoding="utf-8"))
    assert content["format"] == 1, f"{file} has format {content['format']}"
    return content
