"""A picture that lost something, told as a field of the one to make: super-resolution's small one, colouring's grey one.

Knows what is lost and how a picture dissolves; not what fills it in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Condition, Conditioner, Process
from maquette.nn.degrade import Coarse, Edges, Grey
from maquette.nn.embed import fourier
from maquette.streams import Streams

WAVES = 32  # numbers that a level becomes
EXAMPLES = 64  # training rows kept, as they are left, for samples that nobody gave a picture to


class Degraded(Conditioner):
    """Pictures "source" float[B,C,H,W] in 0..1, whole or as they are left -> a field in -1..1. It is never dropped.

    Where a batch brings none, it is made of its "image". With a process, what is left is dissolved to a level that is told as a
    vector (noise conditioning augmentation: Ho 2021, arXiv:2106.15282, sec. 4.2; Saharia 2022, Imagen, sec. 2.4): in training one
    drawn uniformly from 0 .. `most`, in samples what a batch brings as "noise" float[B], or `level`.

    Args:
        loss: what pictures lose.
        process: how they dissolve; None = not.
        most: the most they dissolve in training, a time of the process.
        level: of samples.

    Raises:
        ValueError: a source of another shape; a level outside 0 .. 1.
    """

    fields = ("source",)
    drops = False
    examples: Tensor

    def __init__(self, loss: Coarse | Grey | Edges, process: Process | None = None, most: float = 1.0, level: float = 0.0):
        super().__init__()
        self.loss, self.process, self.most, self.level = loss, process, most, level
        self.options = () if process is None else ("noise",)
        self.shapes = (loss.shape,)
        self.register_buffer("examples", torch.zeros(EXAMPLES, *loss.shape))

    @property
    def channels(self) -> int:
        """Of the field."""
        return self.loss.shape[0]

    @property
    def width(self) -> int:
        """Of the vector."""
        return 0 if self.process is None else WAVES

    def learn(self, data: Any) -> None:
        rows = data.rows(torch.arange(len(self.examples)) % len(data))["image"]
        self.examples.copy_(self.loss.of(rows))

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        left = self.left(batch) * 2 - 1
        if self.process is None:
            return Condition(field=self.loss.field(left))
        level = self._level(batch, len(left), rng).to(left)
        if rng is not None:
            left = self.process.corrupt(left, level, rng.fork(1))
        return Condition(fourier(level, WAVES), field=self.loss.field(left))

    def left(self, batch: Batch) -> Tensor:
        """What is left of a batch's pictures, [B,c,h,w] in 0..1."""
        source: Tensor = batch["source"] if "source" in batch else self.loss.of(batch["image"])
        if source.shape[1:] == self.loss.shape:
            return source
        if source.shape[1:] != self.loss.whole:
            whole, left = (" x ".join(map(str, shape)) for shape in (self.loss.whole, self.loss.shape))
            raise ValueError(f"a source is of {tuple(source.shape[1:])}; this system takes {left}, or {whole} to make that of")
        return self.loss.of(source)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        known = said or {}
        guessed: Batch = {} if "source" in known else {"source": self.examples[rng.integers(len(self.examples))]}
        if self.process is not None and "noise" not in known:
            guessed["noise"] = torch.full((len(rng),), self.level, device=rng.keys.device)
        return guessed

    def asked(self, batch: Batch) -> Batch:
        return {"source": self.left(batch)}

    def worsened(self, images: Tensor) -> Tensor:
        """What is left of pictures [B,C,H,W] in 0..1."""
        return self.loss.of(images)

    def plain(self, left: Tensor) -> Tensor:
        """The pictures [B,C,H,W] that are made of it without a model."""
        return self.loss.plain(left)

    def _level(self, batch: Batch, rows: int, rng: Streams | None) -> Tensor:
        if "noise" not in batch:
            return torch.zeros(rows) if rng is None else self.most * rng.fork(0).uniform()
        level: Tensor = batch["noise"]
        if not bool(((level >= 0) & (level <= 1)).all()):
            wrong = float(level[~((level >= 0) & (level <= 1))][0])
            raise ValueError(f"noise is {wrong}; it must lie in 0 .. 1, nearest is {min(1.0, max(0.0, wrong)):g}")
        return level
