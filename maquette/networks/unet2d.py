"""The U-Nets of diffusers' UNet2DModel and UNet2DConditionModel: their weights open here under their own names, and run faster.

Knows no process and no file; what varies between them is a plan's to say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.networks.levels2d import Down, Two, Up
from maquette.networks.plans2d import Frame
from maquette.nn.channels_last import lay, layout, norm_silu
from maquette.nn.embed import fourier


class Descent(Network):
    """A U-Net as far as its middle: what it is told as one vector, and the way down.

    Args:
        plan: its shape.
        steps: of the chain it is trained on; time t in 0..1 is told as its step number, t * steps - 1 (theirs count from 0).
    """

    def __init__(self, plan: Frame, steps: int = 1000):
        super().__init__()
        self.plan, self.steps = plan, steps
        widths, embedding = plan.block_out_channels, plan.kind.told
        self.conv_in = nn.Conv2d(plan.in_channels, widths[0], plan.conv_in_kernel, padding=plan.conv_in_kernel // 2)
        self.time_embedding = Two(widths[0], embedding)
        known = plan.projection_class_embeddings_input_dim or 0
        self.class_embedding: nn.Module | None = None
        if plan.num_class_embeds:
            self.class_embedding = nn.Embedding(plan.num_class_embeds, embedding)
        elif plan.class_embed_type:
            self.class_embedding = Two(widths[0] if plan.class_embed_type == "timestep" else known, embedding)
        self.add_embedding = Two(known, embedding) if plan.addition_embed_type else None
        self.down_blocks = nn.ModuleList()
        self.skips = [widths[0]]  # channels of what is kept, in order
        for level, width in enumerate(widths):
            inside, last = [self.skips[-1]] + [width] * (plan.layers_per_block - 1), level == len(widths) - 1
            self.skips += [width] * (plan.layers_per_block + (not last))
            self.down_blocks.append(plan.level(level, inside, down=None if last else Down(width, plan.downsample_padding)))
        self.mid_block = plan.middle()

    def descend(
        self, x: Tensor, t: Tensor | None, cond: Condition | None, hint: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """What is kept of the way down, the input's features first, and what blocks are told.

        Args:
            hint: added to the input's features.
        """
        h = self.conv_in(layout(x.to(self.conv_in.weight.dtype)))
        kept, told = [h if hint is None else h + hint], F.silu(self.embed(x, t, cond))
        for level in self.down_blocks:
            kept += level(kept[-1], told, cond)
        return kept, told

    def centre(self, h: Tensor, told: Tensor, cond: Condition | None) -> Tensor:
        """What the middle makes of the lowest resolution."""
        return h if self.mid_block is None else self.mid_block(h, told, cond)[-1]

    def read(self, x: Tensor, cond: Condition | None) -> tuple[Tensor, Condition | None]:
        """The input with the condition's field behind its channels, and the condition in this network's precision.

        Raises:
            ValueError: they are not what this network takes.
        """
        plan, by = self.plan, 2 ** (len(self.plan.block_out_channels) - 1)
        if cond is not None and cond.field is not None:
            x = torch.cat([x, cond.field.to(x.dtype)], 1)
        if x.shape[1] != plan.in_channels or x.shape[2] % by or x.shape[3] % by:
            raise ValueError(
                f"this U-Net takes images of {plan.in_channels} channels whose sides divide by {by}, not {tuple(x.shape[1:])}"
            )
        if plan.cross_attention_dim is None:
            return x, cond
        tokens = None if cond is None else cond.tokens
        if cond is None or tokens is None or tokens.ndim != 3 or tokens.shape[2] != plan.cross_attention_dim:
            found = None if tokens is None else tuple(tokens.shape)
            raise ValueError(f"this U-Net is told of tokens [B,L,{plan.cross_attention_dim}] by its condition, not {found}")
        return x, replace(cond, tokens=tokens.to(self.conv_in.weight.dtype))

    def embed(self, x: Tensor, t: Tensor | None, cond: Condition | None) -> Tensor:
        """Time and the condition's vector as one [B,E].

        Raises:
            ValueError: the vector is not what this network is told.
        """
        plan, dtype = self.plan, self.conv_in.weight.dtype
        step = (x.new_zeros(len(x)) if t is None else t).float() * self.steps - 1
        told = self.time_embedding(self.waves(step, plan.block_out_channels[0]).to(dtype))
        vector = None if cond is None else cond.vector
        if plan.num_class_embeds and vector is not None:
            told = told + vector.to(dtype) @ cast(nn.Embedding, self.class_embedding).weight
        for layers in (self.class_embedding, self.add_embedding):
            if isinstance(layers, Two):
                told = told + layers(self.heard(vector, layers.linear_1.in_features).to(dtype))
        return told

    def heard(self, vector: Tensor | None, inside: int) -> Tensor:
        """The condition's vector, the numbers at its end as waves: float32[B,inside]."""
        plan = self.plan
        each = plan.block_out_channels[0] if plan.class_embed_type == "timestep" else plan.addition_time_embed_dim or 0
        given = 0 if vector is None or vector.ndim != 2 else vector.shape[1]
        numbers, rest = divmod(inside - given, each - 1) if each else (0, inside - given)  # a number takes the place of its waves
        if vector is None or rest or not 0 <= numbers <= given:
            wants = f"of {inside} numbers" if not each else f"whose last numbers become {each} waves each, {inside} in all"
            raise ValueError(f"this U-Net is told of a vector {wants}, by its condition, not {given} numbers")
        if not numbers:
            return vector.float()
        still, told = vector.float().split([given - numbers, numbers], 1)
        return torch.cat([still, self.waves(told.flatten(), each).view(len(vector), -1)], 1)

    def waves(self, numbers: Tensor, width: int) -> Tensor:
        """Cosines and sines of some numbers: [N] -> float32[N,width]."""
        half = width // 2
        base = 10_000.0 ** (half / (half - self.plan.freq_shift))  # theirs spaces half waves over half - freq_shift
        waves = fourier(numbers, width, scale=1.0, slowest=base)
        return waves if self.plan.flip_sin_to_cos else torch.cat([waves[:, half:], waves[:, :half]], 1)


class UNet2D(Descent):
    """[B,C,H,W] at time t [B] -> [B,C',H,W].

    A condition's vector is a class (one-hot), or what the plan says: for SDXL a pooled text embedding followed by the numbers
    that time_ids holds (6: original height and width, top and left of the crop, height and width to make; the refiner's 5
    end in an aesthetic score). Its tokens are an encoded prompt, its field more channels of the input (inpainting: mask and
    masked image).

    Made for `Fit(bf16=True)`; for sampling in bfloat16, `.bfloat16()`: the time's waves, moments and shares stay float32.

    Args:
        plan: its shape.
        steps: of the chain it is trained on.
    """

    edges = ("conv_in", "conv_out", "class_embedding")

    def __init__(self, plan: Frame, steps: int = 1000):
        super().__init__(plan, steps)
        self.up_blocks = nn.ModuleList()
        widths, skips = plan.block_out_channels, list(self.skips)
        now = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            inside = [(now if i == 0 else width) + skips.pop() for i in range(plan.layers_per_block + 1)]
            self.up_blocks.append(plan.level(level, inside, up=Up(width) if level else None))
            now = width
        self.conv_norm_out = nn.GroupNorm(plan.norm_num_groups, now, eps=plan.norm_eps)
        self.conv_out = nn.Conv2d(now, plan.out_channels, 3, padding=1)
        lay(self)

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: Any = None,
        added: list[Tensor] | None = None,
    ) -> Tensor:
        """See the class.

        Args:
            added: what a control network adds to all that is kept of the way down, and to the middle.
        """
        x, cond = self.read(x, cond)
        kept, told = self.descend(x, t, cond)
        h = self.centre(kept[-1], told, cond)
        if added is not None:
            kept = [one + other for one, other in zip(kept, added[:-1], strict=True)]
            h = h + added[-1]
        for level in self.up_blocks:
            h = level(h, told, cond, kept)[-1]
        return self.conv_out(norm_silu(h, self.conv_norm_out))
