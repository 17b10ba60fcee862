"""The user's own data, by path: a folder or file of images, text, JSONL or parquet, into Data. Knows the hub's imagefolder."""

from __future__ import annotations

import csv
import json
import posixpath
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from maquette.data import parquet
from maquette.data.core import Column, Data, Facts, image_data, text_data
from maquette.data.errors import DataError, Skip, refuse_mostly_bad
from maquette.data.images import Decoded, Picture
from maquette.data.images import read as read_pictures
from maquette.data.listing import METADATA, TEXT, File, choose, kind_of, parts_of, signature, walk
from maquette.data.shares import divide, sha1
from maquette.data.texts import Document, cut, read_jsonl, read_texts

__all__ = ["read_own", "signature"]


def read_own(path: Path, size: int = 0) -> Data:
    """Data at an absolute path that exists.

    Raises:
        DataError: nothing in it that can be used, or more than half of it bad.
    """
    if path.is_dir():
        files = walk(path)
        kind, kept, notes = choose(files, path)
    else:
        files = kept = [File(path, path.name, path.name)]
        kind, notes = kind_of(kept[0]), []
        if kind == "image":
            raise DataError(f"{path} is one image; give the folder it is in")
        if kind == "":
            raise DataError(f"{path.name!r} is of no kind that is read; allowed are .jsonl, .parquet and text ({', '.join(sorted(TEXT)[:8])}, ...)")
    kept, more = parts_of(kept, by_name=kind != "image")
    notes += more
    about = Facts(str(path), "text", "own", _licence(path), str(path), "", {}, notes=tuple(notes), size=size)
    if kind == "parquet":
        pictures, documents, classes, bad = parquet.read(kept)
        if pictures:
            return _images(about, pictures, classes, bad)
    elif kind == "image":
        pictures, classes, bad, more = _pictures(kept, files)
        return _images(about, pictures, classes, bad, more)
    else:
        documents, bad = (read_jsonl if kind == "jsonl" else read_texts)(kept)
    if size:
        raise DataError(f"size {size} is for images; {path} is text: leave size at 0")
    return _texts(about, documents, bad)


def _licence(path: Path) -> str:
    """What the folder says of its licence."""
    folder = path if path.is_dir() else path.parent
    for file in sorted(folder.iterdir()) if path.is_dir() else []:
        if file.name.lower().startswith(("license", "licence", "copying")) and file.is_file():
            return f"see {file.name} in the folder"
    return "unknown: your own data"


# -- images --------------------------------------------------------------------------------------------------------------


def _pictures(kept: list[File], files: list[File]) -> tuple[list[Picture], tuple[str, ...], list[tuple[str, str]], list[str]]:
    """Pictures of files, labelled by metadata, else by class folders; captioned by metadata, else by a .txt beside each."""
    told, bad = _metadata(files, {file.name for file in kept})
    notes: list[str] = []
    if told:
        silent = [file.name for file in kept if file.name not in told]
        bad += [(name, "has no row in the metadata") for name in silent]
        kept = [file for file in kept if file.name in told]
    else:
        labels, notes = _folders(kept)
        beside = {file.name: file.path for file in files if file.name.endswith(".txt")}
        captions = {file.name: beside.get(str(PurePosixPath(file.name).with_suffix(".txt"))) for file in kept}
        with_captions = any(captions.values())
        told = {file.name: (label, "" if with_captions else None) for file, label in zip(kept, labels, strict=True)}
        for name, path in captions.items():
            if path is not None:
                told[name] = (told[name][0], path.read_text(encoding="utf-8", errors="replace").strip())
        if with_captions and not all(captions.values()):
            notes.append(f"{sum(path is None for path in captions.values())} images have no .txt beside them: their caption is empty")
    classes = _ordered({label for label, _ in told.values() if label is not None})
    if classes and any(told[file.name][0] is None for file in kept):
        notes.append("some images have no label: labels left out")
        classes = ()
    pictures = [Picture(f.name, partial(open, f.path, "rb"), f.part, *told[f.name]) for f in kept]
    return pictures, classes, bad, notes


def _folders(kept: list[File]) -> tuple[list[str | None], list[str]]:
    """Each file's class: the folder it is in, where all lie equally deep in more than one; else no classes."""
    folders = [posixpath.dirname(file.inner) for file in kept]
    if len(set(folders)) > 1 and len({folder.count("/") + bool(folder) for folder in folders}) == 1:
        return list(folders), []
    odd = ["images lie at different depths: folders are not taken for classes"] if len(set(folders)) > 1 else []
    return [None] * len(folders), odd


def _metadata(files: list[File], images: set[str]) -> tuple[dict[str, tuple[str | None, str | None]], list[tuple[str, str]]]:
    """Image name -> (label, caption), from every metadata.jsonl or metadata.csv; and the rows that cannot be used."""
    told: dict[str, tuple[str | None, str | None]] = {}
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
        lines = file.path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.path} cannot be read: {error}") from None
    if file.name.endswith(".csv"):
        yield from ((f"{file.name}:{i}", dict(row)) for i, row in enumerate(csv.DictReader(lines), 2))
        return
    for i, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            bad.append((f"{file.name}:{i}", f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            yield f"{file.name}:{i}", row
        elif row is not None:
            bad.append((f"{file.name}:{i}", f"a {type(row).__name__}, not an object"))


def _ordered(labels: set[str]) -> tuple[str, ...]:
    """Class names in label order: numbers by value, all else by spelling."""
    return tuple(sorted(labels, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def _images(about: Facts, pictures: list[Picture], classes: tuple[str, ...], bad: list[tuple[str, str]], notes: list[str] | None = None) -> Data:
    """Decoded, divided, in columns."""
    from dataclasses import replace

    refuse_mostly_bad(bad, len(pictures) + len(bad), "images", about.name)
    found = read_pictures(pictures, about.size, about.name)
    same, content = {}, []
    for image, digest in zip(found.pixels, found.digests, strict=True):
        same[pixels] = min(same.get(pixels := sha1(image.contiguous().numpy()), digest), digest)
        content.append(pixels)
    content = [same[pixels] for pixels in content]  # one picture saved as two files stays on one side
    labels = [picture.label if classes else None for picture in found.pictures]
    captions = [picture.caption for picture in found.pictures]
    whole = [sha1(digest + repr(said).encode()) for digest, *said in zip(content, labels, captions, strict=True)]
    parted = divide(content, whole, [picture.part for picture in found.pictures], about.name)
    columns = {name: _columns(found, rows, classes) for name, rows in (("train", parted.train), ("held", parted.held))}
    unlearnt = {labels[i] for i in parted.held} - {labels[i] for i in parted.train}
    more = [f"classes with no training image: {', '.join(sorted(map(str, unlearnt)))}"] if unlearnt else []
    return image_data(
        replace(
            about,
            field="image",
            classes=classes,
            split=parted.rule,
            notes=(*about.notes, *(notes or ()), *found.notes, *parted.notes, *more),
            skipped=tuple(bad + found.skipped),
        ),
        columns,
    )


def _columns(found: Decoded, rows: list[int], classes: tuple[str, ...]) -> dict[str, Column]:
    columns: dict[str, Column] = {"image": found.pixels[torch.tensor(rows)]}
    if classes:
        index = {name: i for i, name in enumerate(classes)}
        columns["label"] = torch.tensor([index[str(found.pictures[i].label)] for i in rows])
    if found.pictures[0].caption is not None:
        columns["text"] = [found.pictures[i].caption or "" for i in rows]
    return columns


# -- text ----------------------------------------------------------------------------------------------------------------


def _texts(about: Facts, documents: list[Document], bad: list[tuple[str, str]]) -> Data:
    """Divided, in columns."""
    from dataclasses import replace

    refuse_mostly_bad(bad, len(documents) + len(bad), "texts", about.name)
    if not documents:
        raise DataError(f"{about.name} has no text in it")
    notes: tuple[str, ...] = ()
    rule = ""
    if len({document.text for document in documents}) == 1 and not any(document.part for document in documents):
        try:
            documents = cut(documents[0])
        except Skip as reason:
            raise DataError(f"{about.name}: {reason}") from None
        rule, notes = "the end of the one document, about a tenth", ("one document: its end is held out",)
    content = [sha1(document.text.encode()) for document in documents]
    parted = divide(content, content, [document.part for document in documents], about.name)
    columns: dict[str, dict[str, Column]] = {}
    for name, rows in (("train", parted.train), ("held", parted.held)):
        columns[name] = {"text": [documents[i].text for i in rows]}
        if documents[0].messages is not None:
            columns[name]["messages"] = [documents[i].messages for i in rows]
    notes = (*about.notes, *notes, *parted.notes)
    return text_data(replace(about, split=rule or parted.rule, notes=notes, skipped=tuple(bad)), columns)


Counter
