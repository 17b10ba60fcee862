"""Learning from which of two answers is better: a policy against what it was, or a judge. Knows no text and no network's inside.

Batches bring "code", "learnt" and "document", [B,2,T] each: the better answer first.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import IGNORE, Batch, Condition, Logs, Objective, Turns, phase
from maquette.data.comparisons import judged, unrelated
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


TOGETHER = 64  # answers that are judged at a time
LOSSES: dict[str, Callable[[Tensor, Tensor, float, Tensor], Tensor]] = {"dpo": dpo, "ipo": ipo, "kto": kto}


def log_chance(net: nn.Module, code: Tensor, learnt: Tensor, document: Tensor, bos: int) -> Tensor:
    """log p of what is learnt of each row [N,T], summed: float32[N]."""
    return said(net, code, learnt, document, bos).sum(1)


def flat(system: System, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Code, learnt and document of all answers of a batch, [B K,T] each."""
    code, learnt, document = (batch[name].to(system.device).flatten(0, 1) for name in ("code", "learnt", "document"))
    return code, learnt, document


def log_ratios(system: System, bos: int, code: Tensor, learnt: Tensor, document: Tensor) -> Tensor:
    """log p of what is learnt of each row [N,T] under "main" over that under "reference", float32[N]."""
    with torch.no_grad():
        before = log_chance(system.nets["reference"], code, learnt, document, bos)
    return log_chance(system.nets["main"], code, learnt, document, bos) - before


class Shown(Objective):
    """Answers are learnt as they are shown, the better and the worse alike: for a policy that begins from nothing.

    Args:
        bos: the symbol that begins every sequence.
    """

    def __init__(self, bos: int):
        super().__init__()
        self.bos = bos

    def targets(self, batch: Batch) -> Tensor | None:
        return batch["learnt"].sum()

    @phase("main")
    def learn(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean of -log p of a symbol over all answers, in nats."""
        code, learnt, document = flat(system, batch)
        return -log_chance(system.nets["main"], code, learnt, document, self.bos).sum() / learnt.sum().clamp(min=1), {}


class Preference(Objective):
    """The better answer becomes likelier than the worse, by how much more than under the reference, which stays as it is.

    Args:
        bos: the symbol that begins every sequence.
        loss: dpo, ipo or kto.
        beta: how dear it is to depart from the reference; larger = nearer to it.

    Raises:
        ValueError: another loss, or a beta that is not above 0.
    """

    def __init__(self, bos: int, loss: str = "dpo", beta: float = 0.1):
        super().__init__()
        if loss not in LOSSES:
            near = difflib.get_close_matches(loss, LOSSES, 1, 0)
            raise ValueError(f"loss is {loss!r}; allowed are {', '.join(LOSSES)}, nearest is {next(iter(near), 'dpo')}")
        if not 0 < beta < float("inf"):
            raise ValueError(f"beta is {beta}; it must be above 0, such as 0.1")
        self.bos, self.loss, self.beta = bos, loss, beta

    def log_ratios(self, system: System, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p of each answer under the policy over that under the reference, float32[B,K], and symbols of each, [B,K]."""
        code, learnt, document = flat(system, batch)
        shape = batch["code"].shape[:2]
        return log_ratios(system, self.bos, code, learnt, document).view(shape), learnt.sum(1).view(shape)

    def worth(self, system: System, batch: Batch) -> Tensor:
        """The reward that the policy is the best one for (Rafailov 2023, eq. 5), but for what a question adds: float32[B,K]."""
        return self.beta * self.log_ratios(system, batch)[0]

    @phase("main")
    def prefer(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean over the pairs. Logs how often the better is the one that became likelier, and by how much both did, in nats."""
        ratio, count = self.log_ratios(system, batch)
        apart = ratio.new_zeros(())
        if self.loss == "kto":
            with torch.no_grad():
                code, learnt, document = (column.to(system.device) for column in unrelated(batch))
                apart = log_ratios(system, self.bos, code, learnt, document).mean().clamp(min=0)
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
        code, learnt, document = flat(system, batch)
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


class Judge:
    """A learnt judge as a reward: what it finds an answer worth to a row's "turns", the conversation up to there.

    Args:
        system: whose objective judges; its networks are registered where it is used, as roles of the whole.
    """

    def __init__(self, system: System):
        self.system = system

    @torch.no_grad()
    def __call__(self, rows: Sequence[Mapping[str, Any]], replies: Sequence[str]) -> Tensor:
        """float32[n]. What lies beyond the context that the judge reads is not seen."""
        codec: Any = self.system.codec
        talks: list[Turns] = [
            [*row["turns"], {"role": "assistant", "content": text}] for row, text in zip(rows, replies, strict=True)
        ]
        found = []
        for at in range(0, len(talks), TOGETHER):
            batch = judged(codec, talks[at : at + TOGETHER])
            found.append(self.worth({name: column[..., : codec.length] for name, column in batch.items()})[:, 0])
        return torch.cat(found)

    def worth(self, batch: Batch) -> Tensor:
        """Of the answers of a batch of comparisons, float32[B,K]."""
        return self.system.objective.worth(self.system, batch)  # type: ignore[operator]
