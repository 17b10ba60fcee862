"""Learning from which of two answers is better: a policy against what it was, or a judge. Knows no text and no network's inside.

Batches bring "code", "learnt" and "document", [B,2,T] each: the better answer first.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import IGNORE, Batch, Condition, Logs, Objective, Phase, phase
from maquette.data.comparisons import unrelated
from maquette.objectives.likelihood import said
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


def dpo(ratio: Tensor, count: Tensor, beta: float, apart: Tensor) -> Tensor:
    """-log sigma(beta (difference of log-ratios)) (Rafailov 2023, eq. 7): [B,2] -> [B]."""
    return -F.logsigmoid(beta * (ratio[:, 0] - ratio[:, 1]))


def ipo(ratio: Tensor, count: Tensor, beta: float, apart: Tensor) -> Tensor:
    """The difference of log-ratios drawn to 1 / (2 beta) (Azar 2023, eq. 17), each of them per symbol, as its authors have it."""
    mean = ratio / count
    return (mean[:, 0] - mean[:, 1] - 1 / (2 * beta)).square()


def kto(ratio: Tensor, count: Tensor, beta: float, apart: Tensor) -> Tensor:
    """Each answer by itself, good or bad, as far as it is beyond the policy's distance from the reference, `apart`, which is no
    gradient's business (Ethayarajh 2024, eq. 8); the mean of both."""
    good, bad = 1 - torch.sigmoid(beta * (ratio[:, 0] - apart)), 1 - torch.sigmoid(beta * (apart - ratio[:, 1]))
    return (good + bad) / 2


LOSSES: dict[str, Callable[[Tensor, Tensor, float, Tensor], Tensor]] = {"dpo": dpo, "ipo": ipo, "kto": kto}


def log_chance(net: nn.Module, code: Tensor, learnt: Tensor, document: Tensor, bos: int) -> Tensor:
    """log p of what is learnt of each row [N,T], summed: float32[N]."""
    return said(net, code, learnt, document, bos).sum(1)


class Preference(Objective):
    """The better answer becomes likelier than the worse, by how much more than under the reference, which stays as it is.

    Args:
        bos: the symbol that begins every sequence.
        loss: dpo, ipo or kto.
        beta: how dear it is to depart from the reference; larger = nearer to it.
        first: steps before, in which both answers are learnt alike: for a policy that begins from nothing.
        pace: share of the learning rate at which it then goes on.

    Raises:
        ValueError: another loss, or a beta that is not above 0.
    """

    def __init__(self, bos: int, loss: str = "dpo", beta: float = 0.1, first: int = 0, pace: float = 1.0):
        super().__init__()
        if loss not in LOSSES:
            near = difflib.get_close_matches(loss, LOSSES, 1, 0)
            raise ValueError(f"loss is {loss!r}; allowed are {', '.join(LOSSES)}, nearest is {next(iter(near), 'dpo')}")
        if not 0 < beta < float("inf"):
            raise ValueError(f"beta is {beta}; it must be above 0, such as 0.1")
        self.bos, self.loss, self.beta, self.first, self.pace = bos, loss, beta, first, pace

    def phases(self) -> list[Phase]:
        if not self.first:
            return super().phases()
        prefer = Phase("prefer", ("main",), 1, self.prefer, since=self.first, pace=self.pace)
        return [Phase("learn", ("main",), 1, self.learn, until=self.first), prefer]

    def learn(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean of -log p of a symbol over all answers, in nats."""
        code, learnt, document = (batch[name].to(system.device).flatten(0, 1) for name in ("code", "learnt", "document"))
        return -log_chance(system.nets["main"], code, learnt, document, self.bos).sum() / learnt.sum().clamp(min=1), {}

    def log_ratios(self, system: System, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p of each answer under the policy over that under the reference, float32[B,K], and symbols of each, [B,K]."""
        flat = [batch[name].to(system.device) for name in ("code", "learnt", "document")]
        shape = flat[0].shape[:2]
        ratio = self._ratio(system, *(column.flatten(0, 1) for column in flat))
        return ratio.view(shape), flat[1].sum(2)

    def worth(self, system: System, batch: Batch) -> Tensor:
        """The reward that the policy is the best one for (Rafailov 2023, eq. 5), but for what a question adds: float32[B,K]."""
        return self.beta * self.log_ratios(system, batch)[0]

    def _ratio(self, system: System, code: Tensor, learnt: Tensor, document: Tensor) -> Tensor:
        with torch.no_grad():
            before = log_chance(system.nets["reference"], code, learnt, document, self.bos)
        return log_chance(system.nets["main"], code, learnt, document, self.bos) - before

    @phase("main")
    def prefer(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean over the pairs. Logs how often the better is the one that became likelier, and by how much both did, in nats."""
        ratio, count = self.log_ratios(system, batch)
        apart = ratio.new_zeros(())
        if self.loss == "kto":
            with torch.no_grad():
                others = (column.to(system.device) for column in unrelated(batch))
                apart = self._ratio(system, *others).mean().clamp(min=0)
        loss = LOSSES[self.loss](ratio, count, self.beta, apart).mean()
        better, worse = ratio.detach().mean(0)
        return loss, {"right": (ratio[:, 0] > ratio[:, 1]).float().mean(), "better": better, "worse": worse}


class Reward(Objective):
    """A judge of answers: "main" makes a number of what "encoder" reads, higher for the better one (Bradley-Terry; Ouyang 2022,
    eq. 1).

    Args:
        bos: the symbol that begins every sequence.
    """

    def __init__(self, bos: int):
        super().__init__()
        self.bos = bos

    def worth(self, system: System, batch: Batch) -> Tensor:
        """What each answer is worth, float32[B,K]: read off its last symbol."""
        code, learnt, document = (batch[name].to(system.device).flatten(0, 1) for name in ("code", "learnt", "document"))
        before = torch.cat([torch.full_like(code[:, :1], self.bos), code], 1)
        document = torch.cat([document, document[:, -1:]], 1)
        last = learnt.shape[1] - learnt.flip(1).long().argmax(1)  # of the inputs, which are one further
        document = document.masked_fill(torch.arange(document.shape[1], device=code.device) == last[:, None], 1)
        states = system.nets["encoder"](before.masked_fill(before == IGNORE, self.bos), cond=Condition(document=document))
        state = states[torch.arange(len(code), device=code.device), last]
        return system.nets["main"](state)[:, 0].float().view(batch["code"].shape[:2])

    @phase("main", "encoder")
    def judge(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean of -log sigma(better - worse)."""
        worth = self.worth(system, batch)
        apart = worth[:, 0] - worth[:, 1]
        return -F.logsigmoid(apart).mean(), {"right": (apart > 0).float().mean(), "apart": apart.mean()}
