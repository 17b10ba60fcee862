"""Learn from one's own answers, each symbol by how much better what followed was than a critic expected.

Knows a causal network, "main", what it was, "reference", and a critic: what "critic" reads, "value" makes a number of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Code, Logs, Phase, Sampler, phase
from maquette.objectives.likelihood import inputs
from maquette.objectives.reinforce import DRAWN, Answers, Reward, Rollouts, clipped, moved
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@dataclass(frozen=True)
class Course:
    """What a step drew and what was thought of it then, [n,T] each: log-probabilities, advantages, expectations and what was
    to be expected."""

    answers: Answers
    old: Tensor
    better: Tensor
    value: Tensor
    aim: Tensor


class Proximal(Rollouts):
    """Answers by proximal policy optimisation (Schulman 2017, arXiv:1707.06347), as InstructGPT has it (Ouyang 2022,
    arXiv:2203.02155, sec. 3.5 and app. C.4): every symbol costs its divergence from the reference, the last one earns the reward.

    Two players: the policy, and a critic of its own that says at each symbol what the rest will bring.

    Args:
        reward, sampler, replies, group, beta, epochs, clip: as those of rollouts; the critic's guesses are clipped alike.
        lam: how far advantages look ahead before they trust the critic (Schulman 2016, arXiv:1506.02438): 0 = one symbol, 1 = to
            the end.
        pace: share of the policy's learning rate that the critic learns at.

    Raises:
        ValueError: a lam outside 0 .. 1, or as for rollouts.
    """

    def __init__(
        self,
        reward: Reward,
        sampler: Sampler,
        replies: Callable[[Any, Code, Code], list[str]],
        group: int = 1,
        beta: float = 0.05,
        epochs: int = 4,
        clip: float = 0.2,
        lam: float = 0.95,
        pace: float = 1.0,
    ):
        super().__init__(reward, sampler, replies, group, beta, epochs, clip)
        if not 0 <= lam <= 1:
            raise ValueError(f"lam is {lam}; how far advantages look ahead must be 0 .. 1, nearest is {min(max(lam, 0), 1)}")
        self.lam, self.pace = lam, pace

    def phases(self) -> list[Phase]:
        return [replace(each, pace=each.pace * (self.pace if "critic" in each.roles else 1)) for each in super().phases()]

    def targets(self, batch: Batch) -> Tensor | None:
        """Symbols that were written, once they are: before the first move nobody knows."""
        return batch[DRAWN].answers.written.sum() if DRAWN in batch else None

    @phase("main")
    def improve(self, system: System, batch: Batch, rng: Streams, step: int, epoch: int = 0) -> tuple[Tensor, Logs]:
        """The policy's move. Logs what answers were worth, how long they were and how far, in nats, from the reference's."""
        bos, logs = system.codec.bos, Logs()
        if epoch:
            drawn = batch[DRAWN]
            logp = drawn.answers.read(system.nets["main"], bos)
        else:
            found = self.answers(system, batch, rng)
            answers = found.some(torch.ones_like(found.worth, dtype=torch.bool), system.codec)
            logp = answers.read(system.nets["main"], bos)
            drawn = batch[DRAWN] = self.course(system, answers, answers.old(logp, logs), logs)
        logs["moved"] = moved(logp, drawn.old, drawn.answers.written)
        gain = clipped(logp, drawn.old, drawn.better, self.clip)
        return -mean_over(gain, drawn.answers.written), logs

    @phase("critic", "value")
    def appraise(self, system: System, batch: Batch, rng: Streams, step: int, epoch: int = 0) -> tuple[Tensor, Logs]:
        """The critic's move."""
        drawn = batch[DRAWN]
        value = self.expected(system, drawn.answers)
        return mean_over(wrong(value, drawn.value, drawn.aim, self.clip), drawn.answers.written), {}

    @torch.no_grad()
    def course(self, system: System, answers: Answers, old: Tensor, logs: Logs) -> Course:
        """What is thought of answers as they were drawn; what of them is worth knowing goes into `logs`."""
        written, apart = answers.written, torch.zeros_like(old)
        if self.beta:
            apart = old - answers.read(system.nets["reference"], system.codec.bos)
            logs["divergence"] = apart.sum(1).mean()
        value = self.expected(system, answers) * written
        better, aim = ahead(earned(answers.worth, apart, written, self.beta), value, written, self.lam)
        logs |= {"reward": answers.worth.mean(), "length": written.sum(1).float().mean()}
        logs["surprise"] = mean_over((aim - value).square(), written).sqrt()
        return Course(answers, old, whitened(better, written), value, aim)

    def expected(self, system: System, answers: Answers) -> Tensor:
        """What the critic expects before each symbol, float32[n,T]."""
        x, cond = inputs(answers.code, answers.document, system.codec.bos)
        return system.nets["value"](system.nets["critic"](x, cond=cond))[..., 0].float()


def earned(worth: Tensor, apart: Tensor, written: Tensor, beta: float) -> Tensor:
    """What each symbol brings [n,T]: the last that was written what the answer is worth [n], each less what it costs to be so far
    from the reference, in nats [n,T] (Ouyang 2022, eq. 2)."""
    last = written & (written.flip(1).long().cumsum(1).flip(1) == 1)
    return torch.where(last, worth[:, None], 0.0) - beta * apart * written


def ahead(reward: Tensor, value: Tensor, written: Tensor, lam: float, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    """Generalised advantages and what was to be expected, [n,T] each, 0 where nothing was written (Schulman 2016, eq. 16).

    Args:
        reward: what each symbol brought.
        value: what was expected before it. Behind an answer's last symbol there is nothing more to expect.
        lam, gamma: how fast what is further ahead fades, and counts less.
    """
    better, after = torch.zeros_like(value), torch.zeros_like(value[:, 0])
    following = torch.zeros_like(after)
    for place in reversed(range(value.shape[1])):
        own = written[:, place]
        after = torch.where(own, reward[:, place] + gamma * following - value[:, place] + gamma * lam * after, 0.0)
        following = torch.where(own, value[:, place], 0.0)
        better[:, place] = after
    return better, torch.where(written, better + value, 0.0)


def whitened(better: Tensor, written: Tensor) -> Tensor:
    """Advantages of mean 0 and deviation 1 over what was written."""
    mean = mean_over(better, written)
    spread = mean_over((better - mean).square(), written).sqrt()
    return torch.where(written, (better - mean) / (spread + 1e-8), 0.0)


def wrong(value: Tensor, old: Tensor, aim: Tensor, clip: float) -> Tensor:
    """Half the squared error of each guess, or of one that has moved no further than `clip` since, whichever is larger, [n,T]."""
    near = old + (value - old).clamp(-clip, clip)
    return torch.maximum((value - aim).square(), (near - aim).square()) / 2


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over all counted symbols: [n,T] -> []."""
    return (values * counted).sum() / counted.sum().clamp(min=1)
