"""The texts of the benchmark: the sample's 14 tasks, three more from the same packages, and 12 kinds of running text.

Everything comes through `examples/data/texts.py`; results are cached as JSON because parsing the sources takes longer
than a short training.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "data"))

from texts import TASKS, Library, Pair, make_split, squeeze

TRAIN, TEST = 1600, 200


def verb_topic(lib: Library) -> Iterator[Pair]:
    """Which lexicographer file does this verb's definition belong to?"""
    files = {30: "change", 31: "cognition", 32: "communication", 35: "contact", 36: "creation", 38: "motion",
             40: "possession", 41: "social"}  # fmt: skip
    return ((gloss, files[number]) for number, gloss in lib.synsets("verb") if number in files and len(gloss) > 8)


def kjv_book(lib: Library) -> Iterator[Pair]:
    """Which of eight books is this verse from?"""
    wanted = {"Ge", "Lev", "Judg", "Job", "Psa", "Isa", "Luke", "Heb"}
    return ((text, book) for book, text in lib.verses() if book in wanted and len(text) > 40)


def word_pos(lib: Library) -> Iterator[Pair]:
    """Is this English head word a noun, an adjective, a verb or an adverb?"""
    part = {"n": "noun", "a": "adjective", "v": "verb", "adv": "adverb"}
    entries = re.findall(r"^([A-Za-z]+) \\[^\\]+\\, (n|a|v|adv)\.", lib.dictd("dict-gcide"), re.M)
    return ((word.lower(), part[tag]) for word, tag in entries if len(word) > 3)


TASKS["verb-topic"] = (verb_topic, ("wordnet-base",))
TASKS["kjv-book"] = (kjv_book, ("bible-kjv-text",))
TASKS["word-pos"] = (word_pos, ("dict-gcide",))
ALL_TASKS = tuple(TASKS)


def _cached(path: Path, make: Callable[[], object]) -> object:
    """The JSON at `path`, made first if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(make()))
        part.rename(path)
    return json.loads(path.read_text())


def task(name: str, cache: Path) -> tuple[list[Pair], list[Pair]]:
    """Class-balanced (train, test) pairs of a task."""
    train, test = _cached(cache / "tasks" / f"{name}.json", lambda: make_split(name, Library(cache), TRAIN, TEST))  # type: ignore[misc]
    return [(t, c) for t, c in train], [(t, c) for t, c in test]


# --- running text for the decoder ----------------------------------------------------------------------------------


def _code(lib: Library) -> Iterator[str]:
    for _, source in lib.python_files():
        yield from (b for b in source.split("\n\n") if '"""' not in b and "#" not in b)


def _docstrings(lib: Library) -> Iterator[str]:
    for _, source in lib.python_files():
        yield from (squeeze(d) for d in re.findall(r'"""(.+?)"""', source, re.S))


def _messages(lib: Library, codes: str) -> Iterator[str]:
    from texts import ui_language

    return (text for text, code in ui_language(lib) if code in codes.split())


def _manual(lib: Library) -> Iterator[str]:
    from texts import man_heading

    return (text for text, _ in man_heading(lib))


def _dictionary(lib: Library, name: str) -> Iterator[str]:
    return (squeeze(block) for block in lib.dictd(name).split("\n\n")[40:12000])


def _characters(lib: Library) -> Iterator[str]:
    path = lib.fetch("unicode-data") / "usr/share/unicode/UnicodeData.txt"
    names = [line.split(";")[1] for line in path.read_text().splitlines()]
    names = [n for n in names if not n.startswith(("<", "CJK"))]
    return ("; ".join(names[i : i + 6]) for i in range(0, len(names), 6))


KINDS: dict[str, Callable[[Library], Iterator[str]]] = {
    "verses": lambda lib: (text for _, text in lib.verses()),
    "glosses": lambda lib: (gloss for part in ("noun", "verb", "adj") for _, gloss in lib.synsets(part)),
    "satire": lambda lib: _dictionary(lib, "dict-devil"),
    "jargon": lambda lib: _dictionary(lib, "dict-jargon"),
    "computing": lambda lib: _dictionary(lib, "dict-foldoc"),
    "webster": lambda lib: _dictionary(lib, "dict-gcide"),
    "german-english": lambda lib: _dictionary(lib, "dict-freedict-deu-eng"),
    "manual": _manual,
    "code": _code,
    "docstrings": _docstrings,
    "messages-north": lambda lib: _messages(lib, "da nb sv de nl"),
    "messages-south": lambda lib: _messages(lib, "ca es gl it pt"),
    "characters": _characters,
}  # the last is only in the pretraining


def kind(name: str, cache: Path) -> list[str]:
    """Shuffled documents of one kind of running text, at most a megabyte."""

    def make() -> list[str]:
        documents = [d for d in KINDS[name](Library(cache)) if len(d) > 20]
        random.Random(name).shuffle(documents)
        kept, size = [], 0
        for document in documents:
            kept.append(document[:2000])
            size += len(kept[-1])
            if size > 1_000_000:
                break
        return kept

    return list(_cached(cache / "kinds" / f"{name}.json", make))  # type: ignore[call-overload]
