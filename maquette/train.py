"""The one loop. For each phase that is due: its learners' gradients, their mean over ranks, one optimizer step.

Knows phases and roles, no family. A step is a pure function of the system's state and (seed, step), so a run resumes
bit for bit from its weights, its optimizers and its step number alone.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from maquette.contracts import Batch, Phase
from maquette.data import Data, order
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.muon import Muon
from maquette.nn.ranks import alone
from maquette.streams import Streams, mix
from maquette.system import System

LATE = 1 << 20  # a step by which every player has joined in: what waits for its turn costs nothing before


class NotFinite(ArithmeticError):
    """A loss or gradient became NaN or infinite. The update was not made: the weights are the last good ones."""

    def __init__(self, phase: str, step: int, what: str):
        self.phase, self.step, self.what = phase, step, what
        super().__init__(
            f"the {what} of phase '{phase}' is not finite at step {step}; nothing was updated. "
            "Try a lower learning rate (--lr), a longer warm-up, a smaller clip, or fp32 (--no-bf16)."
        )


@dataclass
class Progress:
    """How far a run is: saved and resumed whole. One optimizer (or two: Muon and AdamW) per distinct set of roles."""

    fit: Fit
    seed: int = 0
    step: int = 0
    seconds: float = 0.0  # CPU-seconds of training so far (GPU: wall-clock seconds)
    optimizers: dict[str, list[torch.optim.Optimizer]] = field(default_factory=dict)
    strange: bool = False  # the moments it was saved with are of other optimizers, and were left where they are

    @property
    def share(self) -> float:
        return self.step / max(1, self.fit.steps)

    def optimizers_of(self, learners: dict[str, nn.Module]) -> list[torch.optim.Optimizer]:
        """The optimizers of a set of roles, made at its first turn."""
        key = "+".join(learners)
        if key not in self.optimizers:
            self.optimizers[key] = build_optimizers(learners, self.fit)
        return self.optimizers[key]


def hidden(net: nn.Module) -> set[str]:
    """Names of the parameters that are Muon's: matrices and kernels, but for those at the edges of a network."""
    edges, kernels = [], set()
    for place, part in net.named_modules():
        at = f"{place}." if place else ""
        edges += [at + edge for edge in getattr(part, "edges", ())]
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) and part.groups == 1:
            kernels.add(f"{at}weight")
    named = net.named_parameters()
    return {name for name, p in named if (p.ndim == 2 or name in kernels) and not name.startswith(tuple(edges))}


def build_optimizers(learners: dict[str, nn.Module], fit: Fit) -> list[torch.optim.Optimizer]:
    """AdamW for everything; with `fit.muon`, Muon for what is hidden. Vectors and gains are not decayed."""
    muon: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for net in learners.values():
        inner = hidden(net) if fit.muon else ()
        for name, p in net.named_parameters():
            (muon if name in inner else matrices if p.ndim >= 2 else vectors).append(p)
    groups = [{"params": matrices, "weight_decay": fit.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    found: list[torch.optim.Optimizer] = []
    if matrices or vectors:
        found.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=fit.lr, betas=fit.betas, fused=True))
    if muon:
        found.append(Muon(muon, lr=fit.muon, weight_decay=fit.weight_decay, adjust_lr_fn="original"))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


def rate(fit: Fit, step: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, constant, cosine fall to `floor`."""
    rise = max(1, round(fit.warmup * fit.steps))
    fall = max(1, round(fit.decay * fit.steps))
    left = max(0, fit.steps - step)
    down = 1.0 if left >= fall else fit.floor + (1 - fit.floor) * 0.5 * (1 - math.cos(math.pi * left / fall))
    return min(1.0, (step + 1) / rise) * down


def clock(device: torch.device) -> float:
    """Training seconds so far: CPU-seconds of this process over all its threads; wall-clock seconds beside a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def ready(system: System, fit: Fit) -> None:
    """Compile the networks if the fit wants it and the machine has a compiler."""
    if not fit.compile or not (torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")):
        return
    for net in system.nets.values():
        if next(net.parameters(), None) is not None:
            net.compile()


def run(system: System, data: Data, progress: Progress, world: World | None = None) -> Iterator[dict[str, Tensor]]:
    """Take steps until `progress.fit.steps`, yielding each step's logs. The caller saves, shows and stops."""
    world = world or World()
    while progress.step < progress.fit.steps:
        if not system.training:  # the caller may have sampled
            system.train()
        began = clock(system.device)
        logs = take_step(system, data, progress, world)
        progress.seconds += clock(system.device) - began
        yield logs


def reseed(seed: int, device: torch.device) -> None:
    """What torch itself draws from on a device. `torch.manual_seed` also notes, with the call stack, each device that is not in
    use: a millisecond of every step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def take_step(system: System, data: Data, progress: Progress, world: World) -> dict[str, Tensor]:
    """One step of every phase that is due, then the followers follow.

    Raises:
        NotFinite: before the update that would have spoilt the weights.
    """
    fit, step, seed = progress.fit, progress.step, progress.seed
    rows = order(seed, step, fit.batch, len(data.train), world.rank, world.size)
    batches = [data.train.rows(part) for part in rows.chunk(fit.micro)]
    reseed(mix(seed, step, world.rank), system.device)  # dropout: the only randomness that does not come from Streams
    scale = rate(fit, step)
    logs: dict[str, Tensor] = {}
    for index, phase in enumerate(system.objective.phases()):
        learners = system.learners(phase)
        if not phase.due(step) or not learners:
            continue
        parameters = system.turn(phase)
        streams = Streams.of(mix(seed, step, index), len(rows), first=world.rank * len(rows), device=system.device)
        loss = accumulate(system, phase, batches, streams, step, fit, logs, world)
        grads = [p.grad for p in parameters if p.grad is not None]
        world.mean_(grads)
        norm = clip(grads, fit.clip)
        for what, value in (("loss", loss), ("gradient", norm)):
            if not bool(torch.isfinite(value)):
                for p in parameters:
                    p.grad = None
                raise NotFinite(phase.name, step, what)
        logs[f"{phase.name}/norm"] = norm
        for optimizer in progress.optimizers_of(learners):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale * phase.pace
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    system.advance()
    progress.step += 1
    return logs


def accumulate(
    system: System,
    phase: Phase,
    batches: list[Batch],
    streams: Streams,
    step: int,
    fit: Fit,
    logs: dict[str, Tensor],
    world: World,
) -> Tensor:
    """Gradients of a phase's mean loss over the micro-batches; its logs are averaged into `logs`. Returns the loss."""
    total, first = torch.zeros((), device=system.device), 0
    for batch, weight in zip(batches, weights(phase, batches, world, system.device), strict=True):
        size = len(next(iter(batch.values())))
        with torch.autocast(system.device.type, torch.bfloat16, enabled=fit.bf16):
            loss, told = phase.move(system, batch, streams[slice(first, first + size)], step)
        (loss * weight).backward()
        total += loss.detach() * weight
        first += size
        for name, value in {"loss": loss, **told}.items():
            key = f"{phase.name}/{name}"
            logs[key] = logs.get(key, torch.zeros((), device=system.device)) + value.detach() * weight
    return total


def weights(phase: Phase, batches: list[Batch], world: World, device: torch.device) -> Tensor:
    """What each micro-batch counts: by its targets, of all ranks' too, where the phase tells them; else by its rows."""
    told = [phase.targets(batch) for batch in batches] if phase.targets is not None else []
    counts = [count for count in told if count is not None]
    if len(counts) < len(batches):
        rows = torch.tensor([float(len(next(iter(batch.values())))) for batch in batches], device=device)
        return rows / rows.sum()
    count = torch.stack(counts).to(device, torch.float32)
    mean = count.sum()
    world.mean_([mean])
    return count / mean.clamp(min=1)


def clip(grads: list[Tensor], limit: float) -> Tensor:
    """Scale gradients so that their joint norm is at most `limit` (0 = leave them); returns the norm before."""
    norm = nn.utils.get_total_norm(grads) if grads else torch.zeros(())
    if limit > 0 and grads:
        torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def plan(system: System, data: Data, fit: Fit, budget: float, seed: int = 0) -> tuple[Fit, float]:
    """Turn a budget in training seconds into a number of steps, by timing real steps that are then undone.

    Where players join or leave on the way, the steps until then are timed by themselves; where all have left, nothing more is
    bought. What only time tells, such as answers that become shorter, no trial sees.

    Returns the fit with its steps, and the seconds this took (compilation included), which the budget does not pay.
    """
    began = clock(system.device)
    kept = copy.deepcopy(system.state_dict())
    phases = system.objective.phases()
    span = min(max(phase.every for phase in phases), 16)
    turns = sorted({0, *(turn for phase in phases for turn in (phase.since, phase.until))})
    count, left = 0.0, budget
    for first, until in pairwise(turns if system.objective.ends() else [*turns, 0]):
        each = _pace(system, data, fit, first if until else LATE, until, min(0.05 * budget, 10.0), span, seed)
        some = min(left / each, until - first) if until else left / each
        count, left = count + some, left - some * each
        if left <= 0:
            break
    system.load_state_dict(kept)
    return replace(fit, steps=max(1, round(count))), clock(system.device) - began


def _pace(system: System, data: Data, fit: Fit, first: int, until: int, least: float, span: int, seed: int) -> float:
    """Seconds of a step from `first` on and before `until` (0 = ever): the mean over `least` seconds, `span` steps or more."""
    trial, done = Progress(replace(fit, steps=1 << 40), seed, step=first), -2  # the first steps compile and allocate
    steps = run(system, data, trial)
    with alone():  # ranks count their own steps here, so nothing may wait for another
        while done < max(span, 4) or trial.seconds < least:
            if done == 0:
                trial.seconds = 0.0
            next(steps)
            done += 1
            if until and trial.step >= until:
                trial.step = first
    return trial.seconds / done
