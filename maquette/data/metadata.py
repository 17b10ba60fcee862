"""What a folder says of its images: classes from sub-folders, labels and captions from metadata, as the hub's imagefolder.

Knows names and rows, opens no image.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from maquette.data.errors import DataError
from maquette.data.images import Picture
from maquette.data.listing import METADATA, File

Told = dict[str, tuple[str | None, str | None]]  # image name -> (label, caption)


def described(kept: list[File], files: list[File]) -> tuple[list[Picture], tuple[str, ...], list[tuple[str, str]], list[str]]:
    """Pictures of files, labelled by metadata, else by class folders; captioned by metadata, else by a .txt beside each."""
    told, bad = _metadata(files, {file.name for file in kept})
    notes: list[str] = []
    if told:
        bad += [(file.name, "has no row in the metadata") for file in kept if file.name not in told]
        kept = [file for file in kept if file.name in told]
    else:
        told, notes = _beside(kept, files)
    classes = class_names({label for label, _ in told.values() if label is not None})
    pictures = [Picture(f.name, f.open, f.part, *told[f.name]) for f in kept]
    return pictures, classes, bad, notes


def _beside(kept: list[File], files: list[File]) -> tuple[Told, list[str]]:
    """Labels from folders, captions from the .txt beside each image, where there are any."""
    labels, notes = _folders(kept)
    there = {file.name: file.path for file in files if file.name.endswith(".txt")}
    texts = [there.get(str(PurePosixPath(file.name).with_suffix(".txt"))) for file in kept]
    missing = sum(path is None for path in texts)
    if missing == len(kept):
        return {file.name: (label, None) for file, label in zip(kept, labels, strict=True)}, notes
    if missing:
        notes.append(f"{missing} images have no .txt beside them: their caption is empty")
    captions = ["" if path is None else path.read_text(encoding="utf-8", errors="replace").strip() for path in texts]
    return {file.name: said for file, *said in zip(kept, labels, captions, strict=True)}, notes  # type: ignore[misc]


def _folders(kept: list[File]) -> tuple[list[str | None], list[str]]:
    """Each file's class: the folder it is in, where all lie equally deep in more than one; else no classes."""
    folders = [posixpath.dirname(file.inner) for file in kept]
    if len(set(folders)) > 1 and len({folder.count("/") + bool(folder) for folder in folders}) == 1:
        return list(folders), []
    odd = ["images lie at different depths: folders are not taken for classes"] if len(set(folders)) > 1 else []
    return [None] * len(folders), odd


def _metadata(files: list[File], images: set[str]) -> tuple[Told, list[tuple[str, str]]]:
    """Image name -> (label, caption), from every metadata.jsonl or metadata.csv; and the rows that cannot be used."""
    told: Told = {}
    bad: list[tuple[str, str]] = []
    for file in files:
        if file.path.name not in METADATA:
            continue
        for place, row in _rows(file, bad):
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                bad.append((place, "has no file_name"))
                continue
            full = posixpath.normpath(posixpath.join(posixpath.dirname(file.name), name))
            if full.startswith(("/", "..")):
                bad.append((place, f"file_name {name!r} leads out of the folder"))
            elif full not in images:
                bad.append((place, f"file_name {name!r}: there is no such image"))
            else:
                label, caption = row.get("label"), row.get("text", row.get("caption"))
                told[full] = (None if label in (None, "") else str(label), None if caption is None else str(caption))
    if any(caption is not None for _, caption in told.values()):
        told = {name: (label, caption or "") for name, (label, caption) in told.items()}
    return told, bad


def _rows(file: File, bad: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a metadata file; what is malformed goes to `bad`."""
    try:
        text = file.path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.path} cannot be read: {error}") from None
    if file.name.endswith(".csv"):
        yield from ((f"{file.name}:{i}", dict(row)) for i, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2))
        return
    for i, line in enumerate(text.split("\n"), 1):  # not splitlines: a caption may hold U+2028
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            bad.append((f"{file.name}:{i}", f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            yield f"{file.name}:{i}", row
        elif row is not None:
            bad.append((f"{file.name}:{i}", f"a {type(row).__name__}, not an object"))


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: numbers by value, all else by spelling."""
    return tuple(sorted(set(labels), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
