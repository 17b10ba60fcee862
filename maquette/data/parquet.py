"""Rows of parquet files: text, conversations, or images as the hub stores them. Knows pyarrow, asked for only here."""

from __future__ import annotations

import json
from functools import partial
from io import BytesIO
from typing import Any

from maquette.data.errors import DataError, Skip, nearest
from maquette.data.images import Picture
from maquette.data.listing import File
from maquette.data.texts import Document, of_row

Read = tuple[list[Picture], list[Document], tuple[str, ...], list[tuple[str, str]]]


def read(files: list[File]) -> Read:
    """Pictures or documents, the class names, and the files and rows that cannot be used.

    Raises:
        DataError: pyarrow is missing, or the files have no column that is read.
    """
    try:
        import pyarrow.parquet as source
    except ImportError:
        raise DataError("parquet needs pyarrow: pip install 'maquette[data]'") from None
    pictures: list[Picture] = []
    documents: list[Document] = []
    bad: list[tuple[str, str]] = []
    names: tuple[str, ...] = ()
    for file in files:
        try:
            opened = source.ParquetFile(file.path)
            table = opened.read()
        except (OSError, ValueError) as error:  # pyarrow's own errors are both
            bad.append((file.name, f"not parquet, or damaged: {str(error).splitlines()[0]}"))
            continue
        names = names or _class_names(table.schema)
        image = next((f.name for f in table.schema if _holds_images(f.type)), None)
        if image is not None:
            _pictures(file, table, image, names, pictures, bad)
        else:
            _documents(file, table, documents, bad)
    if pictures and documents:
        raise DataError(f"some parquet files hold images ({pictures[0].name}) and others text ({documents[0].name})")
    if bad and not pictures and not documents:
        raise DataError("no parquet row can be used:" + "".join(f"\n  {name}: {reason}" for name, reason in bad[:5]))
    labels = {picture.label for picture in pictures}
    if None in labels:
        return pictures, documents, (), bad
    from maquette.data.folder import _ordered

    return pictures, documents, names or _ordered({str(label) for label in labels}), bad
