"""An image to translate, as a condition field."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Condition, Conditioner
from maquette.streams import Streams


class Source(Conditioner):
    """Images "source" float[B,C,H,W] in 0..1 -> a field in -1..1; the null condition is all zeros. Has no parameters.

    Keeps some of the training sources, checkpointed, for samples that nobody gave an image to.

    Args:
        shape: (C, H, W) of the images.
        examples: sources kept.

    Raises:
        ValueError: an image of another shape.
    """

    fields = ("source",)
    examples: Tensor

    def __init__(self, shape: tuple[int, ...], examples: int = 64):
        super().__init__()
        self.register_buffer("examples", torch.zeros(examples, *shape))

    def learn(self, data: Any) -> None:
        found = data.rows(torch.arange(len(self.examples)) % len(data))["source"]
        self.examples.copy_(found)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        source: Tensor = batch["source"]
        if source.shape[1:] != self.examples.shape[1:]:
            raise ValueError(f"a source is of {tuple(source.shape[1:])}; this system takes {tuple(self.examples.shape[1:])}")
        field = source * 2 - 1
        if drop >= 1:
            field = torch.zeros_like(field)
        elif drop > 0 and rng is not None:
            field = field * (rng.uniform(1, 1, 1) >= drop)
        return Condition(field=field)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        return {"source": self.examples[rng.integers(len(self.examples))]}
