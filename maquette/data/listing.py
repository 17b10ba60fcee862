"""The files of a user's folder: what kind they are, and which split their folders or names put them in. Opens none for good."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from maquette.data.errors import DataError
from maquette.data.images import NOT_READ, SUFFIXES

IMAGE = {suffix for some in SUFFIXES.values() for suffix in some} | set(NOT_READ)
_PROSE = ".txt .text .md .markdown .rst .org .tex .bib .adoc .html .htm .xml .srt .vtt .csv .tsv .log"
_CODE = (
    ".py .pyi .ipynb .c .h .cc .cpp .cxx .hpp .cu .java .kt .scala .js .jsx .ts .tsx .go .rs .rb .php .pl .lua .r .jl .m .sh .sql"
)
_MORE = ".swift .hs .ml .ex .erl .clj .lisp .el .cs .fs .zig .asm .s .f90 .css .scss .yaml .yml .toml .ini .cfg .conf .abc .smi"
TEXT = set(f"{_PROSE} {_CODE} {_MORE}".split())
KINDS = {"parquet": {".parquet"}, "jsonl": {".jsonl", ".ndjson"}, "image": IMAGE, "text": TEXT}
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF", b"BM")
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "heldout", "held"),
    "test": ("test", "testing", "eval"),
}
_WORD = {word: part for part, words in PARTS.items() for word in words}
_ABOUT = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|authors|dataset_infos?)\b", re.IGNORECASE)
METADATA = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class File:
    """One file. name: its path within the folder, with /; inner: the same without the folder that names its split."""

    path: Path
    name: str
    inner: str
    part: str = ""

    def open(self) -> BinaryIO:
        return self.path.open("rb")


def walk(root: Path) -> list[File]:
    """Every file under a folder that is not hidden, by name. Links to folders are followed, each folder once.

    A run of ours within it is passed over: what a model drew is no data.
    """
    found, seen = [], {os.path.realpath(root)}
    for place, folders, files in os.walk(root, followlinks=True):
        kept = []
        for folder in sorted(folders):
            real = os.path.realpath(os.path.join(place, folder))
            if not folder.startswith((".", "__")) and real not in seen:
                seen.add(real)
                kept.append(folder)
        folders[:] = [folder for folder in kept if not is_run(Path(place, folder))]
        for file in files:
            if not file.startswith(".") and file != "Thumbs.db":
                path = Path(place, file)
                name = path.relative_to(root).as_posix()
                found.append(File(path, name, name))
    return sorted(found, key=lambda file: file.name)


def is_run(folder: Path) -> bool:
    """Whether a folder is one that training made."""
    return (folder / "run.json").is_file() and (folder / "log.jsonl").is_file()


def signature(path: Path) -> str:
    """Changes when a file is added, removed, renamed or written to."""
    digest = hashlib.sha256()
    for file in walk(path) if path.is_dir() else [File(path, path.name, path.name)]:
        try:
            state = file.path.stat()
        except OSError:
            continue
        digest.update(f"{file.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def kind_of(file: File) -> str:
    """ "image", "text", "jsonl", "parquet" or "" by suffix; a file of no known suffix is an image if it begins like one."""
    suffix = PurePosixPath(file.name).suffix.lower()
    for kind, suffixes in KINDS.items():
        if suffix in suffixes:
            return kind
    try:
        with file.path.open("rb") as opened:
            return "image" if opened.read(8).startswith(MAGIC) else ""
    except OSError:
        return ""


def choose(files: list[File], root: Path) -> tuple[str, list[File], list[str]]:
    """The kind of data a folder holds (the kind with most files), its files, and a note on what was not read.

    Raises:
        DataError: nothing of any kind.
    """
    kinds = {file.name: kind_of(file) for file in files if file.path.name not in METADATA}
    about = {name for name, kind in kinds.items() if kind in ("text", "") and _ABOUT.match(posixpath.basename(name))}
    known = [kind for name, kind in kinds.items() if kind and name not in about]
    count = Counter(known or [kind for kind in kinds.values() if kind])
    if not count:
        other = f" ({len(files)} files of other kinds)" if files else ""
        allowed = ", ".join(suffix for some in SUFFIXES.values() for suffix in some)
        raise DataError(
            f"{root} has no data in it{other}; allowed are images ({allowed}), text (.txt, .md, .py, ...), .jsonl and .parquet"
        )
    if count["image"] >= count["text"] and count["image"]:
        del count["text"]  # a caption beside each image
    most = max(count.values())
    kind = next(kind for kind in KINDS if count[kind] == most)
    kept = [file for file in files if kinds.get(file.name) == kind]
    captions = {file.name.rpartition(".")[0] + ".txt" for file in kept} if kind == "image" else set()
    read = {file.name for file in kept} | about | captions
    left = Counter(PurePosixPath(name).suffix or name for name in kinds if name not in read)
    some = ", ".join(f"{suffix}: {n}" for suffix, n in left.most_common(5))
    return kind, kept, [f"{left.total()} files that are not {kind} were not read ({some})"] if left else []


def parts_of(files: list[File], by_name: bool) -> tuple[list[File], list[str]]:
    """Files with the split that their first folder says, or (by_name) their own name: train-0001.parquet, valid.txt.

    Only where every file says one and both a training and a held-out one are there. Where both validation and test are,
    test is left unread. Where all lie in a training folder, that folder is no class.
    """
    said = {f.name: _WORD.get(f.name.split("/")[0].lower()) if "/" in f.name else None for f in files}
    inside = all(said.values())
    if not inside and by_name:
        said = {f.name: _WORD.get(re.split(r"[^A-Za-z]", PurePosixPath(f.name).stem)[0].lower()) for f in files}
    found = set(said.values())
    if None in found or not found:
        return files, []
    inner = {f.name: f.name.split("/", 1)[1] if inside else f.name for f in files}
    if found == {"train"}:
        return [replace(f, inner=inner[f.name]) for f in files], []
    if "train" not in found:
        return files, []
    held = "validation" if "validation" in found else "test"
    notes = [f"{held} is the held-out split"]
    if found == set(PARTS):
        notes = [f"validation is the held-out split; test ({sum(p == 'test' for p in said.values())} files) was left unread"]
    side = {"train": "train", held: "held"}
    return [replace(f, inner=inner[f.name], part=side[str(said[f.name])]) for f in files if said[f.name] in side], notes
