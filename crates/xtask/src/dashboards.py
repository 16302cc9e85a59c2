"""Validates Grafana's dashboards in the JSON files that are given, by the types in Grafana's
Foundation SDK, which are generated from Grafana's own schema."""

import json
import sys
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# Annotations of a source of data have fields of their own, which the schema leaves open.
OPEN = {"expr", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}

# The only value that the schema allows moves links and annotations into a menu.
OPTIONAL = {"placement"}


def misread(given, known, path):
    """Yields the fields that the types do not know, or read as another value."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            at = f"{path}.{name}"
            is_open = name in OPEN and ".annotations.list" in path
            if name in known:
                yield from misread(value, known[name], at)
            elif not is_open and value is not None:
                yield f"{at} is unknown"
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for index, pair in enumerate(zip(given, known)):
            yield from misread(*pair, f"{path}[{index}]")
    elif given != known:
        yield f"{path} is {given!r}, which is read as {known!r}"


def missing(given, typed, path):
    """Yields the fields that the types require and that are not given."""
    if isinstance(given, list):
        for index, pair in enumerate(zip(given, typed)):
            yield from missing(*pair, f"{path}[{index}]")
    elif isinstance(given, dict):
        fields = getattr(type(typed), "__annotations__", {})
        for attribute, annotation in fields.items():
            first, *others = attribute.removesuffix("_val").split("_")
            name = first + "".join(word.capitalize() for word in others)
            if name in given:
                yield from missing(given[name], getattr(typed, attribute), f"{path}.{name}")
            elif name not in OPTIONAL and not str(annotation).startswith("typing.Optional"):
                yield f"{path}.{name} is missing"


register_default_plugins()
panels = 0
faults = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        given = json.load(file)
    typed = Dashboard.from_json(given)
    known = json.loads(JSONEncoder().encode(typed))
    found = [*misread(given, known, ""), *missing(given, typed, "")]
    faults += [f"{path}: {fault}" for fault in found]
    panels += len(given["panels"])
if faults or panels == 0:
    sys.exit("\n".join(faults) or "there was nothing to validate")
print(f"{len(sys.argv) - 1} dashboards are valid")
