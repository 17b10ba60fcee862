"""The DiT of diffusers' DiTTransformer2DModel, tensor by tensor: its weights open here under their own names (Peebles 2023).

Made of MM-DiT's layers. `networks.dit` is the one to train from scratch: theirs embeds time and class anew in every block.
Knows no process and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.networks.mmdit import WAVES, Attention, Patches, Steer, picture
from maquette.networks.plans import refuse
from maquette.nn.conv import zeroed
from maquette.nn.embed import TwoLayers, fourier, places
from maquette.nn.mlp import FeedForward
from maquette.nn.norm import adaptive, gated


@dataclass(frozen=True)
class Plan:
    """What of a DiTTransformer2DModel's configuration varies here, under diffusers' names.

    Args:
        in_channels, out_channels: of the image that comes in, and of what goes out; twice as many where a variance is learned.
        num_layers: blocks.
        num_attention_heads, attention_head_dim: the width of a token is their product.
        patch_size: pixels to a side of a token.
        sample_size: side of the images it was trained on; those of other sides are laid over the same places.
        num_embeds_ada_norm: classes; one more stands for none.
        norm_eps: of the normalisation before the feed-forward.
    """

    in_channels: int = 4
    out_channels: int = 4
    num_layers: int = 28
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    patch_size: int = 2
    sample_size: int = 32
    num_embeds_ada_norm: int = 1000
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for f in fields(self):
            if not getattr(self, f.name) > 0:
                raise ValueError(f"{f.name} is {getattr(self, f.name)}; it must be above 0")
        if self.width % 4:
            raise ValueError(f"num_attention_heads * attention_head_dim is {self.width}; places need a multiple of 4")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Plan:
        """A diffusers configuration (its config.json) as a plan, an old one of Transformer2DModel's included.

        Raises:
            ValueError: it asks for what this network does not have.
        """
        refuse(config, _ONLY, "DiT", known=[f.name for f in fields(cls)] + ["norm_num_groups"])
        said = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        return cls(**{"out_channels": said.get("in_channels", 4), **said})


_ONLY: dict[str, tuple[Any, ...]] = {
    "_class_name": ("DiTTransformer2DModel", "Transformer2DModel"),
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
    "upcast_attention": (False,),
    "dropout": (0.0,),
    "cross_attention_dim": (None,),  # from here on names of Transformer2DModel alone
    "double_self_attention": (False,),
    "num_vector_embeds": (None,),
    "only_cross_attention": (False,),
    "use_linear_projection": (False,),
    "attention_type": ("default",),
    "caption_channels": (None,),
    "interpolation_scale": (None, 1),
    "use_additional_conditions": (None, False),
}


class DiT2D(Network):
    """[B,C,H,W] at time t [B], told a class -> [B,C',H,W].

    cond.vector [B,num_embeds_ada_norm]: shares of the classes, as `Labels` tells one. What they lack of 1 goes to theirs for no
    class, so zeros, and no vector at all, are the null condition.

    Args:
        plan: its shape.
        steps: of the chain it is trained on; time t in 0..1 is told as its step number, t * steps - 1 (theirs count from 0).
        keep: channels that are returned, the first; None = all. Of DiT-XL/2's 8 the last 4 tell a variance that is not needed.

    Raises:
        ValueError: sides that the patch does not divide, a vector of another width.
    """

    edges = ("pos_embed", "proj_out_2")
    places: Tensor

    def __init__(self, plan: Plan = Plan(), steps: int = 1000, keep: int | None = None):
        super().__init__()
        if keep is not None and not 0 < keep <= plan.out_channels:
            raise ValueError(f"keep is {keep}; it must lie in 1 .. {plan.out_channels}, out_channels, or be None for all")
        self.plan, self.steps, self.keep, width = plan, steps, keep, plan.width
        self.pos_embed = Patches(plan.in_channels, width, plan.patch_size)
        side = plan.sample_size // plan.patch_size
        self.register_buffer("places", self._places(side, side), persistent=False)
        self.transformer_blocks = nn.ModuleList(_Block(plan) for _ in range(plan.num_layers))
        self.proj_out_1 = zeroed(nn.Linear(width, 2 * width))
        self.proj_out_2 = zeroed(nn.Linear(width, plan.out_channels * plan.patch_size**2))

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        plan, by, kind = self.plan, self.plan.patch_size, self.pos_embed.proj.weight.dtype
        if x.shape[1] != plan.in_channels or x.shape[2] % by or x.shape[3] % by:
            raise ValueError(
                f"this DiT takes images of {plan.in_channels} channels whose sides divide by {by}, not {tuple(x.shape[1:])}"
            )
        step = (x.new_zeros(len(x)) if t is None else t).float() * self.steps - 1
        waves = fourier(step, WAVES, scale=1.0, slowest=10_000.0 ** (128 / 127)).to(kind)  # theirs: 128 waves over 127 steps
        label = self._label(x, cond).to(kind)
        h = self.pos_embed(x.to(kind))
        high, wide = h.shape[2:]
        usual = high == wide == plan.sample_size // by
        h = h.flatten(2).mT + (self.places if usual else self._places(high, wide)).to(h)
        for block in self.transformer_blocks:
            h = block(h, waves, label)
        told = cast(_Block, self.transformer_blocks[0]).norm1.emb(waves, label)
        shift, scale = self.proj_out_1(F.silu(told)).chunk(2, 1)
        return picture(self.proj_out_2(adaptive(h, shift, scale)), high, by)[:, : self.keep]

    def _places(self, high: int, wide: int) -> Tensor:
        """Sines of the patches' places [N,D], the column's first."""
        span = self.plan.sample_size // self.plan.patch_size
        return places(high, wide, self.plan.width, span=span).roll(self.plan.width // 2, 1)

    def _label(self, x: Tensor, cond: Condition | None) -> Tensor:
        """Shares of the classes, and at last of none: [B, classes + 1]."""
        classes = self.plan.num_embeds_ada_norm
        vector = x.new_zeros(len(x), classes) if cond is None or cond.vector is None else cond.vector
        if vector.shape[1] != classes:
            raise ValueError(f"vector is {vector.shape[1]} wide; num_embeds_ada_norm is {classes}")
        return torch.cat([vector, 1 - vector.sum(1, keepdim=True)], 1)


class _Block(nn.Module):
    """Attention and feed-forward under adaLN-Zero (Peebles 2023, sec. 3.2): [B,N,D] -> [B,N,D]."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.eps = plan.norm_eps
        self.norm1 = _Steer(plan)
        self.attn1 = Attention(plan.width, plan.num_attention_heads, qk_norm=False)
        self.ff = FeedForward(plan.width)

    def forward(self, x: Tensor, waves: Tensor, label: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.norm1(F.silu(self.norm1.emb(waves, label)))
        x = gated(x, gate, self.attn1(adaptive(x, shift, scale))[0])
        return gated(x, gate2, self.ff(adaptive(x, shift2, scale2, self.eps)))


class _Steer(Steer):
    """Six parts, and the embedding of time and class that steers them."""

    def __init__(self, plan: Plan):
        super().__init__(plan.width, 6)
        self.emb = _Told(plan)


class _Told(nn.Module):
    """Waves of the time [B,256] and shares of the classes [B,K+1] as one vector [B,D]."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.timestep_embedder = TwoLayers(WAVES, plan.width)
        self.class_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(plan.num_embeds_ada_norm + 1, plan.width)})

    def forward(self, waves: Tensor, label: Tensor) -> Tensor:
        return self.timestep_embedder(waves) + label @ cast(nn.Embedding, self.class_embedder["embedding_table"]).weight
