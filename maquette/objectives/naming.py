"""Say which kind a text is of. Knows an encoder of symbols and a layer that gives a logit per kind, "encoder" and "main"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from maquette.contracts import Batch, Logs, Objective, phase
from maquette.networks.classifier import pooled
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Naming(Objective):
    """Cross-entropy of each row's "label".

    Args:
        most: symbols of a row that are read; 0 = all.
    """

    def __init__(self, most: int = 0):
        super().__init__()
        self.most = most

    def logits(self, system: System, batch: Batch) -> Tensor:
        """[B,K]."""
        code = system.encode(batch)[:, : self.most or None]
        return system.nets["main"](pooled(system.nets["encoder"](code), code))

    @phase("main", "encoder")
    def name(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean cross-entropy in nats."""
        label = batch["label"].to(system.device)
        logits = self.logits(system, batch).float()
        return F.cross_entropy(logits, label), {"right": (logits.argmax(1) == label).float().mean()}
