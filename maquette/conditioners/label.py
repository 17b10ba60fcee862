"""A class label as a condition vector."""

from __future__ import annotations

import torch
from torch import Tensor

from maquette.contracts import Batch, Condition, Conditioner
from maquette.streams import Streams


class Labels(Conditioner):
    """int64[B] labels -> one-hot vector [B, classes]; the null condition is all zeros. Has no parameters.

    Args:
        shares: each class's share of the training rows, from which unsaid labels are drawn.

    Raises:
        ValueError: a label outside 0 .. classes - 1.
    """

    fields = ("label",)
    shares: Tensor

    def __init__(self, shares: tuple[float, ...]):
        super().__init__()
        self.register_buffer("shares", torch.tensor(shares, dtype=torch.float32), persistent=False)

    @property
    def width(self) -> int:
        return len(self.shares)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        label: Tensor = batch["label"]
        if bool(((label < 0) | (label >= self.width)).any()):
            wrong = label[(label < 0) | (label >= self.width)][0].item()
            raise ValueError(f"label {wrong} is not one of 0 .. {self.width - 1}")
        vector = torch.nn.functional.one_hot(label, self.width).float()
        if drop >= 1:
            vector = torch.zeros_like(vector)
        elif drop > 0 and rng is not None:
            vector = vector * (rng.uniform(1) >= drop)
        return Condition(vector=vector)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        return {"label": rng.choose(self.shares.log().expand(len(rng), -1))}

    def every(self) -> list[tuple[Batch, float]]:
        log = self.shares.log().tolist()
        return [({"label": torch.tensor([i], device=self.shares.device)}, p) for i, p in enumerate(log) if p > -float("inf")]
