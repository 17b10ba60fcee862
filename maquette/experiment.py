"""What a recipe returns: a system, its data, and how long and how fast to fit it. Everything a run needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from maquette.data import Data
from maquette.system import System

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("steps", 1, float("inf")),
    ("batch", 1, float("inf")),
    ("micro", 1, float("inf")),
    ("lr", 0.0, 10.0),
    ("muon", 0.0, 10.0),
    ("weight_decay", 0.0, float("inf")),
    ("clip", 0.0, float("inf")),
    ("warmup", 0.0, 1.0),
    ("decay", 0.0, 1.0),
    ("floor", 0.0, 1.0),
)


@dataclass(frozen=True)
class Fit:
    """How long and how fast. Every value is a default that `train` may override.

    Args:
        steps: optimizer steps, where neither --steps nor --budget is given.
        batch: rows per step over all ranks and micro-batches.
        lr: peak learning rate (AdamW's; see `muon`).
        warmup: share of the steps over which the rate rises from 0.
        decay: share of the steps, at the end, over which it falls to `floor` * lr (cosine).
        muon: learning rate of Muon for the hidden matrices and kernels (Jordan 2024); 0 = AdamW for all.
        bf16: autocast matrix products and convolutions to bfloat16.
        compile: torch.compile the networks where a compiler is present.
        micro: micro-batches a step's batch is cut into (gradient accumulation).

    Raises:
        ValueError: a value out of its range.
    """

    steps: int = 1000
    batch: int = 64
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: float = 0.02
    decay: float = 1.0
    floor: float = 0.0
    clip: float = 1.0
    muon: float = 0.0
    bf16: bool = False
    compile: bool = False
    micro: int = 1

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                if value != value:
                    raise ValueError(f"{name} is {value}, which is no number")
                allowed = f"{low} or more" if high == float("inf") else f"{low} .. {high}"
                raise ValueError(f"{name} is {value}; it must be {allowed}, nearest is {min(max(value, low), high)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; they must be two numbers from 0 to below 1, such as 0.9,0.99")


def seconds_of(budget: str | float) -> float:
    """A budget as seconds: 90, "90", "60s", "10m", "1.5h".

    Raises:
        ValueError: it is none of these, or not above 0.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([smh]?)\s*", str(budget))
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"budget '{budget}' is not a time: write seconds, minutes or hours as 60s, 10m or 1.5h")
    return seconds


@dataclass(frozen=True)
class Experiment:
    """A system, its data, how to fit it.

    expected: the band that `make slow` holds it to, figure -> (low, high), on the default data on one CPU thread; within: the
    training CPU-seconds that this takes, 600 at most.
    """

    system: System
    data: Data
    fit: Fit = Fit()
    expected: dict[str, tuple[float, float]] | None = None
    within: int = 60
