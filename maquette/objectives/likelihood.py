"""Exact likelihood of sequences: predict each symbol from those before it.

Knows one causal network, "main", and the symbol that begins a sequence; not what symbols mean, nor how they are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Batch, Code, Logs, Objective, phase
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

ROWS = 128  # rows of logits worked on at once: 128 x 4,096 in float32 stay in a core's cache


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose gradient is made on the way forward, a few rows at a time, in the logits' own precision.

    float32 exists for ROWS rows only: a third of the memory traffic of log_softmax + nll_loss on bfloat16 logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """logits [N,V], target int64[N] -> mean over the targets that are not IGNORE, in nats (0 where there are none)."""
        real = target != IGNORE
        weight = real / real.sum().clamp(min=1)
        grad, losses = torch.empty_like(logits), []
        for part, index, share, out in zip(*(x.split(ROWS) for x in (logits, target, weight, grad)), strict=True):
            place = index.clamp(min=0)[:, None]
            chance = part.float().log_softmax(1)
            losses.append(-chance.gather(1, place)[:, 0] * share)
            slope = chance.exp_().scatter_add_(1, place, chance.new_full(place.shape, -1.0))
            out.copy_(slope.mul_(share[:, None]))
        ctx.save_for_backward(grad)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * above[0].to(grad.dtype), None


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p(target) in nats over the targets that are not IGNORE: [B,T,V], int64[B,T] -> []."""
    flat, index = logits.flatten(0, -2), target.flatten()
    if torch.is_grad_enabled() and logits.requires_grad:
        return _CrossEntropy.apply(flat, index)
    total = torch.nn.functional.cross_entropy(flat.float(), index, ignore_index=IGNORE, reduction="sum")
    return total / (index != IGNORE).sum().clamp(min=1)


def nats(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of each row's targets, summed: [B,T,V], int64[B,T] -> float32[B]."""
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), target, ignore_index=IGNORE, reduction="none")
    return each.sum(1)


class NextToken(Objective):
    """Maximum likelihood by the chain rule: the network's row t scores the symbol after x_t.

    Args:
        bos: the symbol that begins every sequence.
        drop: chance that a training row gets the null condition, for classifier-free guidance.
        whole: rows are whole texts of at most this many symbols, their ends included: where one ends, `bos` is a target, and
            what lies beyond is cut off; 0 = rows are windows, which end anywhere.
    """

    bound = "exact"

    def __init__(self, bos: int, drop: float = 0.0, whole: int = 0):
        super().__init__()
        self.whole = whole
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is a chance, 0 .. 1, not {drop}; nearest is {min(max(drop, 0.0), 1.0)}")
        self.bos, self.drop = bos, drop

    def shift(self, code: Code, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64[B,T] each. A batch's "given" int64[B] = leading positions that are context, not scored."""
        if self.whole:
            code = self._ended(code)
        begin = torch.full_like(code[:, :1], self.bos)
        before = torch.cat([begin, code[:, :-1]], 1)
        target = code
        if "given" in batch:
            place = torch.arange(code.shape[1], device=code.device)
            target = code.masked_fill(place < batch["given"].to(code.device)[:, None], IGNORE)
        return before.masked_fill(before == IGNORE, self.bos), target

    def _ended(self, code: Code) -> Code:
        """Each row with `bos` behind its text, cut where it is too long: int64[B,T] -> [B,T+1], of at most `whole`."""
        code = torch.nn.functional.pad(code, (0, 1), value=IGNORE)
        over = code == IGNORE
        return code.masked_fill(over & (over.cumsum(1) == 1), self.bos)[:, : self.whole]

    @phase("main", "conditioner")
    def predict(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean cross-entropy per target, in nats."""
        x, target = self.shift(system.encode(batch), batch)
        cond = system.condition(batch, drop=self.drop, rng=rng)
        return cross_entropy(system.nets["main"](x, cond=cond), target), {}

    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor:
        """-log p(code | condition) in nats [B], summed over the targets."""
        x, target = self.shift(system.encode(batch), batch)
        return nats(system.steady("main")(x, cond=system.condition(batch)), target)


class NextCode(NextToken):
    """The same for the codes of a lossy codec: they have a likelihood, the data themselves have none here.

    Args:
        bos, drop: as in NextToken.
        heard: share of the loss that symbols told before the code have, learned by the same network (Ramesh 2021, sec. 2.3: 1/8).

    Raises:
        ValueError: a share outside 0 .. 1.
    """

    bound = ""

    def __init__(self, bos: int, drop: float = 0.0, heard: float = 0.0):
        super().__init__(bos, drop)
        if not 0 <= heard < 1:
            raise ValueError(f"heard is a share of the loss, 0 .. 1 (without 1), not {heard}")
        self.heard = heard

    @phase("main", "conditioner")
    def predict(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean cross-entropy per target, in nats: of the code, and of what is told before it, where that has a share."""
        if not self.heard:
            return super().predict(system, batch, rng, step)
        x, target = self.shift(system.encode(batch), batch)
        cond = system.condition(batch, drop=self.drop, rng=rng)
        assert cond is not None and cond.tokens is not None
        net: Any = system.nets["main"]
        before, after = net.read(x, cond)
        said = cond.tokens[:, 1:] if cond.mask is None else cond.tokens[:, 1:].masked_fill(~cond.mask[:, 1:], IGNORE)
        code, told = cross_entropy(after, target), cross_entropy(before[:, :-1], said)
        return torch.lerp(code, told, self.heard), {"code": code, "told": told}

    def score(self, system: System, batch: Batch, rng: Streams) -> None:  # type: ignore[override]
        return None

    @torch.no_grad()
    def rate(self, system: System, batch: Batch, rng: Streams) -> Tensor:
        """What the codes cost to send under this prior, given the batch's own condition, in nats [B]."""
        return super().score(system, batch, rng)
