"""What conditioners of captions share: a few are kept, for samples that nobody described. Knows no tokenizer and no encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.contracts import Batch, Conditioner
from maquette.streams import Streams

EXAMPLES = 64  # captions kept for samples that nobody said anything about


class Captions(Conditioner):
    """A conditioner of captions, list[str]. It keeps some of the training rows', checkpointed, and guesses those.

    A batch may bring "negative", a text per row, told where the caption is dropped, in place of "".

    Args:
        field: of the batch, the captions'.
        kept: captions kept at most; 0 = none, where nothing is drawn.

    Raises:
        ValueError: data to learn from that have no captions; not as many negative prompts as captions.
    """

    options: tuple[str, ...] = ("negative",)
    examples: Tensor

    def __init__(self, field: str = "text", kept: int = EXAMPLES):
        super().__init__()
        self.fields, self.kept = (field,), kept
        self.register_buffer("examples", torch.zeros(0, dtype=torch.uint8), persistent=kept > 0)

    def keep(self, data: Any) -> list[str]:
        """The captions of the training rows, all; some are kept."""
        field = self.fields[0]
        if field not in data.columns:
            raise ValueError(f"the data have no {field!r} to learn captions from; they have {', '.join(data.columns)}")
        texts = list(data.columns[field])
        if self.kept:
            some = json.dumps(texts[:: -(-len(texts) // self.kept)]).encode()
            self.examples = torch.from_numpy(np.frombuffer(some, dtype=np.uint8).copy()).to(self.examples.device)
        return texts

    def instead(self, batch: Batch, rows: int) -> list[str]:
        """What is told where captions are dropped: the negative prompts, or "" for each."""
        said = batch.get("negative")
        if said is not None and (isinstance(said, str) or len(said) != rows):
            raise ValueError(f"negative is {said!r}; it must be a list of {rows} texts, one for each caption")
        return [""] * rows if said is None else list(said)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        if not len(self.examples):
            return {self.fields[0]: [""] * len(rng)}
        some = json.loads(self.examples.cpu().numpy().tobytes())
        return {self.fields[0]: [some[i] for i in rng.integers(len(some)).tolist()]}

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "examples")
        if saved is not None:  # its length is the captions' doing
            self.examples = self.examples.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
