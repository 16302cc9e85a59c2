"""Splits docs/protocol.md into sections and sentences.

A sentence is what ends with a full stop, a colon before a new line, or the end of a paragraph, a
list item or a table row. Code blocks are left out, because the vectors contain their frames.
"""

import re

_END = re.compile(r"(?<=[.?!])(?:\*\*)?\s+(?=[A-Z*`([0-9_])")
_RULE = re.compile(r"^\|[-|]+\|$")
_MARKER = re.compile(r"^(- |\d+\. )")
_TITLE = re.compile(r"^\*\*[^*]*[.:]\*\*$")


def normalise(text):
    """Returns `text` with each run of whitespace replaced by one space."""
    return " ".join(text.split())


def sentences(document):
    """Returns (section, sentence) for each sentence of the document, in order."""
    found = []
    section = ""
    for kind, block in _blocks(document):
        if kind == "heading":
            section = block.lstrip("# ")
        elif kind == "row":
            found.append((section, block))
        else:
            found.extend((section, part) for part in _split(block))
    return found


def _split(block):
    block = _MARKER.sub("", block)
    parts, start = [], 0
    for end in _END.finditer(block):
        parts.append(block[start:end.start()] + ("**" if "**" in end.group() else ""))
        start = end.end()
    parts.append(block[start:])
    return [part for part in parts if part and not _TITLE.match(part)]


def _blocks(document):
    """Yields headings, table rows, and the paragraphs and list items between them."""
    lines, in_code, row = [], False, None
    for line in document.splitlines() + [""]:
        text = line.strip()
        fence = text.startswith("```")
        is_row = text.startswith("|")
        starts = _MARKER.match(line)
        if in_code or fence or not text or is_row or starts or text.startswith("#"):
            if lines:
                yield "text", normalise(" ".join(lines))
            lines = []
        if row and not is_row:
            yield "row", row
            row = None
        if fence:
            in_code = not in_code
        elif in_code or not text:
            continue
        elif text.startswith("#"):
            yield "heading", text
        elif is_row:
            if _RULE.match(text):
                row = None  # the row above it is the table's heading
                continue
            if row:
                yield "row", row
            row = normalise(text)
        else:
            lines.append(text)
