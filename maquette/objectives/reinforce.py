"""Learn from one's own answers: drawn, scored, and pushed by how much better than the others of its group each was.

Knows one causal network, "main", a sampler and a reward; not what is asked. With a frozen role "reference" it keeps near to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maquette.contracts import Batch, Code, Codec, Logs, Objective, Phase, Sampler, phase
from maquette.data.errors import DataError
from maquette.objectives.likelihood import said
from maquette.objectives.preference import Judge, flat, log_ratios
from maquette.objectives.rollout import alone, answered, rollout
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Reward = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Tensor]  # rows, an answer to each -> float32[n]
DRAWN = "drawn"  # where a batch keeps what its first move drew, for the further moves of the same step


@dataclass(frozen=True)
class Answers:
    """Answers as they were drawn: code int64[n,T], which of its symbols were written, bool[n,T], and what each is worth, [n].

    said: log-probability of each symbol by whoever drew it, [n,T], where a sampler says it.
    """

    code: Code
    written: Tensor
    worth: Tensor
    document: Tensor | None
    said: Tensor | None = None

    def some(self, rows: Tensor, codec: Codec) -> Answers:
        """Those of some rows, bool[n], up to the last symbol that one of them has written."""
        last = int(self.written[rows].sum(0).nonzero().max()) + 1
        code = self.code[rows, :last]
        told = None if self.said is None else self.said[rows, :last].masked_fill(~self.written[rows, :last], 0.0)
        return Answers(code, self.written[rows, :last], self.worth[rows], alone(code, codec), told)

    def old(self, logp: Tensor, logs: Logs) -> Tensor:
        """Log-probabilities [n,T] of when they were drawn: the network's own, unless the sampler said others."""
        if self.said is None:
            return logp.detach()
        logs["behind"] = mean_of(divergence(self.said, logp.detach()), self.written).mean()  # nats a symbol from whoever drew
        return self.said

    def read(self, net: nn.Module, bos: int) -> Tensor:
        """Log-probability under a network of each symbol that was written, 0 elsewhere: float32[n,T]."""
        return said(net, code=self.code, counted=self.written, document=self.document, bos=bos)


class Rollouts(Objective):
    """What learning from one's own answers has in common, however it does: they are drawn once a step, and learnt from as often
    as there are epochs, each of them a phase. What was drawn lies in the step's batch, so that nothing outlives a step.

    A batch brings "start" int64[B,T], what answers grow from, and "row", a mapping for each that the reward looks at.

    Answers may come from anywhere: from the network that learns, through any sampler of symbols, or from an engine outside
    (samplers/outside.py), which may have weights of some steps ago and arithmetic of its own. Then the old policy of the ratio is
    whoever drew them: a sampler that is `Reporting` says at which log-probability it drew each symbol, the ratio is over that,
    and symbols of which it says nothing are not learnt from. Of any other it is held that it drew from the network as it is, at
    temperature 1 with nothing left out or put in.

    Args:
        reward: what each answer is worth.
        sampler: draws the answers.
        replies: the texts that were written behind starts, of codes and starts.
        group: answers to each question.
        beta: weight of the divergence from the role "reference"; 0 = it is not asked.
        epochs: moves that learn from what a step drew.
        clip: how far a symbol's chance may move between two of them and still count, as a share of what it was when drawn.

    Raises:
        ValueError: a group or epochs below 1, a weight below 0, or a share that is none.
    """

    def __init__(
        self,
        reward: Reward,
        sampler: Sampler,
        replies: Callable[[Any, Code, Code], list[str]],
        group: int = 1,
        beta: float = 0.0,
        epochs: int = 1,
        clip: float = 0.2,
    ):
        super().__init__()
        for name, value in (("group", group), ("epochs", epochs)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}; the weight of the divergence must be 0 or more")
        if not 0 < clip < 1:
            raise ValueError(f"clip is {clip}; how far a chance may move must be a share above 0 and below 1, such as 0.2")
        self.reward, self.sampler, self.replies, self.group, self.beta = reward, sampler, replies, group, beta
        self.epochs, self.clip = epochs, clip

    def phases(self) -> list[Phase]:
        """The marked moves of each epoch, told which it is; those of the first bear their own names."""
        return [
            replace(each, name=each.name + f"_{epoch + 1}" * (epoch > 0), move=partial(each.move, epoch=epoch))
            for epoch in range(self.epochs)
            for each in super(Rollouts, self).phases()
        ]

    def answers(self, system: System, batch: Batch, rng: Streams) -> Answers:
        """A group of answers to each question, and what they are worth.

        Raises:
            DataError: the reward fails, or gives what is no number for each.
        """
        start = batch["start"].to(system.device).repeat_interleave(self.group, 0)
        rows = [row for row in batch["row"] for _ in range(self.group)]
        keys = torch.stack([rng.fork(i).keys for i in range(self.group)], 1).flatten()
        code, told = rollout(system, self.sampler, start, Streams(keys))
        worth = rewarded(self.reward, rows, self.replies(system.codec, code, start)).to(system.device)
        written = answered(code, start, system.codec)
        return Answers(code, written if told is None else written & told.isfinite(), worth, None, told)

    def log_ratios(self, system: System, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p of each answer under the policy over that under the reference, float32[B,K], and symbols of each, [B,K]."""
        code, learnt, document = flat(system, batch)
        shape = batch["code"].shape[:2]
        return log_ratios(system, system.codec.bos, code, learnt, document).view(shape), learnt.sum(1).view(shape)

    def worth(self, system: System, batch: Batch) -> Tensor:
        """What its judge finds answers worth; by a rule, which sees texts, the reward that the policy is the best one for."""
        return self.reward.worth(batch) if isinstance(self.reward, Judge) else self.beta * self.log_ratios(system, batch)[0]


@dataclass(frozen=True)
class Groups:
    """What a step drew: answers of which some are better than others, by how much [n], and log-probabilities [n,T] of then.

    share: of all that were drawn; the others' loss is 0.
    """

    answers: Answers
    better: Tensor
    share: float
    old: Tensor
    far: Tensor | None


class Reinforce(Rollouts):
    """Group-relative policy optimisation (Shao 2024, arXiv:2402.03300, eq. 3): the mean of a group stands for what is expected.

    Args:
        reward, sampler, replies, beta, epochs, clip: as those of rollouts.
        group: answers to each question.

    Raises:
        ValueError: a group of one, which has nothing to be better than; or as for rollouts.
    """

    def __init__(
        self,
        reward: Reward,
        sampler: Sampler,
        replies: Callable[[Any, Code, Code], list[str]],
        group: int = 8,
        beta: float = 0.0,
        epochs: int = 1,
        clip: float = 0.2,
    ):
        super().__init__(reward, sampler, replies, group, beta, epochs, clip)
        if group < 2:
            raise ValueError(f"group is {group}; it must be 2 or more, for an answer is as good as it is better than others")

    @phase("main")
    def reinforce(self, system: System, batch: Batch, rng: Streams, step: int, epoch: int = 0) -> tuple[Tensor, Logs]:
        """The loss of a group of answers to each question; logs what they were worth and how long they were."""
        net, bos, logs = system.nets["main"], system.codec.bos, Logs()
        if epoch:
            drawn = batch[DRAWN]
            logp = drawn.answers.read(net, bos)
        else:
            found = self.answers(system, batch, rng)
            written, better = found.written, advantages(found.worth.reshape(-1, self.group))
            logs = {"reward": found.worth.mean(), "length": written.sum(1).float().mean()}
            logs["told"] = (better != 0).any(1).float().mean()
            telling = (better != 0).flatten() | (self.beta > 0)
            telling[0] = True  # a loss of nothing where no answer is better than another
            some = found.some(telling, system.codec)
            logp, far = some.read(net, bos), None
            if self.beta:
                with torch.no_grad():
                    far = some.read(system.nets["reference"], bos)
                logs["divergence"] = mean_of(divergence(logp.detach(), far), some.written).mean()
            share = int(telling.sum()) / len(telling)
            drawn = batch[DRAWN] = Groups(some, better.flatten()[telling], share, some.old(logp, logs), far)
        if self.epochs > 1:
            logs["moved"] = moved(logp, drawn.old, drawn.answers.written)
        loss = grpo(logp, drawn.old, drawn.better, drawn.answers.written, clip=self.clip, far=drawn.far, beta=self.beta)
        return drawn.share * loss, logs


def rewarded(reward: Reward, rows: Sequence[Mapping[str, Any]], replies: Sequence[str]) -> Tensor:
    """What a reward finds answers worth, float32[n].

    Raises:
        DataError: it fails, or gives what is no number for each; which answer to which question is said.
    """
    name = getattr(reward, "__name__", type(reward).__name__)
    try:
        worth = torch.as_tensor(reward(rows, replies), dtype=torch.float32)
    except DataError:  # says what it failed on
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"reward {name} failed on {len(replies)} answers, the first {replies[0][:80]!r}: {what}") from error
    if worth.shape != (len(replies),):
        raise DataError(f"reward {name} gives {tuple(worth.shape)} numbers for {len(replies)} answers; it must give one for each")
    if wrong := (~worth.isfinite()).nonzero().flatten().tolist():
        asked = f"{replies[wrong[0]][:80]!r} to {rows[wrong[0]].get('source')!r}"
        raise DataError(f"reward {name} gives {float(worth[wrong[0]])} for the answer {asked}: no number")
    return worth


def advantages(worth: Tensor) -> Tensor:
    """How much better than the others of its group each answer is, in the group's deviations: [B,G] (Shao 2024, sec. 4.1.2)."""
    spread = worth.std(1, keepdim=True)
    return torch.where(spread > 1e-6, (worth - worth.mean(1, keepdim=True)) / (spread + 1e-4), 0.0)


def divergence(logp: Tensor, far: Tensor) -> Tensor:
    """An estimate of KL(policy | reference) per symbol that is never negative (Schulman 2020, k3; Shao 2024, eq. 4)."""
    return (far - logp).exp() - (far - logp) - 1


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over a row's counted symbols: [n,T] -> [n]."""
    return (values * counted).sum(1) / counted.sum(1).clamp(min=1)


def moved(logp: Tensor, old: Tensor, written: Tensor) -> Tensor:
    """How far the chance of a written symbol is from what it was, on average, as a share of that."""
    with torch.no_grad():
        return (((logp - old).exp() - 1).abs() * written).sum() / written.sum().clamp(min=1)


def clipped(logp: Tensor, old: Tensor, better: Tensor, clip: float) -> Tensor:
    """What each symbol gains by its advantage, as far as its chance has not moved beyond what counts (Schulman 2017, eq. 7)."""
    ratio = (logp - old).exp()
    return torch.minimum(ratio * better, ratio.clamp(1 - clip, 1 + clip) * better)


def grpo(
    logp: Tensor,
    old: Tensor,
    better: Tensor,
    written: Tensor,
    *,
    clip: float = 0.2,
    far: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """The loss (Shao 2024, eq. 3): a mean over each answer's symbols, then over answers.

    Args:
        logp: log-probability of each symbol, [n,T].
        old: the same when the answers were drawn.
        better: advantage of each answer, [n].
        written: which symbols are the answer's, bool[n,T].
        clip: how far the ratio of the two may count.
        far: the reference's log-probabilities.
        beta: weight of the divergence from it.
    """
    gain = clipped(logp, old, better[:, None], clip)
    loss = -gain if far is None else -gain + beta * divergence(logp, far)
    return mean_of(loss, written).mean()
