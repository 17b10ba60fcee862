"""A mixture of experts in the place of a feed-forward layer: each symbol goes through a few of many. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from maquette.nn.mlp import Gated
from maquette.nn.ranks import summed


def softmax(logits: Tensor) -> Tensor:
    """Over the last axis."""
    return logits.softmax(-1)


class Experts(nn.Module):
    """The sum of the `top` experts that a router likes best, by its weights, and of those that all symbols go through.

    Which are liked best is decided by their scores plus a bias that no gradient moves: after each batch that is learnt from it
    grows for those that had fewer symbols than the mean, and shrinks for the others (Wang 2024, alg. 1; DeepSeek-V3, sec. 2.1.2).
    The weights are of the scores alone, so that balance costs the loss nothing.

    Args:
        width: channels in and out.
        count: experts E.
        top: experts K that a symbol goes through.
        hidden: channels within each.
        feed: what an expert is, (width, hidden) -> module.
        shared: channels within the expert that all symbols go through; 0 = there is none.
        shared_gate: weigh that one by a sigmoid of the symbol (Qwen2-MoE).
        score: of logits [N,E]: softmax over them, or torch.sigmoid (DeepSeek-V3).
        norm: weights sum to 1.
        scale: times the weights.
        balance: by how much the bias moves a step; 0 = it stays.
        groups: experts lie in so many groups, of which only the best `top_groups` are asked, by the sum of the two best in each.
    """

    bias: Tensor
    load: Tensor

    def __init__(
        self,
        width: int,
        count: int = 8,
        top: int = 2,
        hidden: int = 0,
        *,
        feed: Callable[[int, int], nn.Module] = Gated,
        shared: int = 0,
        shared_gate: bool = False,
        score: Callable[[Tensor], Tensor] = softmax,
        norm: bool = True,
        scale: float = 1.0,
        balance: float = 0.001,
        groups: int = 1,
        top_groups: int = 1,
    ):
        super().__init__()
        if not 1 <= top <= count:
            raise ValueError(f"a symbol goes through 1 .. {count} experts, not {top}; nearest is {min(max(top, 1), count)}")
        if count % groups or not 1 <= top_groups <= groups or top > top_groups * (count // groups):
            raise ValueError(f"{count} experts in {groups} groups, {top_groups} of them asked, give no {top} experts")
        self.top, self.score, self.norm, self.scale, self.balance = top, score, norm, scale, balance
        self.groups, self.top_groups = groups, top_groups
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(feed(width, hidden) for _ in range(count))
        self.shared = feed(width, shared) if shared else None
        self.gate = nn.Linear(width, 1, bias=False) if shared and shared_gate else None
        self.register_buffer("bias", torch.zeros(count))
        self.register_buffer("load", torch.full((count,), 1 / count))  # share of the symbols that each had lately

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        flat = x.reshape(-1, x.shape[-1])
        out = self.routed(flat)
        if self.shared is not None:
            more = self.shared(flat)
            out = out + (more if self.gate is None else self.gate(flat).sigmoid() * more)
        return out.view_as(x)

    # not in a graph: how many symbols an expert has is only known when it has them (torch.compiler.disable would be the same, and
    # import torch's compiler, 2 s of every start)
    @torch._disable_dynamo
    def routed(self, x: Tensor) -> Tensor:
        """[N,D] -> [N,D]: through each symbol's own experts."""
        weights, chosen = self.choose(x)
        rows, slots = chosen.flatten().sort(stable=True)
        counts = torch.bincount(rows, minlength=len(self.experts))
        at, share = slots // self.top, weights.flatten()[slots, None].to(x.dtype)
        parts = x[at].split(counts.tolist())
        made = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True) if len(part)]) * share
        if self.training:
            self.settle(counts)
        return torch.zeros_like(x).index_add(0, at, made.to(x.dtype))

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights float32[N,K] and numbers int64[N,K] of the experts of each row [N,D]."""
        scores = self.score(torch.nn.functional.linear(x.float(), self.router.weight.float()))
        liked = scores.detach() + self.bias
        if self.groups > 1:
            parts = liked.unflatten(1, (self.groups, -1))
            best = parts.topk(2, -1).values.sum(-1).topk(self.top_groups, -1, sorted=False).indices
            closed = torch.ones_like(parts[..., 0], dtype=torch.bool).scatter(1, best, False)
            liked = parts.masked_fill(closed[..., None], -torch.inf).flatten(1)
        chosen = liked.topk(self.top, -1).indices
        weights = scores.gather(1, chosen)
        if self.norm:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.scale, chosen

    @torch.no_grad()
    def settle(self, counts: Tensor) -> None:
        """Move the bias against what the experts had, int64[E]; all ranks' symbols count."""
        (had,) = summed(counts.float())
        self.bias += self.balance * (had.mean() - had).sign()
        self.load.lerp_(had / had.sum().clamp(min=1), 0.02)

    @property
    def evenness(self) -> float:
        """Entropy of the load over that of an even one: 1 = all experts had as much lately."""
        share = self.load / self.load.sum()
        return float(torch.special.entr(share).sum() / torch.tensor(float(len(share))).log()) if len(share) > 1 else 1.0
