"""What a system that compares pictures with texts makes of either, told to other networks: CLIP's vectors and states.

Knows that system by its objective and its network's `read`; it is not registered here, for its network is a role of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Batch, Comparing, Condition, Conditioner
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Spoken(Conditioner):
    """Captions list[str] -> the states of CLIP's text tower [B,L,D], and the vector that stands for each, sqrt(P) long [B,P].

    The null condition is the empty caption's.

    Args:
        compare: the system.
    """

    fields = ("text",)

    def __init__(self, compare: System):
        super().__init__()
        self._compare = (compare,)  # in a tuple, which registers nothing

    @torch.no_grad()
    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        compare = self._compare[0]
        assert compare.conditioner is not None
        told = compare.conditioner({"text": batch["text"]}, drop=drop, rng=rng)
        assert told is not None and told.tokens is not None and told.mask is not None
        symbols, real = (each.to(compare.device) for each in (told.tokens, told.mask))
        states, vector = compare.steady("main").read(symbols)
        return Condition(math.sqrt(vector.shape[1]) * vector.float(), states, real)


class Embedded(Conditioner):
    """What a picture shows: the unit vector "embedding" float[B,P] that CLIP has for it -> it, sqrt(P) long, and tokens of it.

    A batch without it has its picture read. The null condition is the vector 0 (Ramesh 2022, sec. 2.1).

    Args:
        compare: the system that reads pictures.
        inside: P.
        tokens, width: how many are told, behind the vector, and of what width; the paper's 4.

    Raises:
        ValueError: an embedding of another shape.
    """

    fields = ("embedding",)

    def __init__(self, compare: System, inside: int, tokens: int = 4, width: int = 128):
        super().__init__()
        self.inside, self.shape = inside, (tokens, width)
        self.project = nn.Linear(inside, tokens * width)
        self.words = compare.conditioner  # its symbols are saved here: they are learned, and no network's
        self._compare = (compare,)  # in a tuple, which registers nothing

    @property
    def compare(self) -> System:
        """The system that reads pictures."""
        return self._compare[0]

    def learn(self, data: object) -> None:
        if self.words is not None:
            self.words.learn(data)

    def read(self, pictures: Tensor) -> Tensor:
        """Unit vectors [B,P] of pictures float[B,C,H,W] in 0..1."""
        assert isinstance(self.compare.objective, Comparing)
        return F.normalize(self.compare.objective.embed(self.compare, {"image": pictures})["image"], dim=1)

    def fill(self, batch: Batch) -> Batch:
        """The same rows, with their embeddings."""
        return batch if "embedding" in batch else {**batch, "embedding": self.read(batch["image"])}

    def seen(self, pictures: Tensor) -> Batch:
        """Their embeddings; their captions are not known."""
        return {"embedding": self.read(pictures), "text": [""] * len(pictures)}

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        found: Tensor = self.fill(batch)["embedding"]
        if found.shape[1:] != (self.inside,):
            raise ValueError(f"an embedding is of {tuple(found.shape[1:])} numbers; this system is told of {self.inside}")
        vector = found.to(self.project.weight.device).float() * math.sqrt(self.inside)
        if drop >= 1:
            vector = torch.zeros_like(vector)
        elif drop > 0 and rng is not None:
            vector = vector * (rng.uniform(1) >= drop)
        return Condition(vector, self.project(vector).unflatten(1, self.shape))
