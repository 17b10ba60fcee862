"""Built-in prose and pairs from what installed Python libraries say of themselves. Knows where their sources lie, imports none.

What is read once is kept on disk: reading 50 MB of source takes half a minute.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from maquette.data.cache import cached
from maquette.data.core import Column, Data, Facts, text_data
from maquette.data.packages import place_of, version_of
from maquette.data.paired import paired
from maquette.data.python_source import LEFT_OUT, PROSE, RULE, facts_of, sources
from maquette.data.shares import held_out, sha1

PACKAGES = ("numpy", "scipy", "sklearn", "matplotlib", "sympy", "networkx")  # torch needs some, this toolkit the others
_LICENCES = {"matplotlib": "Matplotlib's (PSF-like)"}
_TESTS = {"tests", "test", "testing", "conftest.py"}
# where a docstring stops telling and begins to list
_SECTION = re.compile(
    r"^(?:[\w ]+\n *[-=~^]{3,} *$"
    r"|(?:Args|Arguments|Parameters|Returns?|Yields|Raises|Examples?|Notes?|Usage|References|See [Aa]lso) *:? *$"
    r"|:\w+[^:\n]*:|\.\. | *>>> )",
    re.MULTILINE,
)
SAID = (20, 120)  # characters of a summary
CODE = (40, 1000)  # characters of a function: a shorter one says nothing, of a longer one the rest is left out
Said = tuple[str, str, str]  # file, name within it, docstring


def docstrings() -> Data:
    """Docstrings of the standard library and of numpy, scipy, sklearn, matplotlib, sympy and networkx: 23,700 texts, 19 MB."""
    return _of("docstrings", _texts(_every()))


def prose() -> Data:
    """Docstrings as in `docstrings` and the topics of Python's `help()`: 23,800 texts, 19.5 MB of English about programs."""
    return _of("prose", [*_texts(_every()), *topics()])


def summaries() -> Data:
    """Pairs, what a docstring tells -> its first line: 6,700 of installed libraries."""
    rows = [(path, told[1], told[0]) for path, _, text in _every() if (told := summary_of(text)) and told[1]]
    notes = ("3 % of held-out rows have a near twin in training; phrases repeat: a nearest neighbour's summary scores high",)
    return paired(_about("summaries", notes, found=True), [row for row in rows if len(row[1]) >= 2 * len(row[2])])


def apiqa() -> Data:
    """Pairs, "What does textwrap.dedent do?" -> what its docstring says first: 5,900 of Python's standard library."""
    rows = []
    for path, name, text in _every(own=True):
        told = summary_of(text)
        if name and told:
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            rows.append((path, f"What does {module}.{name} do?", told[0]))
    notes = ("questions are templated", "an answer that was never seen can be guessed from its name alone: most are memory")
    return paired(_about("apiqa", notes), rows)


def documented() -> Data:
    """Pairs, what a docstring says first of a function -> its code without it: 21,000 of installed libraries."""
    rows = [(path, said, code[: CODE[1]]) for path, said, code in _read("documented", _coded) if len(code) >= CODE[0]]
    notes = (
        f"of a function longer than {CODE[1]:,} characters the beginning",
        "names in the code are often words of its docstring: finding by shared words scores high",
    )
    return paired(_about("documented", notes, found=True), rows)


def summary_of(text: str) -> tuple[str, str] | None:
    """A docstring's first paragraph on one line, and what it tells after that up to its first section; None = no sentence."""
    first, _, rest = text.strip().partition("\n\n")
    line = " ".join(first.split())
    if not SAID[0] <= len(line) <= SAID[1] or _SECTION.match(first) or " " not in line:
        return None
    end = _SECTION.search(rest)
    return line, rest[: end.start() if end else len(rest)].strip()


def topics() -> list[tuple[str, str]]:
    """(path/topic, text) of Python's `help()`."""
    from pydoc_data.topics import topics as known

    return [(f"pydoc_data/topics/{topic}", text.strip() + "\n") for topic, text in known.items()]


def _noted(about: Facts, notes: tuple[str, ...]) -> Facts:
    return replace(about, notes=(*about.notes, *notes))


def _of(name: str, pairs: list[tuple[str, str]]) -> Data:
    """Data of (path, text), parted by path."""
    columns: dict[str, dict[str, Column]] = {
        part: {"text": [text for path, text in pairs if held_out(sha1(path.encode())) is held]}
        for part, held in (("train", False), ("held", True))
    }
    notes = ("3.5 % of held-out texts have a near twin in training: half of their groups of three words are the same",)
    return text_data(_about(name, notes, found=True), columns)


def _about(name: str, notes: tuple[str, ...], found: bool = False) -> Facts:
    """Facts of what is read from these libraries; where not `found`, from Python's own alone."""
    about = facts_of(name)
    here = [package for package in PACKAGES if place_of(package)] if found else []
    absent = [package for package in PACKAGES if found and package not in here]
    licences = dict.fromkeys(["PSF-2.0", *(_LICENCES.get(package, "BSD-3-Clause") for package in here)])
    versions = ", ".join(f"{package} {version_of(package)}" for package in here)
    more = (f"{', '.join(absent)} not installed: nothing of theirs",) if absent else ()
    return _noted(
        Facts(
            name=name,
            field="text",
            kind="real",
            licence="; ".join(licences),
            attribution=f"{about.attribution}" + (f"; {versions} and their contributors" if versions else ""),
            hash="",
            rows={},
            split=RULE,
            notes=about.notes,
        ),
        (*(("differs between versions of the libraries",) if here else ()), *more, *notes),
    )


def _texts(found: Sequence[Said]) -> list[tuple[str, str]]:
    """(path, text), each text of at least PROSE characters once."""
    first: dict[str, str] = {}
    for path, _, text in found:
        if len(text) >= PROSE:
            first.setdefault(text, path)
    return [(path, text) for text, path in first.items()]


def _every(own: bool = False) -> list[Said]:
    """Every docstring of the libraries that are here; of Python's own alone where `own`."""
    return _read("docstrings", _said, own)


def _read(name: str, of: Callable[[str, str], Iterable[Said]], own: bool = False) -> list[Said]:
    """What there is of every file, kept on disk under a name."""
    packages = [] if own else [(package, root) for package in PACKAGES if (root := place_of(package))]
    library = sources()[0]
    key = hashlib.sha256(b"1")
    for path, text in library.items():
        key.update(f"{path}\n{text}".encode())
    files: dict[str, Path] = {}
    for package, root in packages:
        key.update(f"{package} {version_of(package)}".encode())
        files |= dict(files_of(package, root))

    def read() -> bytes:
        texts = {**library, **{path: file.read_text("utf-8", errors="replace") for path, file in files.items()}}
        return json.dumps([said for path, text in texts.items() for said in of(path, text)]).encode()

    return [(path, what, text) for path, what, text in json.loads(cached(name, key.hexdigest(), read))]


def files_of(package: str, root: Path) -> Iterator[tuple[str, Path]]:
    """(package/path, file) of a package's sources, without its tests, in path order."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(folder for folder in folders if folder not in LEFT_OUT | _TESTS)
        for name in sorted(names):
            if name.endswith(".py") and name not in _TESTS and not name.startswith("test_"):
                yield f"{package}/{Path(place, name).relative_to(root).as_posix()}", Path(place, name)


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _defined(text: str) -> Iterator[tuple[str, _Documented]]:
    """What a source defines that may have a docstring, itself first, by its dotted name; nothing of what is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    left: list[tuple[str, _Documented]] = [("", tree)]
    while left:
        name, node = left.pop(0)
        yield name, node
        inner = [one for one in node.body if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        left += [(f"{name}.{one.name}".lstrip("."), one) for one in inner]


def _said(path: str, text: str) -> Iterator[Said]:
    """Every docstring of a file, under the dotted name of what it is of ("" = the file)."""
    for name, node in _defined(text):
        said = ast.get_docstring(node, clean=False)
        if said and (clean := inspect.cleandoc(said)):
            yield path, name, clean


def _coded(path: str, text: str) -> Iterator[Said]:
    """(path, summary, code without the docstring) of every function of a file that has both."""
    lines = text.splitlines()
    for _, node in _defined(text):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) > 1:
            said = ast.get_docstring(node, clean=False)
            told = summary_of(inspect.cleandoc(said)) if said else None
            if told:
                at = node.body[0]
                code = [*lines[node.lineno - 1 : at.lineno - 1], *lines[at.end_lineno : node.end_lineno]]
                yield path, told[0], textwrap.dedent("\n".join(code)).strip()
