"""Folders of files that are whole or do not exist: staged, fsynced, manifested with SHA-256, renamed.

Knows bytes and names, not what they mean. Every call to the operating system goes through `system`, so that a test can
kill or fail at each of them in turn.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from pathlib import Path
from typing import Any

FORMAT = 1
system: Any = os  # a test puts its fault-injecting twin here


class Damaged(ValueError):
    """A file or folder that must not be used, and why."""


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    handle = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[system.write(handle, view[: 1 << 24]) :]
        system.fsync(handle)
    finally:
        system.close(handle)


def sync_folder(path: Path) -> None:
    """Wait until the folder's own entries are on the disk."""
    handle = system.open(path, os.O_RDONLY)
    try:
        system.fsync(handle)
    finally:
        system.close(handle)


def replace_durably(path: Path, data: bytes) -> None:
    """Replace a file so that a reader sees the old bytes or the new, never a part."""
    staged = path.with_name(f".staged-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        write_durably(staged, data)
        system.rename(staged, path)
    except OSError:
        erase(staged)
        raise
    sync_folder(path.parent)


def commit(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` appear, whole, with these files and their manifest; takes the place of a damaged one of that name.

    Raises:
        OSError: nothing was changed but for the staged files, which are gone again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.parent / f".staged-{folder.name}-{uuid.uuid4().hex[:8]}"
    try:
        system.mkdir(staged)
        for name, data in files.items():
            write_durably(staged / name, data)
        write_durably(staged / "manifest.json", _manifest(files))
        sync_folder(staged)
        if folder.exists():
            remove(folder)
        system.rename(staged, folder)
    except OSError:
        erase(staged)
        raise
    sync_folder(folder.parent)


def remove(folder: Path) -> None:
    """Take a folder away: first out of its name, then its bytes, so that no half of it is ever seen."""
    trash = folder.parent / f".trash-{folder.name}-{uuid.uuid4().hex[:8]}"
    system.rename(folder, trash)
    erase(trash)


def erase(path: Path) -> None:
    """Delete a file or a folder of files; what cannot be deleted now, `sweep` deletes later."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            for inner in path.iterdir():
                system.unlink(inner)
            system.rmdir(path)
        else:
            system.unlink(path)
    except OSError:
        pass


def sweep(parent: Path) -> None:
    """Remove what a killed writer left behind."""
    for pattern in (".staged-*", ".trash-*"):
        for left in parent.glob(pattern):
            erase(left)


def dump(value: Any) -> bytes:
    """JSON in its one canonical form."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _manifest(files: dict[str, bytes]) -> bytes:
    table = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return _sealed({"format": FORMAT, "files": table})


def _sealed(body: dict[str, Any]) -> bytes:
    return dump({**body, "seal": hashlib.sha256(dump(body)).hexdigest()})


def read_verified(folder: Path) -> dict[str, bytes]:
    """Every file of a committed folder, after its manifest has vouched for each byte.

    Raises:
        Damaged: names the file and what is wrong with it.
    """
    found = {}
    for name, entry in _read_manifest(folder / "manifest.json").items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise Damaged(f"{folder / name} cannot be read: {error.strerror}") from None
        if len(data) != entry["bytes"]:
            raise Damaged(f"{folder / name} has {len(data)} bytes, its manifest says {entry['bytes']}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise Damaged(f"{folder / name} has changed since it was written (SHA-256 differs)")
        found[name] = data
    return found


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}): the checkpoint was never finished") from None
    try:
        manifest = json.loads(raw)
        body = {"format": manifest["format"], "files": manifest["files"]}
        newer = int(body["format"]) > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is not a manifest: {error}") from None
    if raw != _sealed(body):
        raise Damaged(f"{path} does not match its own seal")
    if newer:
        raise Damaged(f"{path} is of format {body['format']}; this maquette reads up to {FORMAT}: upgrade it")
    return body["files"]
