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

from maquette.contracts import IGNORE, Batch, Code, Logs, Objective, Reporting, Sampler, phase
from maquette.data.errors import DataError
from maquette.objectives.likelihood import said
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Reward = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Tensor]  # rows, an answer to each -> float32[n]


class Reinforce(Objective):
    """Group-relative policy optimisation (Shao 2024, arXiv:2402.03300, eq. 3), each answer used once.

    A batch brings "start" int64[B,T], what answers grow from, and "row", a mapping for each that the reward looks at.

    Answers may come from anywhere: from the network that learns, through any sampler of symbols, or from an engine outside
    (samplers/outside.py), which may have weights of some steps ago and arithmetic of its own. Then the old policy of eq. 3 is
    whoever drew them: a sampler that is `Reporting` says at which log-probability it drew each symbol, the ratio is over that,
    and symbols of which it says nothing are not learnt from. Of any other it is held that it drew from the network as it is, at
    temperature 1 with nothing left out or put in.

    Args:
        reward: what each answer is worth.
        sampler: draws the answers.
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
        code, drawn = self.rollout(system, start, Streams(keys))
        worth = self.worth(rows, self.replies(system.codec, code, start)).to(system.device)
        written, better = answered(code, start, system.codec), advantages(worth.reshape(-1, self.group))
        if drawn is not None:
            written &= drawn.isfinite()
        logs = {"reward": worth.mean(), "length": written.sum(1).float().mean(), "told": (better != 0).any(1).float().mean()}
        telling = (better != 0).flatten() | (self.beta > 0)
        telling[0] = True  # a loss of nothing where no answer is better than another
        last = int(written[telling].sum(0).nonzero().max()) + 1
        code, written, better = code[telling, :last], written[telling, :last], better.flatten()[telling]
        document = None
        if not system.codec.begins:  # nothing stood before the first symbol when answers were drawn: what does here is not seen
            document = torch.arange(last, device=code.device).clamp(max=1).expand_as(code)
        read = partial(said, code=code, counted=written, document=document, bos=system.codec.bos)
        logp, far = read(system.nets["main"]), None
        if self.beta:
            with torch.no_grad():
                far = read(system.nets["reference"])
            logs["divergence"] = mean_of(divergence(logp.detach(), far), written).mean()
        old = logp.detach()
        if drawn is not None:
            old = drawn[telling, :last].masked_fill(~written, 0.0)
            logs["behind"] = mean_of(divergence(old, logp.detach()), written).mean()  # nats a symbol from whoever drew
        share = int(telling.sum()) / len(telling)  # of all answers: the others' loss is 0
        return share * grpo(logp, old, better, written, far=far, beta=self.beta), logs

    @torch.no_grad()
    def rollout(self, system: System, start: Code, rng: Streams) -> tuple[Code, Tensor | None]:
        """An answer behind each start, int64[n,T], and the log-probability of each symbol where the sampler says it."""
        net, learning, drawn = system.nets["main"], system.nets["main"].training, None
        net.eval()
        with torch.autocast(system.device.type, enabled=False):  # a memory would be rounded anew at every symbol
            if isinstance(self.sampler, Reporting):
                code, drawn = self.sampler.reported(system, len(start), start=start, rng=rng)
            else:
                *_, code = self.sampler.draw(system, len(start), start=start, rng=rng)
        net.train(learning)
        return code, drawn

    def worth(self, rows: Sequence[Mapping[str, Any]], replies: Sequence[str]) -> Tensor:
        """What the reward gives each answer, float32[n].

        Raises:
            DataError: it fails, or gives what is no number for each; the reward, the row and the answer are named.
        """
        name = getattr(self.reward, "__name__", type(self.reward).__name__)
        try:
            found = self.reward(rows, replies)
        except DataError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"reward {name} failed on {len(replies)} answers, the first {replies[0][:80]!r}: {what}") from error
        if found.shape != (len(rows),):
            raise DataError(
                f"reward {name} gives {tuple(found.shape)} numbers for {len(rows)} answers; it must give one for each"
            )
        if len(wrong := (~found.isfinite()).nonzero()):
            i = int(wrong[0])
            asked = f"{replies[i][:80]!r} to {rows[i].get('source')!r}"
            raise DataError(f"reward {name} gives {float(found[i])} for the answer {asked}: no number")
        return found


def answered(code: Code, start: Code, codec: Any) -> Tensor:
    """Which symbols were written, the one that ends an answer among them and none behind: bool[n,T]."""
    free = start == IGNORE
    ends = (torch.isin(code, torch.tensor(codec.ends, device=code.device)) & free).long()
    return free & ((ends.cumsum(1) - ends) == 0)


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
