"""What varies between diffusers' U-Nets, under the names of their configurations: UNet2DModel's and UNet2DConditionModel's.

Knows which parts a resolution is made of; not how they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from torch import nn

from maquette.networks.levels2d import Attention, Block, Kind, Level, attending, divides, refuse
from maquette.networks.transformer2d import Transformer2D

WHAT = "this U-Net"
_ONLY: dict[str, tuple[Any, ...]] = {  # of every one
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "center_input_sample": (False,),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "downsample_padding": (0, 1),
}


@dataclass(frozen=True)
class Frame:
    """What a U-Net with text and one without have in common.

    Args:
        in_channels, out_channels: of the image that comes in (a condition's field included), and of what goes out.
        block_out_channels: channels at each resolution, the highest first.
        layers_per_block: residual blocks per resolution on the way down; one more on the way up.
        attention: which resolutions attend (theirs says so by the names of its block types).
        norm_num_groups, norm_eps: of every normalisation.
        downsample_padding: 1 on all sides, or 0: one on the far sides.
        flip_sin_to_cos, freq_shift: the order and spacing of the time's waves.
        num_class_embeds: classes that the network is told; None = none.
        class_embed_type: None; "projection": the condition's vector is told through two layers, "timestep": it is one number.
        projection_class_embeddings_input_dim: what those layers take (or those of addition_embed_type).
        addition_embed_type: None, or "text_time": the vector is a pooled text embedding followed by numbers (Podell 2023, SDXL).
        addition_time_embed_dim: waves that each of those numbers becomes.
        conv_in_kernel: side of the first convolution.
        dropout: share of hidden activations dropped in training.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64, 128, 128)
    layers_per_block: int = 2
    attention: tuple[bool, ...] = (False, True, False)
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    num_class_embeds: int | None = None
    class_embed_type: str | None = None
    projection_class_embeddings_input_dim: int | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    conv_in_kernel: int = 3
    dropout: float = 0.0

    kinds: ClassVar[tuple[tuple[str, str], tuple[str, str]]]  # of blocks on the way down and up: that do not attend, and do
    only: ClassVar[dict[str, tuple[Any, ...]]]
    cross_attention_dim: ClassVar[int | None]

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.block_out_channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries; it must have one per resolution, {len(self.block_out_channels)}"
            )
        divides("norm_num_groups", self.norm_num_groups, self.block_out_channels)
        told = [n for n in ("num_class_embeds", "class_embed_type", "addition_embed_type") if getattr(self, n) is not None]
        if len(told) > 1:
            raise ValueError(f"{' and '.join(told)} are both given; {WHAT} is told of one thing by a vector")
        needs = ["projection_class_embeddings_input_dim"] * (
            self.class_embed_type == "projection" or bool(self.addition_embed_type)
        )
        needs += ["addition_time_embed_dim"] * bool(self.addition_embed_type)
        for name in needs:
            if not getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)!r}; {told[0]} {getattr(self, told[0])!r} needs a number")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """A diffusers configuration (its config.json) as a plan.

        Raises:
            ValueError: it asks for what this network does not have.
        """
        refuse(config, _ONLY | cls.only, WHAT)
        said = {f.name: config[f.name] for f in fields(cls) if f.name in config and f.name != "attention"}
        said = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
        return cls(**{**said, "attention": cls._attention(config)})

    @classmethod
    def _attention(cls, config: Mapping[str, Any]) -> tuple[bool, ...]:
        if "down_block_types" not in config:
            return cls.attention
        down = attending(config["down_block_types"], cls.kinds[0], WHAT)
        if "up_block_types" in config and attending(config["up_block_types"], cls.kinds[1], WHAT)[::-1] != down:
            both = f"down_block_types {list(config['down_block_types'])} and up_block_types {list(config['up_block_types'])}"
            raise ValueError(f"{both} do not attend at the same resolutions")
        return down

    @property
    def kind(self) -> Kind:
        """What its blocks have in common."""
        return Kind(self.norm_num_groups, self.norm_eps, 4 * self.block_out_channels[0], self.dropout)

    def attend(self, level: int) -> nn.Module:
        """One layer's attention at a resolution, 0 the highest."""
        raise NotImplementedError

    def level(self, level: int, inside: list[int], down: nn.Module | None = None, up: nn.Module | None = None) -> Level:
        """The blocks of a resolution, which take these channels in."""
        width = self.block_out_channels[level]
        attentions = [self.attend(level) for _ in inside] if self.attention[level] else []
        return Level([Block(self.kind, i, width) for i in inside], attentions, down, up)

    def middle(self) -> Level | None:
        """Two blocks, and attention between them."""
        width, last = self.block_out_channels[-1], len(self.block_out_channels) - 1
        return Level([Block(self.kind, width, width) for _ in range(2)], [self.attend(last)])


@dataclass(frozen=True)
class Plan(Frame):
    """What of a UNet2DModel's configuration varies here, under diffusers' names.

    Args:
        attention_head_dim: channels of a head; None = one head.
        add_attention: attend in the middle, too.
    """

    attention_head_dim: int | None = 8
    add_attention: bool = True

    kinds: ClassVar = (("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D"))
    only: ClassVar = {
        "mid_block_type": ("UNetMidBlock2D",),
        "attn_norm_num_groups": (None,),
        "downsample_type": ("conv",),
        "upsample_type": ("conv",),
        "class_embed_type": (None,),
    }
    cross_attention_dim: ClassVar = None

    def __post_init__(self) -> None:
        super().__post_init__()
        divides("attention_head_dim", 1 if self.attention_head_dim is None else self.attention_head_dim, self.block_out_channels)

    def attend(self, level: int) -> nn.Module:
        return Attention(self.kind, self.block_out_channels[level], self.attention_head_dim)

    def middle(self) -> Level:
        width, last = self.block_out_channels[-1], len(self.block_out_channels) - 1
        return Level([Block(self.kind, width, width) for _ in range(2)], [self.attend(last)] * self.add_attention)


@dataclass(frozen=True)
class TextPlan(Frame):
    """What of a UNet2DConditionModel's configuration varies here: Stable Diffusion's U-Nets (Rombach 2022; Podell 2023).

    Args:
        attention_head_dim: despite its name the number of heads, of all resolutions or of each.
        cross_attention_dim: width of the tokens that places attend to.
        transformer_layers_per_block: transformer blocks in a layer of attention, of all resolutions or of each.
        use_linear_projection: whether attention is entered and left by matrices or by 1 x 1 convolutions; a matter of names.
        mid_block_type: None = no middle.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    attention_head_dim: int | tuple[int, ...] = 8
    cross_attention_dim: int = 1280  # type: ignore[misc]
    transformer_layers_per_block: int | tuple[int, ...] = 1
    use_linear_projection: bool = False
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"

    kinds: ClassVar = (("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D"))
    only: ClassVar = {
        "mid_block_type": (None, "UNetMidBlock2DCrossAttn"),
        "class_embed_type": (None, "timestep", "projection"),
        "addition_embed_type": (None, "text_time"),
        "only_cross_attention": (False,),
        "mid_block_only_cross_attention": (None, False),
        "dual_cross_attention": (False,),
        "reverse_transformer_layers_per_block": (None,),
        "num_attention_heads": (None,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "resnet_skip_time_act": (False,),
        "resnet_out_scale_factor": (1,),
        "time_embedding_act_fn": (None,),
        "timestep_post_act": (None,),
        "time_cond_proj_dim": (None,),
        "conv_out_kernel": (3,),
        "attention_type": ("default",),
        "class_embeddings_concat": (False,),
        "cross_attention_norm": (None,),
        "global_pool_conditions": (False,),  # a control network's
        "controlnet_conditioning_channel_order": ("rgb",),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers_per_block", "cross_attention_dim"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} is {getattr(self, name)!r}; {WHAT} has one for all resolutions only")
        if self.conv_in_kernel % 2 == 0:
            raise ValueError(f"conv_in_kernel is {self.conv_in_kernel}; it must be odd, for example {self.conv_in_kernel + 1}")
        for name in ("attention_head_dim", "transformer_layers_per_block"):
            each = getattr(self, name)
            if isinstance(each, tuple) and (len(each) != len(self.attention) or not all(isinstance(n, int) for n in each)):
                raise ValueError(f"{name} is {each}; it must be a number, or {len(self.attention)} of them, one per resolution")
        for level, width in enumerate(self.block_out_channels):
            divides("attention_head_dim", self._of(self.attention_head_dim, level), [width])

    @staticmethod
    def _of(each: int | tuple[int, ...], level: int) -> int:
        return each[level] if isinstance(each, tuple) else each

    def attend(self, level: int) -> nn.Module:
        return Transformer2D(
            self.block_out_channels[level],
            heads=self._of(self.attention_head_dim, level),
            depth=self._of(self.transformer_layers_per_block, level),
            words=self.cross_attention_dim,
            groups=self.norm_num_groups,
            linear=self.use_linear_projection,
        )

    def middle(self) -> Level | None:
        return super().middle() if self.mid_block_type else None
