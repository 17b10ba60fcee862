"""Rows of parquet files: text, conversations, or images as the hub stores them. Knows pyarrow, asked for only here."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any

from maquette.data.errors import DataError, Skip, nearest
from maquette.data.images import Picture
from maquette.data.listing import File
from maquette.data.metadata import class_names
from maquette.data.texts import Document, of_row

# and the first struct of bytes, whatever it is called
COLUMNS = ("text", "caption", "label", "messages", "source", "prompt", "completion", "chosen", "rejected")
Read = tuple[list[Picture], list[Document], tuple[str, ...], list[tuple[str, str]]]


def read(files: list[File]) -> Read:
    """Pictures or documents, the class names, and the files and rows that cannot be used.

    Raises:
        DataError: pyarrow is missing, or the files have no column that is read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("parquet needs pyarrow: pip install 'maquette[data]'") from None
    pictures: list[Picture] = []
    documents: list[Document] = []
    bad: list[tuple[str, str]] = []
    names: tuple[str, ...] = ()
    for file in files:
        try:
            with pyarrow.parquet.ParquetFile(file.path) as opened:
                schema = opened.schema_arrow
                image = next((f.name for f in schema if _holds_images(f.type)), None)
                wanted = [name for name in schema.names if name == image or name in COLUMNS]
                table = opened.read(columns=wanted)
        except (OSError, pyarrow.ArrowException) as error:
            bad.append((file.name, f"not parquet, or damaged: {str(error).splitlines()[0]}"))
            continue
        names = names or _class_names(schema)
        if image is not None:
            _pictures(file, table, image, names, pictures, bad)
        else:
            _documents(file, table, schema.names, documents, bad)
    if pictures and documents:
        raise DataError(f"some parquet files hold images ({pictures[0].name}) and others text ({documents[0].name})")
    if bad and not pictures and not documents:
        raise DataError("no parquet row can be used:" + "".join(f"\n  {name}: {reason}" for name, reason in bad[:5]))
    return pictures, documents, names or class_names(p.label for p in pictures if p.label is not None), bad


def _class_names(schema: Any) -> tuple[str, ...]:
    """The names of a ClassLabel, which the hub's library keeps in the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features["label"]["names"]))
    except (TypeError, KeyError, ValueError):  # other writers keep none
        return ()


def _holds_images(kind: Any) -> bool:
    """Whether a column is a struct of bytes and path."""
    return {kind.field(i).name for i in range(kind.num_fields)} >= {"bytes"} if str(kind).startswith("struct") else False


def _pictures(
    file: File, table: Any, image: str, names: tuple[str, ...], pictures: list[Picture], bad: list[tuple[str, str]]
) -> None:
    """Append a file's pictures."""
    columns = table.column_names
    caption = next((name for name in ("text", "caption") if name in columns), None)
    nothing = [None] * len(table)
    labels = table["label"].to_pylist() if "label" in columns else nothing
    captions = table[caption].to_pylist() if caption else nothing
    for row, (held, label, said) in enumerate(zip(table[image].to_pylist(), labels, captions, strict=True)):
        name = f"{file.name}:{row}"
        if not held or not held.get("bytes"):
            bad.append((name, "holds no bytes" + (f" but a path, {held['path']}" if held and held.get("path") else "")))
        elif names and isinstance(label, int) and label >= len(names):
            bad.append((name, f"label {label} is not one of 0 .. {len(names) - 1}"))
        else:
            known = label is not None and not (isinstance(label, int) and label < 0)  # the hub's -1: not told
            label = (names[label] if names and isinstance(label, int) else str(label)) if known else None
            pictures.append(
                Picture(name, partial(BytesIO, held["bytes"]), file.part, label, None if caption is None else str(said or ""))
            )


def _documents(file: File, table: Any, columns: list[str], documents: list[Document], bad: list[tuple[str, str]]) -> None:
    """Append a file's documents.

    Raises:
        DataError: it has no column that is read.
    """
    pairs: list[str] = [name for name in ("source", "text") if name in columns and "text" in columns]
    asked: list[str] = [name for name in ("prompt", "completion") if {"prompt", "completion"} <= {*columns}]
    compared: list[str] = [
        name for name in ("prompt", "chosen", "rejected") if name in columns and {"chosen", "rejected"} <= {*columns}
    ]
    wanted: list[str] = compared or ["messages"] * ("messages" in columns) or pairs or asked
    wanted += ["label"] if wanted and "label" in columns else []
    if not wanted:
        near = nearest("text", columns) or nearest("messages", columns)
        raise DataError(
            f"{file.path} has no column that is read; allowed are 'text' (and 'source'), 'prompt' and 'completion', "
            f"'messages', and a struct of image bytes; "
            f"its columns are {', '.join(columns)}.{near}"
        )
    for row, values in enumerate(table.select(wanted).to_pylist()):
        try:
            documents.append(replace(of_row(values, f"{file.name}:{row}"), part=file.part))
        except Skip as reason:
            bad.append((f"{file.name}:{row}", str(reason)))
