"""A picture that leads a U-Net: diffusers' ControlNetModel under its tensor names, and a U-Net with one beside it.

Knows U-Nets; not how the picture was made (edges, a pose, depth), which is its data's matter.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.networks.plans2d import Frame, TextPlan
from maquette.networks.unet2d import Descent, UNet2D
from maquette.nn.channels_last import lay, layout


class ControlNet(Descent):
    """A copy of a U-Net's way down and middle that reads a picture, too, and says what to add to each (Zhang 2023, sec. 3.2).

    Args:
        plan: the U-Net's shape.
        channels: of the picture.
        widths: channels of the convolutions that read the picture, each half the size of the one before.
        steps: of the chain that it is trained on.
    """

    edges = ("conv_in", "class_embedding")

    def __init__(self, plan: Frame, channels: int = 3, widths: tuple[int, ...] = (16, 32, 96, 256), steps: int = 1000):
        super().__init__(plan, steps)
        self.controlnet_cond_embedding = _Reader(channels, widths, plan.block_out_channels[0])
        self.controlnet_down_blocks = nn.ModuleList(_zero(width, width, 1) for width in self.skips)
        self.controlnet_mid_block = _zero(self.skips[-1], self.skips[-1], 1)
        lay(self)

    @classmethod
    def of(cls, config: Mapping[str, Any], steps: int = 1000) -> ControlNet:
        """The network of a diffusers configuration (its config.json).

        Raises:
            ValueError: it asks for what this network does not have.
        """
        widths = config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))
        return cls(TextPlan.of(config), config.get("conditioning_channels", 3), tuple(widths), steps)

    @classmethod
    def beside(cls, net: UNet2D, channels: int, factor: int) -> ControlNet:
        """One that begins as a copy of a trained U-Net's way down and middle, and adds nothing yet (Zhang 2023, sec. 3.1).

        Args:
            channels: of the pictures.
            factor: pixels to a side of what the U-Net sees as one; a power of two.

        Raises:
            ValueError: another factor.
        """
        if factor < 1 or factor & (factor - 1):
            raise ValueError(f"factor is {factor}; it must be a power of two: 1, 2, 4, 8")
        widths = (16, 32, 96, 256, 256)[: factor.bit_length()]
        made = cls(net.plan, channels, widths, net.steps)
        own = made.state_dict()
        with torch.no_grad():
            for name, value in net.state_dict().items():
                if name in own:
                    own[name].copy_(value)
        return made

    def forward(  # type: ignore[override]
        self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None
    ) -> list[Tensor]:
        """[B,C,H,W] and a condition whose field is the picture, [B,3,8H,8W] in 0..1 -> what `UNet2D` is given as `added`.

        Raises:
            ValueError: there is no picture, or it is not that many times the code's size.
        """
        reader = self.controlnet_cond_embedding
        picture, size = None if cond is None else cond.field, [side * 2 ** (len(reader.blocks) // 2) for side in x.shape[2:]]
        if cond is None or picture is None or list(picture.shape[1:]) != [reader.conv_in.in_channels, *size]:
            found = None if picture is None else tuple(picture.shape)
            raise ValueError(
                f"this control network's field is a picture [B,{reader.conv_in.in_channels},{size[0]},{size[1]}], not {found}"
            )
        hint = reader(layout(picture.to(self.conv_in.weight.dtype)))
        x, cond = self.read(x, replace(cond, field=None))
        kept, told = self.descend(x, t, cond, hint)
        out = [zero(one) for zero, one in zip(self.controlnet_down_blocks, kept, strict=True)]
        return [*out, self.controlnet_mid_block(self.centre(kept[-1], told, cond))]


class Controlled(Network):
    """A U-Net as a control network leads it: called as the U-Net is, with the picture as the condition's field.

    The U-Net is no part of it: another role holds it, frozen, so that the control network alone learns and is averaged.

    Args:
        net: the U-Net.
        control: what leads it.
        scale: of what is added; 0 leaves the U-Net to itself.
    """

    def __init__(self, net: UNet2D, control: ControlNet, scale: float = 1.0):
        super().__init__()
        self._net = (net,)  # a tuple hides it from PyTorch
        self.control, self.scale = control, scale

    @property
    def net(self) -> UNet2D:
        return self._net[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Controlled:
        """Another control network, as this one is now, beside the same U-Net."""
        return Controlled(self.net, copy.deepcopy(self.control, memo), self.scale)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        added = [self.scale * one for one in self.control(x, t=t, cond=cond)]
        return self.net(x, t=t, cond=None if cond is None else replace(cond, field=None), added=added)


class _Reader(nn.Module):
    """Convolutions and SiLUs from the picture to the code's size: [B,C,H,W] -> [B,outside,h,w]."""

    def __init__(self, channels: int, widths: tuple[int, ...], outside: int):
        super().__init__()
        self.conv_in, self.blocks = nn.Conv2d(channels, widths[0], 3, padding=1), nn.ModuleList()
        for i, width in enumerate(widths[:-1]):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, widths[i + 1], 3, stride=2, padding=1))
        self.conv_out = _zero(widths[-1], outside, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv_in(x))
        for block in self.blocks:
            h = F.silu(block(h))
        return self.conv_out(h)


def _zero(inside: int, outside: int, side: int) -> nn.Conv2d:
    """A convolution that begins as nothing."""
    conv = nn.Conv2d(inside, outside, side, padding=side // 2)
    for p in conv.parameters():
        nn.init.zeros_(p)
    return conv
