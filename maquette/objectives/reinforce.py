"""Learn from one's own answers: drawn in groups, checked, and pushed by how much better than its group each was.

Knows one causal network, "main", a sampler and a check; not what is asked. With a frozen role "reference" it keeps near to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Code, Logs, Objective, Sampler, phase
from maquette.objectives.likelihood import said
from maquette.objectives.rollout import alone, answered, rollout
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Reward = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Tensor]  # rows, an answer to each -> float32[n]


class Reinforce(Objective):
    """Group-relative policy optimisation (Shao 2024, arXiv:2402.03300, eq. 3), each answer used once.

    A batch brings "start" int64[B,T], what answers grow from, and "row", a mapping for each that the reward looks at.

    Args:
        reward: what each answer is worth.
        sampler: draws the answers: any that writes symbols; they are scored as it draws them at temperature 1.
        replies: the texts that were written behind starts, of codes and starts.
        group: answers to each question.
        beta: weight of the divergence from the role "reference"; 0 = it is not asked.

    Raises:
        ValueError: a group of one, which has nothing to be better than; or a weight below 0.
    """

    def __init__(
        self,
        reward: Reward,
        sampler: Sampler,
        replies: Callable[[Any, Code, Code], list[str]],
        group: int = 8,
        beta: float = 0.0,
    ):
        super().__init__()
        if group < 2:
            raise ValueError(f"group is {group}; it must be 2 or more, for an answer is as good as it is better than others")
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}; the weight of the divergence must be 0 or more")
        self.reward, self.sampler, self.replies, self.group, self.beta = reward, sampler, replies, group, beta

    @phase("main")
    def reinforce(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The loss of a group of answers to each question; logs what they were worth and how long they were."""
        start = batch["start"].to(system.device).repeat_interleave(self.group, 0)
        rows = [row for row in batch["row"] for _ in range(self.group)]
        keys = torch.stack([rng.fork(i).keys for i in range(self.group)], 1).flatten()
        code = rollout(system, self.sampler, start, Streams(keys))
        worth = self.reward(rows, self.replies(system.codec, code, start)).to(system.device)
        written, better = answered(code, start, system.codec), advantages(worth.reshape(-1, self.group))
        logs = {"reward": worth.mean(), "length": written.sum(1).float().mean(), "told": (better != 0).any(1).float().mean()}
        telling = (better != 0).flatten() | (self.beta > 0)
        telling[0] = True  # a loss of nothing where no answer is better than another
        last = int(written[telling].sum(0).nonzero().max()) + 1
        code, written, better = code[telling, :last], written[telling, :last], better.flatten()[telling]
        read = partial(said, code=code, counted=written, document=alone(code, system.codec), bos=system.codec.bos)
        logp, far = read(system.nets["main"]), None
        if self.beta:
            with torch.no_grad():
                far = read(system.nets["reference"])
            logs["divergence"] = mean_of(divergence(logp.detach(), far), written).mean()
        share = int(telling.sum()) / len(telling)  # of all answers: the others' loss is 0
        return share * grpo(logp, logp.detach(), better, written, far=far, beta=self.beta), logs


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
    ratio = (logp - old).exp()
    gain = torch.minimum(ratio * better[:, None], ratio.clamp(1 - clip, 1 + clip) * better[:, None])
    loss = -gain if far is None else -gain + beta * divergence(logp, far)
    return mean_of(loss, written).mean()
