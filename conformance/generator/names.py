"""Checks that README.md describes each member of the JSON files."""

import re

# The members of these are the fields of a message, which docs/protocol.md describes.
_MESSAGES = ("payload",)


class Problem(Exception):
    """A member that README.md does not describe."""


def check(files, readme):
    """Fails if a name of a member is not among the words that README.md marks as code."""
    codes = re.findall(r"`([^`\n]+)`", readme)
    known = {word for code in codes for word in re.findall(r"\w+", code)}
    for file, content in files.items():
        unknown = sorted(_names(content) - known)
        if unknown:
            raise Problem(f"README.md does not describe {', '.join(unknown)} of {file}")


def _names(value):
    """Returns the names of all members within a JSON value."""
    if isinstance(value, list):
        return {name for each in value for name in _names(each)}
    if not isinstance(value, dict):
        return set()
    inner = {name for key, each in value.items() if key not in _MESSAGES for name in _names(each)}
    return inner | set(value)
