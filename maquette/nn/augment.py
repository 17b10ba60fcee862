"""Augmentations that a gradient passes through, for discriminators of small data. Knows neither networks nor losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maquette.nn.ranks import summed
from maquette.streams import Streams


class Augment(nn.Module):
    """Shift, cutout, brightness and contrast, each on a share `p` of the rows (Zhao 2020, DiffAugment; Karras 2020, ADA).

    With a target, `p` follows how surely the discriminator knows real rows. Its state is buffers, so a run resumes with it.
    [B,C,H,W] -> [B,C,H,W].

    Args:
        p: share of rows that each augmentation changes, to begin with.
        target: wanted mean of sign(D(real)); 0 = `p` stays as it is.
        rows: rows of evidence that would carry `p` from 0 to 1.
    """

    p: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(self, p: float = 0.0, target: float = 0.0, rows: int = 100_000):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}; it must lie in 0..1, and is the share of rows that are augmented")
        self.target, self.speed = target, 1 / rows
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("signs", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, rng: Streams) -> Tensor:
        if not self.target and not bool(self.p):
            return x
        height, width = x.shape[2:]
        chosen = rng.uniform(4) < self.p  # [B,4]
        amount = rng.uniform(6) * 2 - 1  # [B,6] in -1..1
        share = torch.where(chosen[:, 2:], amount[:, :2], 0.0)[..., None, None, None]
        x = x + 0.25 * share[:, 0]
        middle = x.mean((1, 2, 3), keepdim=True)
        x = middle + (x - middle) * (1 + 0.25 * share[:, 1])
        x = self._shift(x, torch.where(chosen[:, :1], amount[:, 2:4], 0.0))
        down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        at = (
            (amount[:, 4:] + 1) / 2 * torch.tensor([height, width], device=x.device)
        )  # centre of the hole, a quarter of the side each way
        hole = ((down - at[:, :1]).abs() < height / 8)[:, :, None] & ((across - at[:, 1:]).abs() < width / 8)[:, None]
        return x.masked_fill((hole & chosen[:, 1, None, None])[:, None], -1.0)

    @staticmethod
    def _shift(x: Tensor, amount: Tensor) -> Tensor:
        """Whole pixels, up to an eighth of each side; the edge repeats."""
        height, width = x.shape[2:]
        reach = torch.tensor([max(1, height // 8), max(1, width // 8)], device=x.device)
        steps = (amount * (reach + 0.499)).round().long()
        rows = (torch.arange(height, device=x.device) + steps[:, :1]).clamp(0, height - 1)
        columns = (torch.arange(width, device=x.device) + steps[:, 1:]).clamp(0, width - 1)
        x = x.gather(2, rows[:, None, :, None].expand_as(x))
        return x.gather(3, columns[:, None, None, :].expand_as(x))

    @torch.no_grad()
    def watch(self, logits: Tensor) -> None:
        """Note the discriminator's logits of real rows [B]."""
        if self.target:
            self.signs += logits.sign().sum()
            self.seen += len(logits)

    @torch.no_grad()
    def adapt(self) -> None:
        """Move `p` by the evidence of all ranks since the last call: up where D is too sure (Karras 2020)."""
        if not self.target:
            return
        signs, seen = summed(self.signs, self.seen)
        self.p += torch.sign(signs - self.target * seen) * seen * self.speed
        self.p.clamp_(0, 0.8)
        self.signs.zero_()
        self.seen.zero_()
