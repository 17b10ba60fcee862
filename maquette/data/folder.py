"""The user's own data, by path: a folder or file of images, text, JSONL or parquet, into Data. Knows the hub's imagefolder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from maquette.data import parquet
from maquette.data.core import Column, Data, Facts, image_data, text_data
from maquette.data.errors import DataError, Skip, refuse_mostly_bad
from maquette.data.images import Decoded, Picture
from maquette.data.images import read as read_pictures
from maquette.data.listing import IMAGE, TEXT, File, choose, is_run, kind_of, parts_of, walk
from maquette.data.metadata import described
from maquette.data.shares import divide, sha1
from maquette.data.texts import Document, cut, of_pairs, read_jsonl, read_texts


def read_own(path: Path, size: int = 0) -> Data:
    """Data at an absolute path that exists.

    Raises:
        DataError: nothing in it that can be used, or more than half of it bad.
    """
    if path.is_dir():
        if is_run(path):
            raise DataError(f"{path} is a run, not data: what a model drew is not what to learn from")
        files = walk(path)
        kind, kept, notes = choose(files, path)
    else:
        files = kept = [File(path, path.name, path.name)]
        kind, notes = kind_of(kept[0]), []
        if kind == "image":
            raise DataError(f"{path} is one image; give the folder it is in")
        if kind == "":
            some = ", ".join(sorted(TEXT)[:8])
            raise DataError(f"{path.name!r} is of no kind that is read; allowed are .jsonl, .parquet and text ({some}, ...)")
    kept, more = parts_of(kept, by_name=kind != "image")
    notes += more
    about = Facts(str(path), "text", "own", _licence(path), str(path), "", {}, notes=tuple(notes), size=size)
    if kind == "parquet":
        pictures, documents, classes, bad = parquet.read(kept)
        if pictures:
            return _images(about, pictures, classes, bad)
    elif kind == "image":
        pictures, classes, bad, more = described(kept, files)
        return _images(about, pictures, classes, bad, more)
    else:
        documents, bad = (read_jsonl if kind == "jsonl" else read_texts)(kept)
    if size:
        raise DataError(f"size {size} is for images; {path} is text: leave size at 0")
    return _texts(about, documents, bad)


def _licence(path: Path) -> str:
    """What the folder says of its licence: its card, as the hub's data sets have one, or a file."""
    names = {file.name.lower(): file for file in path.iterdir() if file.is_file()} if path.is_dir() else {}
    if "readme.md" in names:
        card = re.match(r"---\n(?:.*\n)*?license: *(\S+) *\n", names["readme.md"].read_text(encoding="utf-8", errors="replace"))
        if card:
            return card[1]
    for name, file in sorted(names.items()):
        if name.startswith(("license", "licence", "copying")) and not name.endswith(tuple(IMAGE)):
            return f"see {file.name} in the folder"
    return "unknown: your own data"


# -- images --------------------------------------------------------------------------------------------------------------


def _images(
    about: Facts, pictures: list[Picture], classes: tuple[str, ...], bad: list[tuple[str, str]], notes: list[str] | None = None
) -> Data:
    """Decoded, divided, in columns."""
    refuse_mostly_bad(bad, len(pictures) + len(bad), "images", about.name)
    notes = list(notes or ())
    bare = sum(picture.label is None for picture in pictures)
    if classes and bare:
        notes.append(f"{bare} images have no label: labels are left out")
        classes = ()
    found = read_pictures(pictures, about.size, about.name)
    seen = [sha1(image.numpy().tobytes()) for image in found.pixels]
    first: dict[bytes, bytes] = {}
    for pixels, digest in zip(seen, found.digests, strict=True):
        first[pixels] = min(first.get(pixels, digest), digest)
    content = [first[pixels] for pixels in seen]  # of the files; one picture saved as two files stays on one side
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
            notes=(*about.notes, *notes, *found.notes, *parted.notes, *more),
            skipped=tuple(bad + found.skipped),
        ),
        columns,
    )


def _columns(found: Decoded, rows: list[int], classes: tuple[str, ...]) -> dict[str, Column]:
    columns: dict[str, Column] = {"image": found.pixels[torch.tensor(rows, device="cpu")]}  # wherever a system is being built
    if classes:
        index = {name: i for i, name in enumerate(classes)}
        columns["label"] = torch.tensor([index[str(found.pictures[i].label)] for i in rows], device="cpu")
    if found.pictures[0].caption is not None:
        columns["text"] = [found.pictures[i].caption or "" for i in rows]
    return columns


# -- text ----------------------------------------------------------------------------------------------------------------


def _texts(about: Facts, documents: list[Document], bad: list[tuple[str, str]]) -> Data:
    """Divided, in columns."""
    refuse_mostly_bad(bad, len(documents) + len(bad), "texts", about.name)
    if not documents:
        raise DataError(f"{about.name} has no text in it")
    documents, more = of_pairs(documents)
    notes: tuple[str, ...] = tuple(more)
    rule = ""
    alone = documents[0].source is None and documents[0].messages is None  # an answer held out of its own conversation is known
    one = alone and len({document.text for document in documents}) == 1
    if one and not any(document.part for document in documents):
        try:
            documents = cut(documents[0])
        except Skip as reason:
            raise DataError(f"{about.name}: {reason}") from None
        rule, notes = "the end of the one document, about a tenth", (*notes, "one document: its end is held out")
    classes = tuple(sorted({document.label for document in documents} - {""}))
    if classes and not all(document.label for document in documents):
        bare = sum(not document.label for document in documents)
        classes, notes = (), (*notes, f"{bare} texts have no label: labels are left out")
    content = [sha1(document.asked.encode()) for document in documents]
    compared = [document for document in documents if document.rejected is not None]
    if compared and len(compared) < len(documents):
        other = next(document.name for document in documents if document.rejected is None)
        raise DataError(f"some rows compare two answers ({compared[0].name}) and others bring one ({other}); give all or none")
    whole = [sha1("\0".join(map(str, (d.source, d.text, *([d.rejected] if compared else ())))).encode()) for d in documents]
    parted = divide(content, whole, [document.part for document in documents], about.name)
    columns: dict[str, dict[str, Column]] = {}
    for name, rows in (("train", parted.train), ("held", parted.held)):
        columns[name] = {"text": [documents[i].text for i in rows]}
        if documents[0].source is not None:
            columns[name]["source"] = [str(documents[i].source) for i in rows]
        if documents[0].messages is not None:
            columns[name]["messages"] = [documents[i].messages for i in rows]
        if documents[0].rejected is not None:
            columns[name]["rejected"] = [documents[i].rejected or "" for i in rows]
        if classes:
            columns[name]["label"] = torch.tensor([classes.index(documents[i].label) for i in rows], device="cpu")
    notes = (*about.notes, *notes, *parted.notes)
    return text_data(replace(about, classes=classes, split=rule or parted.rule, notes=notes, skipped=tuple(bad)), columns)
