"""The catalogue of the sentences of docs/protocol.md, and which cases show each of them."""

import re
from pathlib import Path

from . import document

ROOT = Path(__file__).resolve().parents[2]
_HEAD = re.compile(r"^([a-z]+-\d\d) (.+)$")
_CHECKERS = ("vectors", "check", "scenario", "repository")
# How a test of this name begins in a file with this extension.
_TESTS = {
    ".rs": r"#\[(?:tokio::)?test\b[^]]*\]\n(?:\s*#\[.*\]\n)*\s*(?:async )?fn NAME\(",
    ".py": r"\n +(?:async )?def (?=test_)NAME\(",
    ".go": r"\nfunc (?=Test)NAME\(",
}


class Problem(Exception):
    """A fault in the catalogue or in a case."""


class Sentence:
    """One sentence: who checks it, or why nobody does."""

    def __init__(self, key, how, text, section):
        self.key, self.text, self.section = key, text, section
        self.note, self.tests, self.checked_by = None, [], []
        if how.startswith("note: "):
            self.note = how.removeprefix("note: ")
            return
        how, _, tests = how.partition("repository:")
        self.tests = _tests(tests.split())
        self.checked_by = [each for each in how.replace(",", " ").split()]
        if tests:
            self.checked_by.append("repository")


def _tests(words):
    """Returns `file::test` for each `::test` that follows a file, and a file that none follows."""
    found = []
    for word in words:
        if not word.startswith("::"):
            found.append(word)
        elif found and "::" not in found[-1]:
            found[-1] += word
        elif found:
            found.append(found[-1].partition("::")[0] + word)
        else:
            raise Problem(f"catalogue.txt has no file before {word}")
    return found


def load():
    """Returns the sentences by id, after comparing them with the document."""
    found, key, section = {}, None, None
    lines = (Path(__file__).parent / "catalogue.txt").read_text(encoding="utf-8").splitlines()
    heads = []
    for line in lines:
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("    "):
            heads[-1][2].append(line)
        elif line.startswith("  "):
            heads[-1][1].append(line)
        elif head := _HEAD.match(line):
            heads.append((head[1], [head[2]], [], section))
    for key, how, text, section in heads:
        if key in found:
            raise Problem(f"catalogue.txt has {key} twice")
        found[key] = Sentence(key, " ".join(how), document.normalise(" ".join(text)), section)
    _compare(found)
    for sentence in found.values():
        _check(sentence)
    return found


def _compare(found):
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    wanted = document.sentences(text)
    listed = [(each.section, each.text) for each in found.values()]
    for section, sentence in wanted:
        if (section, sentence) not in listed:
            raise Problem(f"catalogue.txt lacks this sentence of {section}: {sentence}")
    whole = document.normalise(text)
    for sentence in found.values():
        if (sentence.section, sentence.text) not in wanted:
            raise Problem(f"{sentence.key} is not in docs/protocol.md: {sentence.text}")
        # The document wraps a list item's lines, so only its words are compared.
        if sentence.text not in whole:
            raise Problem(f"{sentence.key} is not verbatim in docs/protocol.md: {sentence.text}")


def _check(sentence):
    unknown = [each for each in sentence.checked_by if each not in _CHECKERS]
    if unknown or not (sentence.note or sentence.checked_by):
        raise Problem(f"{sentence.key}: nobody checks it, or {unknown} is unknown")
    for test in sentence.tests:
        path, _, name = test.partition("::")
        file = ROOT / path
        if not file.is_file():
            raise Problem(f"{sentence.key} names {path}, which does not exist")
        if not name:
            raise Problem(f"{sentence.key} names {path}, but no test in it")
        begins = _TESTS[file.suffix].replace("NAME", re.escape(name))
        if not re.search(begins, file.read_text(encoding="utf-8")):
            raise Problem(f"{sentence.key} names {test}, but {path} has no such test")


def attach(sentences, files):
    """Returns the content of sentences.json: each sentence with the cases that name it."""
    cases = {key: [] for key in sentences}
    seen = set()
    document_bytes = "".join((ROOT / "docs/protocol.md").read_text(encoding="utf-8").split())
    for case in (case for content in files.values() for case in _cases(content)):
        if case["id"] in seen:
            raise Problem(f"two cases are called {case['id']}")
        seen.add(case["id"])
        if case["id"].startswith("frames/example-") and case["hex"] not in document_bytes:
            raise Problem(f"{case['id']} is not among the examples of docs/protocol.md")
        for key in case["sentence"]:
            if key not in cases:
                raise Problem(f"{case['id']} names {key}, which is not in catalogue.txt")
            cases[key].append(case["id"])
    for key, sentence in sentences.items():
        if bool(cases[key]) != ("vectors" in sentence.checked_by):
            raise Problem(f"{key} has {len(cases[key])} cases; checked by {sentence.checked_by}")
    return {
        "sentences": [
            {
                "id": key,
                "section": sentence.section,
                "sentence": sentence.text,
                "cases": cases[key],
                "checked_by": sentence.checked_by,
                **({"tests": sentence.tests} if sentence.tests else {}),
            }
            for key, sentence in sentences.items()
            if not sentence.note
        ],
        "not_tested": [
            {"id": key, "section": each.section, "sentence": each.text, "why": each.note}
            for key, each in sentences.items()
            if each.note
        ],
    }


def _cases(content):
    """Returns the cases in the lists of a file."""
    return [each for value in content.values() if isinstance(value, list) for each in value]
