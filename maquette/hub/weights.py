"""Weights as the hub lays them out: safetensors and JSON, mapped rather than read, checked by name before one is used.

Knows files, names and shapes; no network and no architecture. Nothing here is unpickled and no code that comes along is run.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from maquette.storage import Damaged, dump, erase, write_durably

STEMS = ("diffusion_pytorch_model", "model")  # diffusers', transformers'
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LIBRARIES = ("diffusers", "transformers")
PIPELINES = ("stable_diffusion", "latent_diffusion", "paint_by_example", "deepfloyd_if", "kandinsky", "wuerstchen", "shap_e")
REMOTE = ("auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines")
SHARD = 5_000_000_000  # bytes of a file at most, as the hub's own writers have it
_NAMED = 20  # of each kind of misfit
_TOUCHED = 1 << 26  # bytes cast before the mapping is let go


class Unfit(ValueError):
    """Weights and a module that are not each other's: every tensor that differs is named."""


class Unsafe(ValueError):
    """A file that would have to be run to be read, and how to do without."""


@contextmanager
def hollow() -> Iterator[None]:
    """Modules built within have parameters without data, for `fill` to assign; their buffers are real, computed as ever."""
    here = threading.get_ident()

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != here:
            return None  # as it is; what is tied stays tied
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]  # it may give another one back
    try:
        yield
    finally:
        handle.remove()


def fill(
    module: nn.Module,
    folder: Path,
    stem: str = "",
    *,
    variant: str = "",
    harmless: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Give a module the weights of a folder, by name; those of its own precision are mapped, so the files must stay there.

    Args:
        module: best built within `hollow`, so that it never holds weights of its own.
        folder: with one file of weights, or shards and their index.
        stem: the file's name up to its first dot; "" = either of `STEMS`.
        variant: "fp16" and the like; "" = the plain files, or a variant where it is all there is.
        harmless: patterns of names that the files may have beyond the module's, "*.position_ids" for one.
        dtype: that floating-point tensors are cast to, each as it is read; None = the file's own.

    Raises:
        FileNotFoundError: there is nothing to read.
        Unsafe: there is, as a pickle alone.
        Damaged: a file is cut short, or an index or a header does not tell the truth.
        Unfit: tensors are missing, left over or of another shape.
    """
    files = find(folder, stem, variant)
    twins = _twins(module)
    wanted = module.state_dict()
    found = {name: shape for shapes in files.values() for name, shape in shapes.items()}
    ignored = {name for name in found if name not in wanted and any(fnmatch(name, pattern) for pattern in harmless)}
    lent = {name: next((twin for twin in twins.get(name, ()) if twin in found), "") for name in wanted if name not in found}
    read = {name: shape for name, shape in found.items() if name not in ignored}
    if not _understood(module, read, {name for name, twin in lent.items() if twin}):
        compare(folder, {n: tuple(t.shape) for n, t in wanted.items() if not lent.get(n)}, found, ignored)
    state: dict[str, Tensor] = {}
    for path, shapes in files.items():
        state |= _tensors(path, [name for name in shapes if name in read], dtype)
    module.load_state_dict(state | {name: state[twin] for name, twin in lent.items() if twin}, strict=True, assign=True)
    for name, others in twins.items():
        if name < min(others):
            for other in others:
                owner, _, leaf = other.rpartition(".")
                setattr(module.get_submodule(owner), leaf, module.get_parameter(name))
    bare = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if bare:
        raise Unfit(f"buffers {_listed(bare)} are in no file and have no data: build the module within `hollow()`, not on meta")


def find(folder: Path, stem: str = "", variant: str = "") -> dict[Path, dict[str, tuple[int, ...]]]:
    """The files that hold a folder's weights, and the shape of each tensor in them; headers alone are read.

    Raises:
        FileNotFoundError, Unsafe, Damaged: as `fill`.
    """
    stems = (stem,) if stem else STEMS
    for kind in (variant,) if variant else ("", "fp16", "bf16", "*"):
        dotted = f".{kind}" if kind else ""
        for name in stems:
            for whole in sorted(folder.glob(f"{name}{dotted}.safetensors")):
                return {whole: _header(whole)}
            for pattern in {f"{name}.safetensors.index{dotted}.json", f"{name}{dotted}.safetensors.index.json"}:
                for index in sorted(folder.glob(pattern)):
                    return _shards(index)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pickles = [name for name in there if name.endswith(PICKLES)]
    if pickles:
        theirs = pickles[0].startswith("pytorch_model") and "model" in stems  # as transformers names its own
        stem = "model" if theirs else stems[0]
        raise Unsafe(
            f"{folder} has {_listed(pickles)} and no safetensors: opening a pickle runs whatever it says. Convert it where no "
            f"harm is done: safetensors.torch.save_file(torch.load({pickles[0]!r}, weights_only=True), "
            f"'{stem}.safetensors', metadata={{'format': 'pt'}})"
        )
    sought = " or ".join(f"{name}{'.' + variant if variant else ''}.safetensors" for name in stems)
    raise FileNotFoundError(f"{folder} has no {sought}" + (f"; it has {_listed(there)}" if there else ", or is no folder"))


def config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A folder's configuration, as long as it asks for no code but this library's and those that it names.

    Raises:
        FileNotFoundError: there is none.
        Unsafe: it asks for code of its own.
        Damaged: it is not a JSON object.
    """
    path = folder / name
    try:
        said = json.loads(path.read_bytes())
    except ValueError as error:
        raise Damaged(f"{path} is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise Damaged(f"{path} is a {type(said).__name__}; it must be an object")
    _check_code(path, said)
    if name == "model_index.json":
        for part, origin in said.items():
            library = origin[0] if isinstance(origin, list) and origin else None
            if library is not None and library not in (*LIBRARIES, *PIPELINES):
                raise Unsafe(
                    f"{path} takes its {part} from {library!r}, code of its own; only {', '.join(LIBRARIES)} are known, "
                    "and none of their code is run either"
                )
    return said


def _check_code(path: Path, said: Any) -> None:
    """No configuration within a configuration asks for code."""
    if isinstance(said, list):
        for each in said:
            _check_code(path, each)
    if not isinstance(said, dict):
        return
    for key in REMOTE:
        if said.get(key):
            raise Unsafe(f"{path} asks for code of its own: {key} is {said[key]!r}; such models are not opened, code is not run")
    kind = said.get("_class_name")
    if kind is not None and not (isinstance(kind, str) and kind.isidentifier()):
        raise Unsafe(f"{path} asks for code of its own: _class_name is {kind!r}; it must be the name of a published class")
    for each in said.values():
        _check_code(path, each)


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file's tensors."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{path} is no whole safetensors file: {error}") from None


def _shards(index: Path) -> dict[Path, dict[str, tuple[int, ...]]]:
    """The files of an index, after each has been seen to hold just what the index says it does."""
    placed = config(index.parent, index.name).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()):
        raise Damaged(f"{index} has no weight_map from tensors to files")
    found = {}
    for file in sorted(set(placed.values())):
        if file != Path(file).name or not file.endswith(".safetensors"):
            raise Unsafe(f"{index} points to {file!r}; a shard must be a safetensors file of the same folder")
        path = index.parent / file
        if not path.is_file():
            raise Damaged(f"{index} points to {file}, which is not there")
        found[path] = _header(path)
        said = {name for name, where in placed.items() if where == file}
        if said != set(found[path]):
            lost, more = sorted(said - set(found[path])), sorted(set(found[path]) - said)
            raise Damaged(
                f"{index} and {file} differ"
                + (f"; not in the file: {_listed(lost)}" if lost else "")
                + (f"; not in the index: {_listed(more)}" if more else "")
            )
    return found


def _tensors(path: Path, names: Sequence[str], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors of a file: views of its mapping, or cast copies, with the mapping let go every `_TOUCHED` bytes."""
    found: dict[str, Tensor] = {}
    left = list(reversed(names))
    while left:
        with safe_open(path, "pt") as file:
            touched = 0
            while left and touched < _TOUCHED:
                name = left.pop()
                tensor = file.get_tensor(name)
                if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype:
                    touched += tensor.nbytes
                    tensor = tensor.to(dtype)
                found[name] = tensor
            del tensor
    return found


def _understood(module: nn.Module, found: Mapping[str, tuple[int, ...]], lent: set[str]) -> bool:
    """Whether names that are not the module's are older ones that it reads all the same: tried without a weight."""
    if set(found) <= set(module.state_dict()):
        return False
    trial = copy.deepcopy(module).to("meta")
    try:
        left = trial.load_state_dict({n: torch.empty(s, device="meta") for n, s in found.items()}, strict=False, assign=True)
    except RuntimeError:  # of another shape
        return False
    return not left.unexpected_keys and set(left.missing_keys) <= lent


def compare(folder: Path, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], ignored: set[str]) -> None:
    """Raises Unfit where a folder's tensors are not those wanted, by name and shape; the ignored may be there."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted and name not in ignored]
    bent = [name for name in wanted if name in found and wanted[name] != found[name]]
    lines = [
        *_near("missing from the files", missing, extra),
        *_near("in the files alone", extra, missing),
        *_cut([f"{name} is {list(found[name])} in the files and {list(wanted[name])} in the module" for name in bent]),
    ]
    if lines:
        raise Unfit(f"the weights in {folder} are not this module's:\n  " + "\n  ".join(lines))


def _near(what: str, names: Sequence[str], others: Sequence[str]) -> list[str]:
    """A line per name, with the one on the other side that it is most like."""
    lines = []
    for name in names[:_NAMED]:
        near = difflib.get_close_matches(name, others, 1, 0.7)
        lines.append(f"{name} is {what}" + (f"; nearest on the other side: {near[0]}" if near else ""))
    return lines + ([f"and {len(names) - _NAMED} more {what}"] if len(names) > _NAMED else [])


def _cut(lines: list[str]) -> list[str]:
    return lines[:_NAMED] + ([f"and {len(lines) - _NAMED} more of another shape"] if len(lines) > _NAMED else [])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _twins(module: nn.Module) -> dict[str, list[str]]:
    """Names of parameters that are one and the same tensor, each with its others."""
    same: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        same.setdefault(id(parameter), []).append(name)
    return {name: [n for n in names if n != name] for names in same.values() if len(names) > 1 for name in names}


def save(module: nn.Module, folder: Path, config: Mapping[str, Any], class_name: str, shard: int = SHARD) -> None:
    """Write a module as diffusers or transformers load it back: config.json and safetensors, in shards above `shard` bytes.

    Args:
        config: with a `model_type`, it is transformers'; else diffusers'.
        class_name: the class of theirs that these weights are for.

    Raises:
        FileExistsError: the folder is there and is not empty.
        Unsafe: the configuration asks for code.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; weights are written to a folder of their own")
    theirs = "model_type" in config
    said = {**config, **({"architectures": [class_name]} if theirs else {"_class_name": class_name})}
    _check_code(folder / "config.json", said)
    tied = {other for name, others in _twins(module).items() for other in others if name == min((name, *others))}
    state = {name: tensor.detach() for name, tensor in module.state_dict().items() if name not in tied}
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.with_name(f".staged-{folder.name}-{uuid.uuid4().hex[:8]}")
    staged.mkdir()
    try:
        write(state, staged, STEMS[theirs], shard)
        write_durably(staged / "config.json", dump(said))
        if folder.exists():
            folder.rmdir()
        os.rename(staged, folder)
    except BaseException:
        erase(staged)
        raise


def write(state: Mapping[str, Tensor], folder: Path, stem: str = STEMS[1], most: int = SHARD) -> None:
    """Tensors as one file, or several of at most `most` bytes each and their index; a tensor is never split."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, tensor in state.items():
        if groups[-1] and held + tensor.nbytes > most:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += tensor.nbytes
    placed: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        part = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
        file = f"{stem}{part}.safetensors"
        save_file({name: state[name].contiguous().cpu() for name in names}, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(names, file)
    if len(groups) > 1:
        total = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        write_durably(folder / f"{stem}.safetensors.index.json", dump(index))
