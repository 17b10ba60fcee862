"""A picture as tokens that stand before the symbols written about it. Knows an encoder, which learns; no caption."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from maquette.contracts import Batch, Condition, Conditioner
from maquette.networks.resnet import ResNetEncoder
from maquette.streams import Streams

POOL = 2  # parts to a side within which it does not matter where something is
EXAMPLES = 64  # training pictures kept for samples that nobody gave a picture to


class Picture(Conditioner):
    """Pictures "image" float[B,C,H,W] in 0..1 -> tokens [B,L,D]: one vector of an encoder's, cut in L (Mokady 2021).

    And whether what is written of them is to be full, as a vector [B,1]: a batch may say so, "full" float[B,1] in 0..1; else it
    is. Null tokens are all zeros. Keeps some of the training pictures, checkpointed.

    Args:
        shape: (C, H, W) of the pictures.
        length, width: L and D.
        channels: of the encoder's first rung.

    Raises:
        ValueError: a picture of another shape, or not one "full" for each.
    """

    fields = ("image",)
    options = ("full",)
    edges = ("encoder.head",)
    drops = False
    examples: Tensor

    def __init__(self, shape: tuple[int, int, int], length: int, width: int, channels: int):
        super().__init__()
        fold = 2 if min(shape[1:]) >= 16 else 1
        self.shape, self.size = shape, (length, width)
        self.encoder = ResNetEncoder(shape, length * width, channels, fold=fold, pool=POOL)
        self.register_buffer("examples", torch.zeros(EXAMPLES, *shape))

    def learn(self, data: Any) -> None:
        self.examples.copy_(data.rows(torch.arange(EXAMPLES) % len(data))["image"])

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        image = batch["image"]
        if tuple(image.shape[1:]) != self.shape:
            raise ValueError(f"a picture is of {tuple(image.shape[1:])}; this system takes {self.shape}")
        full = torch.as_tensor(batch.get("full", torch.ones(len(image), 1))).to(image)
        if full.shape != (len(image), 1):
            raise ValueError(
                f"full is of shape {tuple(full.shape)}; it must be ({len(image)}, 1): 1 = a full caption, 0 = a terse one"
            )
        if drop >= 1:
            return Condition(full, image.new_zeros(len(image), *self.size))
        tokens = cast(Tensor, self.encoder(image * 2 - 1)).unflatten(1, self.size)
        if drop > 0 and rng is not None:
            tokens = tokens * (rng.uniform(1, 1) >= drop)
        return Condition(full, tokens)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        return {"image": self.examples[rng.integers(len(self.examples))]}
