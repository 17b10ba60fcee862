"""Bytes that are slow to make and the same every time, kept on disk between processes. Always safe to delete."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np


def folder() -> Path:
    """$XDG_CACHE_HOME/maquette, or ~/.cache/maquette."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "maquette"


def cached(name: str, key: str, make: Callable[[], bytes]) -> bytes:
    """`make()`, or what it gave under the same key before. A damaged copy is made anew; a disk that refuses is done without.

    The file is the SHA-256 of its content, a newline, the content.
    """
    place = folder() / f"{name}-{key[:16]}"
    try:
        digest, _, content = place.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == digest:
            return content
    except OSError:
        pass
    content = make()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=place.parent, prefix=f".{name}-")
    except OSError:
        return content
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.replace(staged, place)  # readers see the whole file or none
    except OSError:
        Path(staged).unlink(missing_ok=True)
    return content


def key_of(*parts: str | bytes | Path) -> str:
    """A key that changes with any of these: text, bytes, or what a file holds, such as the code that draws."""
    key = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        key.update(hashlib.sha256(content).digest())
    return key.hexdigest()


def kept(name: str, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `make()` gives, or gave under the same key before."""

    def packed() -> bytes:
        file = BytesIO()
        np.savez_compressed(file, **make())  # type: ignore[arg-type]
        return file.getvalue()

    with np.load(BytesIO(cached(name, key, packed)), allow_pickle=False) as found:
        return {each: found[each] for each in found.files}
