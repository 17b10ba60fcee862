"""Where a run that compares puts the pictures, or passages of text, of files: their vectors, and which are nearest to a query.

Knows files, and the sides that a system compares. A query is held against every vector, of as many as memory holds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from maquette import parcel, storage
from maquette.contracts import Comparing
from maquette.data import DataError
from maquette.data.listing import IMAGE, File, choose, kind_of, walk
from maquette.data.texts import read_jsonl, read_texts
from maquette.metrics.bm25 import BM25, joined, words_of
from maquette.opened import Loaded
from maquette.recipes import UnknownName

PART = 256  # rows embedded together
LETTERS = 4  # about so many to a symbol: a longer passage would not be read to its end
WRITTEN = (".npz", ".npy", ".safetensors")


@dataclass(frozen=True)
class Shelf:
    """Things and their unit vectors float32[N,P]; texts are "" of pictures. `by`: the run, and its step, that put them there."""

    vectors: Tensor
    names: list[str]
    texts: list[str]
    by: str


def shelved(found: Loaded, source: Path) -> Shelf:
    """The pictures or passages of text of a file or a folder, or the vectors that `keep` wrote of them.

    Raises:
        DataError: there is nothing that can be read, or of the other kind than the run compares.
        ValueError: the run compares nothing; the vectors are of another run or step.
    """
    sides = sides_of(found)
    if not source.exists():
        raise DataError(f"there is nothing at {source}")
    if source.is_file() and source.suffix in (".npz", ".safetensors") and (known := _kept(source)) is not None:
        if known.by != _by(found):
            raise ValueError(f"the vectors in {source} are of {known.by}, and this is {_by(found)}: make them again")
        return known
    files = walk(source) if source.is_dir() else [File(source, source.name, source.name)]
    kind, files = choose(files, source)[:2] if source.is_dir() else (kind_of(files[0]), files)
    if kind == "image" or source.suffix in parcel.ARRAYS:
        if "image" not in sides:
            raise DataError(f"{source} holds pictures, and this run compares {' with '.join(sides)}: give it texts")
        images = parcel.pictures(source, found.facts, exact=False)[0]
        names = sorted(file.name for file in files) if kind == "image" else [f"{source.name}:{i}" for i in range(len(images))]
        return Shelf(_embedded(found, "image", images), names, [""] * len(images), _by(found))
    if kind not in ("text", "jsonl"):
        raise DataError(f"{source} is of no kind that is searched; allowed are pictures, text, .jsonl, and vectors of `embed`")
    rows = list(_passages(files, kind == "jsonl", LETTERS * found.system.codec.length if found.system.codec.length else 400))
    if not rows:
        raise DataError(f"{source} has no text in it that can be read")
    names, texts = [name for name, _ in rows], [text for _, text in rows]
    return Shelf(_embedded(found, "text", texts), names, texts, _by(found))


def nearest(found: Loaded, shelf: Shelf, query: str, k: int, words: bool = True) -> list[dict[str, Any]]:
    """The k things nearest to a text, or to the picture of a file of that name, the nearest first: name, cosine, text.

    Args:
        words: what is nearest among texts is said by the rare words it shares with the query, too, as much as by the cosine: the
            two err on different rows (benchmarks/retrieving.py).

    Raises:
        ValueError: fewer than one is wanted, or the query is empty.
    """
    if k < 1:
        raise ValueError(f"-k {k} is no number of things to find; it must be 1 or more")
    if not query.strip():
        raise ValueError("the query is empty; give some words, or the name of a picture's file")
    sides = sides_of(found)
    pictured = "image" in sides and Path(query).suffix.lower() in IMAGE and Path(query).is_file()
    if pictured:
        asked = _embedded(found, "image", parcel.pictures(Path(query), found.facts, exact=False)[0])
    else:
        asked = _embedded(found, next(side for side in sides if side != "image"), [query])
    cosines = shelf.vectors @ asked[0]
    texts = words and not pictured and any(words_of(text) for text in shelf.texts)
    score = joined(cosines, BM25(shelf.texts).near([query])[0]) if texts else cosines
    return [
        {"name": shelf.names[row], "cosine": round(float(cosines[row]), 6), "text": shelf.texts[row]}
        for row in score.topk(min(k, len(shelf.names))).indices.tolist()
    ]


def keep(shelf: Shelf, out: Path) -> None:
    """Write vectors by the file's suffix: .npy the array alone, .npz and .safetensors with what they are of.

    Raises:
        UnknownName: another suffix.
    """
    check_suffix(out)
    vectors, file = shelf.vectors.numpy(), io.BytesIO()
    about = json.dumps({name: value for name, value in asdict(shelf).items() if name != "vectors"})
    if out.suffix == ".npy":
        np.save(file, vectors)
    elif out.suffix == ".npz":
        np.savez(file, vectors=vectors, about=np.array(about))
    else:
        file.write(safetensors.numpy.save({"vectors": vectors}, metadata={"about": about}))
    out.parent.mkdir(parents=True, exist_ok=True)
    storage.replace_durably(out, file.getvalue())


def check_suffix(out: Path) -> None:
    """Raises:
    UnknownName: vectors are not written so.
    """
    if out.suffix not in WRITTEN:
        raise UnknownName("suffix of a file of vectors", out.suffix, list(WRITTEN))


def sides_of(found: Loaded) -> tuple[str, ...]:
    """What a run compares.

    Raises:
        ValueError: nothing.
    """
    objective = found.system.objective
    if not isinstance(objective, Comparing):
        raise ValueError(
            f"{found.run.path} is a run of {found.run.record['recipe']}, which compares nothing; clip and embedder do"
        )
    return objective.sides


def _kept(source: Path) -> Shelf | None:
    """What `keep` wrote; None of a file of other things."""
    if source.suffix == ".npz":
        with np.load(source, allow_pickle=False) as arrays:
            if "vectors" not in arrays or "about" not in arrays:
                return None
            vectors, about = arrays["vectors"], str(arrays["about"])
    else:
        with safetensors.safe_open(source, "numpy") as opened:
            about = (opened.metadata() or {}).get("about", "")
            if not about or "vectors" not in opened.keys():  # noqa: SIM118
                return None
            vectors = opened.get_tensor("vectors")
    return Shelf(vectors=torch.from_numpy(vectors), **json.loads(about))


def _by(found: Loaded) -> str:
    record = found.run.record
    return f"{record['recipe']} of {record.get('created', '')} at step {found.progress.step}"


def _embedded(found: Loaded, side: str, rows: Any) -> Tensor:
    """float32[N,P] on the CPU."""
    system, objective = found.system.eval(), found.system.objective
    assert isinstance(objective, Comparing)
    parts = [objective.embed(system, {side: rows[at : at + PART]})[side].cpu() for at in range(0, len(rows), PART)]
    return torch.cat(parts)


def _passages(files: list[File], lines: bool, most: int) -> Iterable[tuple[str, str]]:
    """(file:line, text) of every row of JSONL; of other text of every paragraph, cut between lines where it has over `most`
    characters."""
    documents = (read_jsonl if lines else read_texts)(files)[0]
    for document in documents:
        if lines:
            yield document.name, document.text
            continue
        part: list[str] = []
        start = size = 0
        for number, line in enumerate([*document.text.split("\n"), ""], 1):
            if part and (not line.strip() or size + len(line) > most):
                yield f"{document.name}:{start}", "\n".join(part)
                part, size = [], 0
            if line.strip():
                start = start if part else number
                part.append(line)
                size += len(line) + 1
