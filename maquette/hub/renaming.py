"""Tensors under other names: which of theirs each of a module's is made of, read by that and written back by it, without loss.

Knows names, rows and files; no family of models. What is joined here (queries, keys and values; gate and up) is split there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from maquette.hub import weights
from maquette.nn.attention import Attention, Latent

TOUCHED = 1 << 26  # bytes copied before a mapping is let go


@dataclass(frozen=True)
class To:
    """What a module of ours is called there, "{i}" standing for the same number on both sides.

    Args:
        names: of theirs whose rows lie one below the other here; none = they have nothing of the kind.
        flipped: matrices are [in, out] there (GPT-2).
        paired: channel 2 i turns with 2 i + 1 there, among the last of each head; here with half of them on (DeepSeek).
    """

    names: tuple[str, ...]
    flipped: bool = False
    paired: bool = False

    def __init__(self, *names: str, flipped: bool = False, paired: bool = False):
        for name, value in (("names", names), ("flipped", flipped), ("paired", paired)):
            object.__setattr__(self, name, value)


Table = Mapping[str, str | To]  # a module's name, or a tensor's own -> theirs


@dataclass(frozen=True)
class Part:
    """A tensor of theirs, as rows of one here."""

    name: str
    shape: tuple[int, ...]  # there
    rows: int  # here
    flipped: bool = False
    order: tuple[int, ...] = ()  # row i here is row order[i] there; () = as it is

    def here(self, tensor: Tensor) -> Tensor:
        """Theirs -> ours."""
        tensor = tensor.t() if self.flipped else tensor
        return tensor[list(self.order)] if self.order else tensor

    def there(self, tensor: Tensor) -> Tensor:
        """Ours -> theirs."""
        tensor = self.rowwise(tensor)
        return tensor.t() if self.flipped else tensor

    def rowwise(self, tensor: Tensor) -> Tensor:
        """Rows here -> in their order there."""
        return tensor[torch.tensor(self.order).argsort().to(tensor.device)] if self.order else tensor


@dataclass(frozen=True)
class Row:
    """A tensor here, and what it is made of there."""

    name: str
    parts: tuple[Part, ...]

    def join(self, found: Sequence[Tensor]) -> Tensor:
        """Theirs, in order -> ours."""
        made = [part.here(tensor) for part, tensor in zip(self.parts, found, strict=True)]
        return made[0] if len(made) == 1 else torch.cat(made)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Ours -> theirs, in order."""
        pieces = tensor.split([part.rows for part in self.parts]) if len(self.parts) > 1 else (tensor,)
        return [part.there(piece) for part, piece in zip(self.parts, pieces, strict=True)]


def rows(module: nn.Module, table: Table, left: Sequence[str] = ()) -> list[Row]:
    """Of every tensor of a module that is saved, tied ones once, what it is made of there.

    Args:
        left: what names begin with that are left out.

    Raises:
        KeyError: the table does not know a tensor.
    """
    patterns = [
        (re.compile(re.escape(ours).replace(r"\{i\}", r"(\d+)").replace(r"\{j\}", r"(\d+)")), to) for ours, to in table.items()
    ]
    found, seen = [], set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen and not name.startswith(tuple(left)):
            seen.add(id(tensor))
            found.append(_row(module, name, tensor, patterns))
    return found


def _row(module: nn.Module, name: str, tensor: Tensor, patterns: list[tuple[re.Pattern[str], str | To]]) -> Row:
    owner, _, leaf = name.rpartition(".")
    for said, tail in ((name, ""), (owner, f".{leaf}")):
        for pattern, to in patterns:
            if match := pattern.fullmatch(said):
                to = To(to) if isinstance(to, str) else to
                names = [_numbered(each, match.groups()) + tail for each in to.names]
                return Row(name, tuple(_parts(module, owner, tensor, names, to)))
    raise KeyError(f"no name there is known for {name}")


def _numbered(name: str, numbers: tuple[str, ...]) -> str:
    for place, number in zip(("{i}", "{j}"), numbers, strict=False):
        name = name.replace(place, number)
    return name


def _parts(module: nn.Module, owner: str, tensor: Tensor, names: list[str], to: To) -> Iterator[Part]:
    above = module.get_submodule(owner.rpartition(".")[0])
    shares = (above.heads, above.groups, above.groups) if isinstance(above, Attention) and len(names) == 3 else (1,) * len(names)
    flipped = to.flipped and tensor.ndim == 2
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        count = len(tensor) * share // sum(shares) if tensor.ndim else 1
        shape = (count, *tensor.shape[1:]) if tensor.ndim else ()
        order = tuple(_paired(count, above)) if to.paired and i < 2 else ()  # values do not turn
        yield Part(name, shape[::-1] if flipped else shape, count, flipped, order)


def _paired(count: int, above: nn.Module) -> Iterator[int]:
    """Which row there stands at each here: of a matrix that ends in channels that turn, or of one whose heads do."""
    assert isinstance(above, Attention | Latent)
    size, turned = above.size if isinstance(above, Attention) else above.still + above.turned, above.turned
    step = size if isinstance(above, Attention) or count == above.heads * size else count
    for first in range(0, count, step):
        still = first + step - turned
        yield from range(first, still)
        yield from range(still, first + step, 2)
        yield from range(still + 1, first + step, 2)


# -- from files, and to tensors for files --------------------------------------------------------------------------------


def fill(
    module: nn.Module,
    table: Table,
    folder: Path,
    *,
    spelt: Callable[[str], str] = str,
    harmless: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Give a module, built within `weights.hollow`, a folder's weights; those that lie there as here are mapped.

    What must be joined, turned or cast is read a tensor at a time and its mapping let go, so that memory holds little more than
    the module's own weights.

    Args:
        spelt: a name in the files -> the table's.
        harmless: patterns of names that the files may have beyond the table's.
        dtype: that floating-point tensors are cast to; None = the files' own.

    Raises:
        FileNotFoundError, Unsafe, Damaged, Unfit: as `weights.fill`.
    """
    files = weights.find(folder)
    found = {spelt(name): (path, name, shape) for path, shapes in files.items() for name, shape in shapes.items()}
    made = rows(module, table)
    wanted = {part.name: part.shape for row in made for part in row.parts}
    ignored = {name for name in found if name not in wanted and any(fnmatch(name, pattern) for pattern in harmless)}
    weights.compare(folder, wanted, {name: shape for name, (_, _, shape) in found.items()}, ignored)
    reader, holders, state = _Reader(), _holders(module), module.state_dict(keep_vars=True)
    for row in made:
        if not row.parts:
            continue
        as_is = len(row.parts) == 1 and not row.parts[0].flipped and not row.parts[0].order
        at = [found[part.name][:2] for part in row.parts]
        if as_is and (dtype is None or reader.kind(*at[0]) in (dtype, torch.int64)):
            tensor = reader.mapped(*at[0])
        else:
            tensor = row.join([reader.read(path, name, dtype) for path, name in at])
            tensor = tensor.clone(memory_format=torch.contiguous_format) if len(row.parts) == 1 else tensor
        old = state[row.name]
        new = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor.to(old.dtype)
        for held, leaf in holders[id(old)]:
            held[leaf] = new


class _Reader:
    """Tensors of files: views of a mapping that is kept, or ones to be copied at once from another that is let go."""

    def __init__(self) -> None:
        self.kept: dict[Path, safe_open] = {}
        self.passing: dict[Path, tuple[safe_open, int]] = {}

    def mapped(self, path: Path, name: str) -> Tensor:
        if path not in self.kept:
            self.kept[path] = safe_open(path, "pt")
        return self.kept[path].get_tensor(name)

    def kind(self, path: Path, name: str) -> torch.dtype:
        return self.mapped(path, name).dtype

    def read(self, path: Path, name: str, dtype: torch.dtype | None) -> Tensor:
        file, touched = self.passing.pop(path, (None, TOUCHED))
        if file is None or touched >= TOUCHED:
            file, touched = safe_open(path, "pt"), 0
        tensor = file.get_tensor(name)
        self.passing = {path: (file, touched + tensor.nbytes)}  # one file at a time
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _holders(module: nn.Module) -> dict[int, list[tuple[dict[str, Any], str]]]:
    """Where each tensor is held, by its id: more than once where it is tied."""
    found: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for leaf, tensor in held.items():
                if tensor is not None:
                    found.setdefault(id(tensor), []).append((held, leaf))
    return found


def spell(module: nn.Module, table: Table, left: Sequence[str] = ()) -> dict[str, Tensor]:
    """A module's tensors under their names, as views where they lie there as here.

    Args:
        left: what names of ours begin with that are left out.

    Raises:
        ValueError: a tensor that they have no place for holds something.
    """
    state = module.state_dict()
    made: dict[str, Tensor] = {}
    for row in rows(module, table, left):
        if row.parts:
            made |= {part.name: tensor for part, tensor in zip(row.parts, row.split(state[row.name]), strict=True)}
        elif not row.name.endswith("load") and state[row.name].any():
            raise ValueError(f"{row.name} was learnt, and the published class has no such tensor")
    return made
