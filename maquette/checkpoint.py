"""Checkpoints that are whole or do not exist: staged, fsynced, manifested with SHA-256, renamed. Never a pickle.

Knows systems and progress, not where runs live or why they stop. A directory without a valid manifest is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from maquette.experiment import Fit
from maquette.system import System
from maquette.train import Progress

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


class Damaged(ValueError):
    """A checkpoint that must not be used, and why."""


# -- bytes on disk -----------------------------------------------------------------------------------------------------


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the folder's own entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_durably(path: Path, data: bytes) -> None:
    """Replace a file so that a reader sees the old bytes or the new, never a part."""
    staged = path.with_name(f".staged-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        write_durably(staged, data)
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def commit(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` appear, whole, with these files and their manifest; replaces a damaged one of that name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.parent / f".staged-{folder.name}-{uuid.uuid4().hex[:8]}"
    try:
        staged.mkdir()
        for name, data in files.items():
            write_durably(staged / name, data)
        write_durably(staged / "manifest.json", _manifest(files))
        sync_folder(staged)
        if folder.exists():
            remove(folder)
        os.rename(staged, folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def remove(folder: Path) -> None:
    """Take a checkpoint away: first out of its name, then its bytes, so that no half of it is ever seen."""
    trash = folder.parent / f".trash-{folder.name}-{uuid.uuid4().hex[:8]}"
    os.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what a killed writer left behind."""
    for pattern in (".staged-*", ".trash-*"):
        for left in parent.glob(pattern):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _manifest(files: dict[str, bytes]) -> bytes:
    table = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    body = {"format": FORMAT, "files": table}
    return _dump({**body, "seal": hashlib.sha256(_dump(body)).hexdigest()})


def read_verified(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint, after its manifest has vouched for each byte.

    Raises:
        Damaged: names the file and what is wrong with it.
    """
    path = folder / "manifest.json"
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
        version = manifest["format"]
        if isinstance(version, int) and version > FORMAT:
            raise Damaged(f"{path} is of format {version}; this maquette reads up to {FORMAT}: upgrade it")
        body = {"format": version, "files": manifest["files"]}
        if raw != _dump({**body, "seal": hashlib.sha256(_dump(body)).hexdigest()}):
            raise Damaged(f"{path} does not match its own seal")
    except FileNotFoundError:
        raise Damaged(f"{path} is missing: the checkpoint was never finished") from None
    except (ValueError, KeyError, TypeError) as error:
        raise error if isinstance(error, Damaged) else Damaged(f"{path} is not a manifest: {error}") from None
    found = {}
    for name, entry in manifest["files"].items():
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


# -- systems as bytes --------------------------------------------------------------------------------------------------


def pack(system: System, progress: Progress) -> dict[str, bytes]:
    """A system and its progress as the files of a checkpoint."""
    weights: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owner: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in system.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in owner:  # tied weights are stored once
            tied[name] = owner[place]
        else:
            owner[place] = name
            weights[name] = tensor.detach().cpu().contiguous()
    moments = {
        f"{key}/{place}/{index}/{slot}": value.detach().cpu().contiguous()
        for key, optimizers in progress.optimizers.items()
        for place, optimizer in enumerate(optimizers)
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
    }
    state = {
        "format": FORMAT,
        "step": progress.step,
        "seconds": progress.seconds,
        "seed": progress.seed,
        "fit": asdict(progress.fit),
        "tied": tied,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return dict(zip(FILES, (save_tensors(weights), save_tensors(moments), _dump(state)), strict=True))


def restore(files: dict[str, bytes], system: System) -> Progress:
    """Fill a freshly built system from a checkpoint's files; returns its progress, optimizers included.

    Raises:
        Damaged: the weights are not this system's.
    """
    state = json.loads(files["state.json"])
    weights = load_tensors(files["model.safetensors"])
    weights.update({name: weights[source] for name, source in state["tied"].items()})
    try:
        system.load_state_dict(weights)
    except RuntimeError as error:
        raise Damaged(f"the checkpoint's weights are not those of this recipe: {error}") from None
    fit = Fit(**{**state["fit"], "betas": tuple(state["fit"]["betas"])})
    progress = Progress(fit, state["seed"], state["step"], state["seconds"])
    moments: dict[str, dict[int, dict[int, dict[str, Tensor]]]] = {}
    for name, tensor in load_tensors(files["optimizer.safetensors"]).items():
        key, place, index, slot = name.rsplit("/", 3)
        moments.setdefault(key, {}).setdefault(int(place), {}).setdefault(int(index), {})[slot] = tensor
    for phase in system.objective.phases():
        learners = system.learners(phase)
        if learners and "+".join(learners) in moments:
            for place, optimizer in enumerate(progress.optimizers_of(learners)):
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": moments["+".join(learners)].get(place, {}), "param_groups": groups})
    return progress


def finite(system: System) -> str:
    """The name of the first weight that is not finite, or ''."""
    for name, tensor in system.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return ""
