"""Say which kind a row is of. Knows a network that gives a logit per kind; not what rows are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from maquette.contracts import Batch, Logs, Objective, phase
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

    def logits(self, system: System, batch: Batch, role: str = "") -> Tensor:
        """[B,K], of the network that learns, or of the steady one of a role."""
        code = system.encode(batch)
        net = system.steady(role) if role else system.nets["main"]
        return net(code[:, : self.most or None])

    @phase("main")
    def name(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean cross-entropy in nats."""
        label = batch["label"].to(system.device)
        logits = self.logits(system, batch).float()
        return F.cross_entropy(logits, label), {"right": (logits.argmax(1) == label).float().mean()}
