"""From a folder to something open: a run with its newest checkpoint that verifies, or what another library published.

Knows runs, checkpoints and published folders; draws nothing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from maquette import checkpoint, storage
from maquette.contracts import Network, Sampler
from maquette.dials import described, turned
from maquette.hub import language, models, pipelines
from maquette.hub.pipelines import Published
from maquette.networks.stepping import stepping
from maquette.networks.transformer import Transformer
from maquette.nn.lora import Adapted, whole
from maquette.opened import Loaded
from maquette.runs import Run, RunError, rebuild
from maquette.samplers.speculative import Another, Draft, Foresight, Speculative
from maquette.samplers.writing import Writer
from maquette.system import System
from maquette.train import Progress


def load(
    path: str | Path | Run,
    *,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
    size: str = "",
    bits: int = 0,
) -> Loaded:
    """Open a run with its newest checkpoint that verifies (or that of `step`). Needs no data on this machine.

    A run made by a recipe of your own names code to import: that is done if it is imported already, or with `trust`. A folder
    that diffusers' pipelines, or transformers' language models, are saved to opens alike; nothing in it is run.

    Args:
        size: of the images that a published pipeline makes, in pixels: "512", or height x width, "512x768".
        bits: of the matrices of transformers over symbols, 32, 16, 8 or 4, in which they then write faster; 0 = they stay as
            they are.

    Raises:
        RunError: no such run, none of its checkpoints can be used, or it names code that nobody said to trust.
        ValueError: a published folder that cannot be opened: what is not built, missing, left over or misshapen is named. Or
            bits of what is no transformer over symbols.
    """
    if not isinstance(path, Run) and is_published(path):
        if bits and not language.is_one(Path(path)):
            raise ValueError(f"bits are {bits}; a published pipeline has no transformer over symbols to pack: only 0")
        return _published(Path(path), step, device, size, bits)
    if size:
        raise ValueError(f"size is {size}; only a published pipeline makes images of another size than its own")
    found = path if isinstance(path, Run) else Run.open(path)
    refused: list[str] = []
    if step is None:
        _, files, refused = found.newest()
    else:
        files = storage.read_verified(found.at(step))
    for reason in refused:
        print(f"passed over: {reason}", file=sys.stderr)
    experiment = rebuild(found, trust)
    experiment.system.to(pick_device(device))
    progress = checkpoint.restore(files, experiment.system)
    experiment.system.eval()
    if bits:
        _pack(experiment.system, bits)
    return Loaded(found, experiment, progress, tuple(refused))


def _pack(system: System, bits: int) -> None:
    """Put transformers over symbols into so many bits, adapted ones with their changes."""
    some = {
        name: net for name, net in system.nets.items() if isinstance(net.net if isinstance(net, Adapted) else net, Transformer)
    }
    if not some:
        raise ValueError(f"bits are {bits}; this run has no transformer over symbols to pack: only 0")
    system.nets.update({name: stepping(whole(cast(Network, net)), bits) for name, net in some.items()})


def is_published(path: str | Path) -> bool:
    """Whether a folder holds a pipeline as diffusers saves them, or a language model as transformers does.

    Raises:
        RunError: it holds a single model of one, which makes nothing by itself.
    """
    folder = Path(path)
    if (folder / "run.json").exists():
        return False
    if language.is_one(folder):
        return True
    if (folder / "config.json").is_file() and not (folder / pipelines.INDEX).is_file():
        raise RunError(
            f"{folder} holds one model, {models.name_of(folder)}, and no pipeline: it makes nothing by itself; "
            "maquette.hub.models.read(folder) opens it as a network"
        )
    return (folder / pipelines.INDEX).is_file()


def field_of(path: str | Path) -> str:
    """The field of what a run, or a published pipeline, makes: "image", "text"."""
    record = published(Path(path)).record if is_published(path) else Run.open(path).record
    return str(record.get("makes") or record["data"]["field"])


def published(folder: Path) -> Published:
    """What a published folder holds, by its configurations and headers alone.

    Raises:
        ValueError, FileNotFoundError: as `pipelines.published`, `language.published`.
    """
    return language.published(folder) if language.is_one(folder) else pipelines.published(folder)


def _published(folder: Path, step: int | None, device: str, size: str, bits: int) -> Loaded:
    found, text = published(folder), language.is_one(folder)
    if step is not None:
        raise RunError(f"{folder} is a published {'model' if text else 'pipeline'}, no run: it has no checkpoint of step {step}")
    if text and size:
        raise ValueError(f"size is {size}; {folder} is a language model, which makes no images")
    experiment = language.read(folder) if text else pipelines.read(folder, _sides(size))
    experiment.system.to(pick_device(device))
    if bits:
        _pack(experiment.system, bits)
    return Loaded(found, experiment, Progress(experiment.fit))


def _sides(size: str) -> tuple[int, int] | None:
    """Height and width from "512" or "512x768"; None where nothing is said."""
    parts = [part.strip() for part in size.lower().split("x")] if size else []
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"size '{size}' is no size: write pixels as 512, or height x width as 512x768")
    return (int(parts[0]), int(parts[-1])) if parts else None


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: this process's GPU if there is one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None


def drafted(
    sampler: Sampler | None, draft: str | Path, dials: dict[str, Any], *, device: str = "auto", trust: bool = False
) -> Sampler:
    """A sampler with its dials turned, that writes what a draft guesses ("lookup", "ahead", or the folder of a run) and it keeps.

    Raises:
        ValueError: the sampler is none that could; the run writes no symbols one after another.
    """
    made = turned(sampler, {"sampler": "speculative", **dials})
    if not isinstance(made, Speculative):
        raise ValueError(f"--draft {draft} is for the sampler 'speculative', not for {described(made)['name']}")
    own: dict[str, Draft] = {"lookup": made.draft, "ahead": Foresight()}
    if str(draft) in own:
        return replace(made, draft=own[str(draft)])
    if not Path(draft).exists():
        raise ValueError(f"--draft {draft} is no folder of a run; allowed are one, and {' and '.join(map(repr, own))}")
    found = load(draft, device=device, trust=trust)
    if not isinstance(found.system.sampler, Writer) or "main" not in found.system.nets:
        raise ValueError(f"--draft {draft} is a run of {found.run.record['recipe']}, which writes no symbols one after another")
    return replace(made, draft=Another(found.system, str(draft)))


def evaluation_of(folder: Path) -> dict[str, Any] | None:
    """What a run's newest evaluation says; None before the first."""
    path = folder / "eval.json"
    return json.loads(path.read_text()) if path.exists() else None
