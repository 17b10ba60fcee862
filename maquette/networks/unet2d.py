"""The U-Net of diffusers' UNet2DModel, tensor by tensor: its weights open here under their own names, and run faster.

Knows no process and no file. The blocks are Ho 2020's: residual blocks told the time by an added vector, attention per level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.nn.channels_last import attend, layout, norm_silu, up_conv
from maquette.nn.embed import fourier


@dataclass(frozen=True)
class Plan:
    """What of a UNet2DModel's configuration varies here, under diffusers' names.

    Args:
        in_channels, out_channels: of the image that comes in, and of what goes out.
        block_out_channels: channels at each resolution, the highest first.
        layers_per_block: residual blocks per resolution on the way down; one more on the way up.
        attention: which resolutions attend (theirs says so by the names of its block types).
        attention_head_dim: channels of a head; None = one head.
        add_attention: attend in the middle, too.
        norm_num_groups, norm_eps: of every normalisation.
        downsample_padding: 1 on all sides, or 0: one on the far sides.
        flip_sin_to_cos, freq_shift: the order and spacing of the time's waves.
        num_class_embeds: classes that the network is told; None = none.
        dropout: share of hidden activations dropped in training.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64, 128, 128)
    layers_per_block: int = 2
    attention: tuple[bool, ...] = (False, True, False)
    attention_head_dim: int | None = 8
    add_attention: bool = True
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    num_class_embeds: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.block_out_channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries; it must have one per resolution, {len(self.block_out_channels)}"
            )
        for width in self.block_out_channels:
            for name, by in (("norm_num_groups", self.norm_num_groups), ("attention_head_dim", self.attention_head_dim or 1)):
                if width % by:
                    raise ValueError(f"{name} is {by}; it must divide {width}, one of block_out_channels")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Plan:
        """A diffusers configuration (its config.json) as a plan.

        Raises:
            ValueError: it asks for what this network does not have.
        """
        for name, allowed in _ONLY.items():
            if name in config and config[name] not in allowed:
                raise ValueError(f"{name} is {config[name]!r}; this U-Net has {' or '.join(map(repr, allowed))} only")
        down = list(config.get("down_block_types", _DOWN))
        up = list(config.get("up_block_types", [_UP[_DOWN.index(kind)] for kind in reversed(down) if kind in _DOWN]))
        for kind, kinds in [(k, _DOWN) for k in down] + [(k, _UP) for k in up]:
            if kind not in kinds:
                raise ValueError(f"block type {kind!r} is not known; this U-Net has {' and '.join(kinds)}")
        attention = tuple(kind == "AttnDownBlock2D" for kind in down)
        if attention != tuple(kind == "AttnUpBlock2D" for kind in reversed(up)):
            raise ValueError(f"down_block_types {down} and up_block_types {up} do not attend at the same resolutions")
        said = {f.name: config[f.name] for f in fields(cls) if f.name in config and f.name != "attention"}
        return cls(**{**said, "block_out_channels": tuple(config["block_out_channels"]), "attention": attention})


_DOWN, _UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")
_ONLY: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "center_input_sample": (False,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "attn_norm_num_groups": (None,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "class_embed_type": (None,),
    "downsample_padding": (0, 1),
}


class UNet2D(Network):
    """[B,C,H,W] at time t [B] -> [B,C',H,W].

    Made for `Fit(bf16=True)`; for sampling in bfloat16, `.bfloat16()`: the time's waves, moments and shares stay float32.

    Args:
        plan: its shape.
        steps: of the chain it is trained on; time t in 0..1 is told as its step number, t * steps - 1 (theirs count from 0).
    """

    edges = ("conv_in", "conv_out", "class_embedding")

    def __init__(self, plan: Plan = Plan(), steps: int = 1000):
        super().__init__()
        self.plan, self.steps = plan, steps
        widths, embedding = plan.block_out_channels, 4 * plan.block_out_channels[0]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(plan.in_channels, widths[0], 3, padding=1)
        self.time_embedding = _Two(widths[0], embedding)
        self.class_embedding = nn.Embedding(plan.num_class_embeds, embedding) if plan.num_class_embeds else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, now = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            inside = [now] + [width] * (plan.layers_per_block - 1)
            skips += [width] * (plan.layers_per_block + (level < last))
            down = _Down(width, plan.downsample_padding) if level < last else None
            self.down_blocks.append(_Level(plan, inside, width, len(inside) * plan.attention[level], down=down))
            now = width
        self.mid_block = _Level(plan, [now, now], now, int(plan.add_attention))
        for level, width in reversed(list(enumerate(widths))):
            inside = [(now if i == 0 else width) + skips.pop() for i in range(plan.layers_per_block + 1)]
            up = _Up(width) if level else None
            self.up_blocks.append(_Level(plan, inside, width, len(inside) * plan.attention[level], up=up))
            now = width
        self.conv_norm_out = nn.GroupNorm(plan.norm_num_groups, now, eps=plan.norm_eps)
        self.conv_out = nn.Conv2d(now, plan.out_channels, 3, padding=1)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        plan, by = self.plan, 2 ** (len(self.plan.block_out_channels) - 1)
        if x.shape[1] != plan.in_channels or x.shape[2] % by or x.shape[3] % by:
            raise ValueError(
                f"this U-Net takes images of {plan.in_channels} channels whose sides divide by {by}, not {tuple(x.shape[1:])}"
            )
        told = F.silu(self._embed(x, t, cond))
        h = self.conv_in(layout(x.to(self.conv_in.weight.dtype)))
        kept = [h]
        for level in cast("list[_Level]", self.down_blocks):
            for block, attention in level.pairs():
                kept.append(h := attention(block(h, told)))
            if level.downsamplers is not None:
                kept.append(h := level.downsamplers[0](h))
        for block, attention in self.mid_block.pairs():
            h = attention(block(h, told))
        for level in cast("list[_Level]", self.up_blocks):
            for block, attention in level.pairs():
                h = attention(block(torch.cat([h, kept.pop()], 1), told))
            if level.upsamplers is not None:
                h = level.upsamplers[0](h)
        return self.conv_out(norm_silu(h, self.conv_norm_out))

    def _embed(self, x: Tensor, t: Tensor | None, cond: Condition | None) -> Tensor:
        """Time and class as one vector [B,E]."""
        width, weight = self.plan.block_out_channels[0], self.conv_in.weight
        half = width // 2
        step = (x.new_zeros(len(x)) if t is None else t).float() * self.steps - 1
        base = 10_000.0 ** (half / (half - self.plan.freq_shift))  # theirs spaces half waves over half - freq_shift
        waves = fourier(step, width, scale=1.0, slowest=base)
        if not self.plan.flip_sin_to_cos:
            waves = torch.cat([waves[:, half:], waves[:, :half]], 1)
        told = self.time_embedding(waves.to(weight.dtype))
        if self.class_embedding is not None and cond is not None and cond.vector is not None:
            told = told + cond.vector.to(weight.dtype) @ self.class_embedding.weight
        return told


class _Two(nn.Module):
    """Linear, SiLU, linear: [B,D] -> [B,E]."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inside, outside), nn.Linear(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class _Level(nn.Module):
    """The parts of one resolution, one way: residual blocks, attention after the first few of them, a change of size."""

    def __init__(
        self,
        plan: Plan,
        inside: list[int],
        outside: int,
        attentions: int,
        down: nn.Module | None = None,
        up: nn.Module | None = None,
    ):
        super().__init__()
        self.resnets = nn.ModuleList(_Block(plan, width, outside) for width in inside)
        self.attentions = nn.ModuleList(_Attention(plan, outside) for _ in range(attentions))
        self.downsamplers = None if down is None else nn.ModuleList([down])
        self.upsamplers = None if up is None else nn.ModuleList([up])

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Each residual block and what follows it."""
        return zip_longest(self.resnets, self.attentions, fillvalue=nn.Identity())


class _Block(nn.Module):
    """norm, SiLU, conv, plus the embedding, norm, SiLU, dropout, conv; plus the input: [B,C,H,W] -> [B,C',H,W]."""

    def __init__(self, plan: Plan, inside: int, outside: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(plan.norm_num_groups, inside, eps=plan.norm_eps)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * plan.block_out_channels[0], outside)
        self.norm2 = nn.GroupNorm(plan.norm_num_groups, outside, eps=plan.norm_eps)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else None
        self.dropout = nn.Dropout(plan.dropout)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = F.conv2d(norm_silu(x, self.norm1), self.conv1.weight, padding=1)
        shift = self.time_emb_proj(told) + self.conv1.bias
        h = self.conv2(self.dropout(norm_silu(h, self.norm2, shift)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _Attention(nn.Module):
    """Every place attends to every place, plus the input: [B,C,H,W] -> [B,C,H,W]."""

    def __init__(self, plan: Plan, channels: int):
        super().__init__()
        self.heads = channels // (plan.attention_head_dim or channels)
        self.group_norm = nn.GroupNorm(plan.norm_num_groups, channels, eps=plan.norm_eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        each = [self.to_q, self.to_k, self.to_v]
        weight, bias = torch.cat([one.weight for one in each]), torch.cat([one.bias for one in each])
        places = norm_silu(x, self.group_norm, silu=False).permute(0, 2, 3, 1).reshape(-1, channels)
        qkv = torch.addmm(bias[:, None], weight, places.T)  # [3C,BT]: heads want channels first
        q, k, v = qkv.view(3, self.heads, -1, batch, height * width).permute(0, 3, 1, 2, 4)
        seen = attend(q, k, v).permute(1, 2, 0, 3).reshape(channels, -1).T
        return x + self.to_out[0](seen).view(batch, height, width, channels).permute(0, 3, 1, 2)


class _Down(nn.Module):
    """Half the resolution, by a strided convolution."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class _Up(nn.Module):
    """Twice the resolution: nearest neighbour and a convolution in one."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return up_conv(x, self.conv)
