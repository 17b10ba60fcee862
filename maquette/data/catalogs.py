"""Built-in pairs that people translated: the messages of programs installed on this machine, from their gettext catalogs.

Knows where systems keep them and what is no sentence in them.
"""

from __future__ import annotations

import gettext
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from maquette.data.cache import cached
from maquette.data.core import Data, Facts
from maquette.data.errors import DataError
from maquette.data.paired import paired

LANGUAGES = ("de", "fr")
NAMED = "TEXTDOMAINDIR"  # gettext's own variable for the folder of catalogs
FOLDERS = ("/usr/share/locale", "/usr/local/share/locale", f"{sys.prefix}/share/locale")
LONGEST = 400  # characters of a message
_WORDS = re.compile(r"[^\W\d_]{2,}")


def translations() -> Data:
    """Pairs, "de: No such file" -> "Datei nicht gefunden", into German and French: messages of this machine's programs.

    Their catalogs are read where systems keep them, or in the folder that the variable TEXTDOMAINDIR names, as gettext has it.
    """
    folders = _folders()
    found = {language: sorted(_catalogs(language, folders)) for language in LANGUAGES}
    if not any(found.values()):
        raise DataError(
            f"there are no message catalogs of {' or '.join(LANGUAGES)} in {', '.join(folders)}: slim images leave them out, and "
            f"other systems keep none. Name a folder that has some (de/LC_MESSAGES/*.mo) as {NAMED}, use terms or dates, or rows "
            'of your own: a .jsonl with {"source": ..., "text": ...} in each line'
        )
    key = hashlib.sha256(b"1")
    for language, files in found.items():
        for file in files:
            key.update(f"{language} {file} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    read = json.loads(cached("translations", key.hexdigest(), lambda: json.dumps(_read(found)).encode()))
    bad = [(str(file), str(reason)) for file, reason in read["bad"]]
    rows = [(re.sub(r"\d+", "0", english.lower()), f"{language}: {english}", told) for language, english, told in read["rows"]]
    if not rows:
        raise DataError(f"the message catalogs of {' and '.join(LANGUAGES)} on this machine hold no sentence")
    names = sorted({file.stem for files in found.values() for file in files})
    some = ", ".join(names[:12]) + (" and others" if len(names) > 12 else "")
    counts = ", ".join(f"{sum(row[0] == language for row in read['rows']):,} into {language}" for language in LANGUAGES)
    about = Facts(
        name="translations",
        field="text",
        kind="real",
        licence="each program's own, most of them GPL: read on this machine, not to be given on",
        attribution=f"the translators of {len(names)} programs: {some}",
        hash="",
        rows={},
        split="by English message, digits alike: held out where the first 32 bits of its SHA-1 modulo 100 are below 10",
        notes=(
            f"{counts}: of what is installed on this machine, another has others",
            "names of options and placeholders are the same in both languages, so that copying scores high",
            "a third of held-out messages have a training one with half of the same groups of five letters: judge those far from "
            "all, too",
        ),
        skipped=tuple(bad),
    )
    return paired(about, rows)


def _folders() -> tuple[str, ...]:
    """Where catalogs are looked for: in the folder that the user named, else where systems keep them."""
    named = os.environ.get(NAMED, "")
    return (named,) if named else FOLDERS


def _catalogs(language: str, folders: tuple[str, ...]) -> Iterator[Path]:
    """Files of messages; not the lists of countries and languages, which are no sentences."""
    for folder in folders:
        for file in (Path(folder) / language / "LC_MESSAGES").glob("*.mo"):
            if not file.stem.startswith("iso_"):
                yield file


def _read(found: dict[str, list[Path]]) -> dict[str, list[tuple[str, ...]]]:
    """(language, English, other) of every message worth it, each English once a language; and the files that cannot be read."""
    rows: list[tuple[str, ...]] = []
    bad: list[tuple[str, ...]] = []
    for language, files in found.items():
        first: dict[str, str] = {}
        for file in files:
            try:
                with file.open("rb") as opened:
                    catalog = gettext.GNUTranslations(opened)
            except (OSError, ValueError, UnicodeDecodeError, IndexError) as error:
                bad.append((str(file), f"no catalog that can be read: {error}"))
                continue
            for english, told in _messages(catalog):
                first.setdefault(english, told)
        rows += [(language, english, told) for english, told in first.items()]
    return {"rows": rows, "bad": bad}


def _messages(catalog: gettext.GNUTranslations) -> Iterator[tuple[str, str]]:
    """(English, other) of a catalog: the first of a plural, without contexts and marks of keys to press."""
    known: dict[str | tuple[str, int], str] = catalog._catalog  # type: ignore[attr-defined]  # there is no other way to list them
    for key, told in known.items():
        english, number = key if isinstance(key, tuple) else (key, 0)
        if number == 0 and isinstance(english, str):
            pair = _plain(english.rpartition("\x04")[2].strip(), told.strip())
            if pair[0] != pair[1] and all(_WORDS.search(side) and len(side) <= LONGEST for side in pair):
                yield pair


def _plain(english: str, told: str) -> tuple[str, str]:
    """Both without the mark before the letter that is pressed for a menu's entry, where both have one."""
    for mark in "_&":
        if english.count(mark) == told.count(mark) == 1 and len(english.split()) <= 4:
            marked = re.compile(rf"{mark}(?=\w)")
            return marked.sub("", english), marked.sub("", told)
    return english, told
