"""The two halves of diffusers' image autoencoders, AutoencoderKL and VQModel, under their tensor names.

Knows images and what stands for them; not what a bottleneck does with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from maquette.contracts import Condition, Network
from maquette.networks.levels2d import Attention, Block, Down, Kind, Level, Up, attending, divides, refuse
from maquette.nn.channels_last import lay, layout, norm_silu

WHAT = "this autoencoder"
_ONLY: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "norm_type": ("group",),
    "latents_mean": (None,),
    "latents_std": (None,),
}


@dataclass(frozen=True)
class LatentPlan:
    """What of an AutoencoderKL's or a VQModel's configuration varies here, under diffusers' names.

    Args:
        in_channels, out_channels: of images that come in, and go out.
        block_out_channels: channels at each resolution, the highest first.
        layers_per_block: residual blocks per resolution in the encoder; one more in the decoder.
        attention: which resolutions attend (theirs says so by the names of its block types).
        mid_block_add_attention: attend in the middle, too.
        latent_channels: of what stands for an image.
        norm_num_groups: of every normalisation.
        scaling_factor, shift_factor: what a diffusion model sees is (latent - shift) * scaling.
        use_quant_conv, use_post_quant_conv: a 1 x 1 convolution after the encoder, before the decoder.
        num_vq_embeddings: points that stand for vectors; None = a Gaussian does.
        vq_embed_dim: channels of the points; None = latent_channels.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    attention: tuple[bool, ...] = (False,)
    mid_block_add_attention: bool = True
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    num_vq_embeddings: int | None = None
    vq_embed_dim: int | None = None

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.block_out_channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries; it must have one per resolution, {len(self.block_out_channels)}"
            )
        divides("norm_num_groups", self.norm_num_groups, self.block_out_channels)
        if not self.scaling_factor:
            raise ValueError(f"scaling_factor is {self.scaling_factor}; it must not be 0")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> LatentPlan:
        """A diffusers configuration (its config.json) as a plan.

        Raises:
            ValueError: it asks for what these networks do not have.
        """
        refuse(config, _ONLY, WHAT)
        down = attending(config["down_block_types"], ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), WHAT)
        up = attending(config["up_block_types"], ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), WHAT)
        if up[::-1] != down:
            both = f"down_block_types {list(config['down_block_types'])} and up_block_types {list(config['up_block_types'])}"
            raise ValueError(f"{both} do not attend at the same resolutions")
        said = {f.name: config[f.name] for f in fields(cls) if f.name in config and f.name != "attention"}
        return cls(**{**said, "block_out_channels": tuple(config["block_out_channels"]), "attention": down})

    def level(self, level: int, inside: list[int], down: nn.Module | None = None, up: nn.Module | None = None) -> Level:
        """The blocks of a resolution, which take these channels in."""
        width, kind = self.block_out_channels[level], Kind(self.norm_num_groups)
        attentions = [Attention(kind, width) for _ in inside] if self.attention[level] else []
        return Level([Block(kind, i, width) for i in inside], attentions, down, up)

    def middle(self) -> Level:
        """Two blocks, and attention between them."""
        width, kind = self.block_out_channels[-1], Kind(self.norm_num_groups)
        attentions = [Attention(kind, width)] if self.mid_block_add_attention else []
        return Level([Block(kind, width, width) for _ in range(2)], attentions)


class LatentEncoder(Network):
    """Images [B,C,H,W] -> [B,outside,h,w], half the size per resolution but the last (Esser 2021; Rombach 2022)."""

    edges = ("conv_in", "conv_out")

    def __init__(self, plan: LatentPlan, outside: int):
        super().__init__()
        self.plan, widths = plan, plan.block_out_channels
        self.conv_in = nn.Conv2d(plan.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inside = [widths[max(level - 1, 0)]] + [width] * (plan.layers_per_block - 1)
            self.down_blocks.append(plan.level(level, inside, down=Down(width, 0) if level < len(widths) - 1 else None))
        self.mid_block = plan.middle()
        self.conv_norm_out = nn.GroupNorm(plan.norm_num_groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], outside, 3, padding=1)
        lay(self)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        by = 2 ** (len(self.plan.block_out_channels) - 1)
        if x.shape[1] != self.plan.in_channels or x.shape[2] % by or x.shape[3] % by:
            raise ValueError(
                f"{WHAT} takes images of {self.plan.in_channels} channels whose sides divide by {by}, not {tuple(x.shape[1:])}"
            )
        h = self.conv_in(layout(x.to(self.conv_in.weight.dtype)))
        for level in (*self.down_blocks, self.mid_block):
            h = level(h)[-1]
        return self.conv_out(norm_silu(h, self.conv_norm_out))


class LatentDecoder(Network):
    """What stands for images [B,latent_channels,h,w] -> [B,C,H,W]."""

    edges = ("conv_in", "conv_out")

    def __init__(self, plan: LatentPlan):
        super().__init__()
        widths = plan.block_out_channels
        self.conv_in = nn.Conv2d(plan.latent_channels, widths[-1], 3, padding=1)
        self.mid_block, self.up_blocks = plan.middle(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            inside = [widths[min(level + 1, len(widths) - 1)]] + [width] * plan.layers_per_block
            self.up_blocks.append(plan.level(level, inside, up=Up(width) if level else None))
        self.conv_norm_out = nn.GroupNorm(plan.norm_num_groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], plan.out_channels, 3, padding=1)
        lay(self)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        h = self.conv_in(layout(x.to(self.conv_in.weight.dtype)))
        for level in (self.mid_block, *self.up_blocks):
            h = level(h)[-1]
        return self.conv_out(norm_silu(h, self.conv_norm_out))
