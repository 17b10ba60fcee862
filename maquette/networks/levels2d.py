"""The blocks of diffusers' U-Nets and image autoencoders, under their tensor names: residual blocks, attention, changes of size.

Knows no process, no configuration and no text. The blocks are Ho 2020's: told something, if anything, by an added vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition
from maquette.nn.channels_last import Pointwise, attend, norm_silu, up_conv


@dataclass(frozen=True)
class Kind:
    """What all blocks of one network have in common.

    Args:
        groups, eps: of every normalisation.
        told: width of the vector that blocks are told; 0 = none.
        dropout: share of hidden activations dropped in training.
    """

    groups: int = 32
    eps: float = 1e-6
    told: int = 0
    dropout: float = 0.0


class Level(nn.Module):
    """The parts of one resolution, one way: residual blocks, attention after the first few of them, a change of size."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        attentions: Iterable[nn.Module] = (),
        down: nn.Module | None = None,
        up: nn.Module | None = None,
    ):
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.downsamplers = None if down is None else nn.ModuleList([down])
        self.upsamplers = None if up is None else nn.ModuleList([up])

    def forward(
        self, h: Tensor, told: Tensor | None = None, cond: Condition | None = None, kept: list[Tensor] | None = None
    ) -> list[Tensor]:
        """What comes out of every block and of the change of size, in order: [B,C,H,W] -> [B,C',H',W'] each.

        Args:
            told: [B,E], for blocks.
            cond: for attention.
            kept: of the way down; each block takes the last of them beside what it reads.
        """
        out = []
        for block, attention in zip_longest(self.resnets, self.attentions):
            h = block(h if kept is None else torch.cat([h, kept.pop()], 1), told)
            out.append(h := h if attention is None else attention(h, cond))
        for change in self.downsamplers or self.upsamplers or ():
            out.append(h := change(h))
        return out


class Block(nn.Module):
    """norm, SiLU, conv, plus what is told, norm, SiLU, dropout, conv; plus the input: [B,C,H,W] -> [B,C',H,W]."""

    def __init__(self, kind: Kind, inside: int, outside: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(kind.groups, inside, eps=kind.eps)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.time_emb_proj = nn.Linear(kind.told, outside) if kind.told else None
        self.norm2 = nn.GroupNorm(kind.groups, outside, eps=kind.eps)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.conv_shortcut = Pointwise(inside, outside) if inside != outside else None
        self.dropout = nn.Dropout(kind.dropout)

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        h = norm_silu(x, self.norm1)
        if self.time_emb_proj is None:
            h = norm_silu(self.conv1(h), self.norm2)
        else:
            shift = self.time_emb_proj(told) + self.conv1.bias
            h = norm_silu(F.conv2d(h, self.conv1.weight, padding=1), self.norm2, shift)
        h = self.conv2(self.dropout(h))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


_BEFORE = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # names in checkpoints of before 2023


class Attention(nn.Module):
    """Every place attends to every place, plus the input: [B,C,H,W] -> [B,C,H,W].

    Args:
        head: channels of a head; None = one head.
    """

    def __init__(self, kind: Kind, channels: int, head: int | None = None):
        super().__init__()
        self.heads = channels // (head or channels)
        self.group_norm = nn.GroupNorm(kind.groups, channels, eps=kind.eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        batch, channels, height, width = x.shape
        each = [self.to_q, self.to_k, self.to_v]
        weight, bias = torch.cat([one.weight for one in each]), torch.cat([one.bias for one in each])
        places = norm_silu(x, self.group_norm, silu=False).permute(0, 2, 3, 1).reshape(-1, channels)
        qkv = torch.addmm(bias[:, None], weight, places.T)  # [3C,BT]: heads want channels first
        q, k, v = qkv.view(3, self.heads, -1, batch, height * width).permute(0, 3, 1, 2, 4)
        seen = attend(q, k, v).permute(1, 2, 0, 3).reshape(channels, -1).T
        return x + self.to_out[0](seen).view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for before, now in _BEFORE.items():
            for part in ("weight", "bias"):
                if f"{prefix}{before}.{part}" in state_dict:  # some hold a matrix as a 1 x 1 convolution
                    state_dict[f"{prefix}{now}.{part}"] = state_dict.pop(f"{prefix}{before}.{part}").squeeze()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Down(nn.Module):
    """Half the resolution, by a strided convolution.

    Args:
        padding: 1 on all sides, or 0: one on the far sides.
    """

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the resolution: nearest neighbour and a convolution in one."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return up_conv(x, self.conv)


class Two(nn.Module):
    """Linear, SiLU, linear: [B,D] -> [B,E]."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inside, outside), nn.Linear(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


def refuse(config: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], what: str) -> None:
    """Nothing, if a configuration asks for no more than `only` allows.

    Raises:
        ValueError: it does; the message names the first such entry, its value and what it may be.
    """
    for name, allowed in only.items():
        if name in config and config[name] not in allowed:
            raise ValueError(f"{name} is {config[name]!r}; {what} has {' or '.join(map(repr, allowed))} only")


def attending(kinds: Iterable[str], known: tuple[str, str], what: str) -> tuple[bool, ...]:
    """Which resolutions attend, by the names of their block types; `known`: that of one that does not, and of one that does.

    Raises:
        ValueError: a name is neither.
    """
    found = list(kinds)
    for kind in found:
        if kind not in known:
            raise ValueError(f"block type {kind!r} is not known; {what} has {' and '.join(known)}")
    return tuple(kind == known[1] for kind in found)


def divides(name: str, by: int, widths: Iterable[int]) -> None:
    """Nothing, if `by` divides all widths.

    Raises:
        ValueError: it does not.
    """
    for width in widths:
        if by < 1 or width % by:
            raise ValueError(f"{name} is {by}; it must divide {width}, one of block_out_channels")
