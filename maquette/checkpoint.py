"""A system and its progress as the files of a checkpoint, and back. Never a pickle: safetensors and JSON.

Knows systems and progress, not where checkpoints live (runs) or how they become durable (storage).
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from maquette.experiment import Fit
from maquette.storage import FORMAT, Damaged, dump
from maquette.system import System
from maquette.train import Progress

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


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
    return dict(zip(FILES, (save_tensors(weights), save_tensors(moments), dump(state)), strict=True))


def restore(files: dict[str, bytes], system: System) -> Progress:
    """Fill a freshly built system from a checkpoint's files; returns its progress, optimizers included.

    Where their moments are of other weights than these optimizers', they are left, and the progress is `strange`.

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
        key, nth, index, slot = name.rsplit("/", 3)
        moments.setdefault(key, {}).setdefault(int(nth), {}).setdefault(int(index), {})[slot] = tensor
    for phase in system.objective.phases():
        learners = system.learners(phase)
        if learners and "+".join(learners) in moments:
            for place, optimizer in enumerate(progress.optimizers_of(learners)):
                groups, state = optimizer.state_dict()["param_groups"], moments["+".join(learners)].get(place, {})
                if not _own(optimizer, state):
                    progress.strange = True
                    continue
                optimizer.load_state_dict({"state": state, "param_groups": groups})
                _lay(optimizer)
    return progress


def _own(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> bool:
    """Whether moments are of these weights: other versions may have shared them out otherwise."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return all(
        index < len(weights) and all(value.ndim == 0 or value.shape == weights[index].shape for value in slots.values())
        for index, slots in state.items()
    )


def _lay(optimizer: torch.optim.Optimizer) -> None:
    """Lay moments in memory as their weights lie: the fused step takes both as one row of numbers."""
    for weight, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value.shape == weight.shape and value.stride() != weight.stride():
                slots[slot] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def spoilt(system: System) -> str:
    """The name of the first weight that is not finite, or ''."""
    for name, tensor in system.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return ""
