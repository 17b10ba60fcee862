"""MM-DiT: text and image as two streams that attend as one sequence, then as one stream (Esser 2024, sec. 4; Flux).

Weights of diffusers' SD3Transformer2DModel and FluxTransformer2DModel open here under their own names; small ones are trained
from scratch. Knows no process, no text encoder and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.networks.plans import refuse
from maquette.nn.attention import attend
from maquette.nn.conv import fold, unfold, zeroed
from maquette.nn.embed import TwoLayers, fourier, places
from maquette.nn.gelu import gelu
from maquette.nn.mlp import FeedForward
from maquette.nn.norm import RMSNorm, adaptive, gated
from maquette.nn.positions import picture_turns, rotate_pairs

WAVES = 256  # of the time, and of the guidance scale


@dataclass(frozen=True)
class Plan:
    """The shape of an MM-DiT, under diffusers' names; as it stands, Flux's and small enough for 32 x 32 pixels.

    Args:
        in_channels, out_channels: of the image that comes in, the condition's field included, and of what goes out.
        patch_size: pixels to a side of a token.
        num_layers: double-stream blocks.
        num_single_layers: single-stream blocks after them; with none, the last double block lets the text go, as SD3's.
        num_attention_heads, attention_head_dim: the width of a token is their product.
        joint_attention_dim: width of the prompt's tokens.
        pooled_projection_dim: width of the prompt's vector; 0 = there is none.
        guidance_embeds: the network is told a guidance scale.
        axes_dims_rope: channels of a head that turn by nothing, by the row and by the column; None = places are added, as SD3's.
        qk_norm: of queries and keys: rms_norm, or None.
        sample_size, pos_embed_max_size: of added places: side of the pictures they were made for, in pixels, and of the table
            whose middle a picture gets, in tokens.
        dual_attention_layers: double blocks whose image also attends to itself alone, as SD3.5 medium's.
    """

    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 2
    num_layers: int = 2
    num_single_layers: int = 4
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    joint_attention_dim: int = 64
    pooled_projection_dim: int = 64
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] | None = (0, 16, 16)
    qk_norm: str | None = "rms_norm"
    sample_size: int = 32
    pos_embed_max_size: int = 16
    dual_attention_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        refuse({"qk_norm": self.qk_norm}, {"qk_norm": (None, "rms_norm")}, "MM-DiT")
        zero = ("num_single_layers", "pooled_projection_dim", "guidance_embeds")
        for name, value in vars(self).items():
            if isinstance(value, int) and value < (name not in zero):
                raise ValueError(f"{name} is {value}; it must be at least {int(name not in zero)}")
        axes, size = self.axes_dims_rope, self.attention_head_dim
        if axes is not None and (len(axes) != 3 or sum(axes) != size or any(axis % 2 or axis < 0 for axis in axes)):
            raise ValueError(f"axes_dims_rope is {axes}; it must be three even numbers that add up to attention_head_dim, {size}")
        if axes is None and self.sample_size < self.patch_size:
            raise ValueError(f"sample_size is {self.sample_size}; it must be at least patch_size, {self.patch_size}")
        if axes is None and self.width % 4:
            raise ValueError(f"num_attention_heads * attention_head_dim is {self.width}; added places need a multiple of 4")
        for layer in self.dual_attention_layers:
            if not 0 <= layer < self.num_layers:
                raise ValueError(f"dual_attention_layers names layer {layer}; there are 0 .. {self.num_layers - 1}")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Plan:
        """A configuration of diffusers' SD3Transformer2DModel or FluxTransformer2DModel (its config.json) as a plan.

        Flux's counts a square of 2 x 2 as channels; a plan counts those of the latent.

        Raises:
            ValueError: it asks for what this network does not have.
        """
        guess = "SD3Transformer2DModel" if "caption_projection_dim" in config else "FluxTransformer2DModel"
        kind = {"_class_name": config.get("_class_name", guess)}
        refuse(kind, {"_class_name": ("SD3Transformer2DModel", "FluxTransformer2DModel")}, "MM-DiT")
        return cls._of_sd3(config) if kind["_class_name"].startswith("SD3") else cls._of_flux(config)

    @classmethod
    def _of_sd3(cls, config: Mapping[str, Any]) -> Plan:
        refuse(config, {"qk_norm": (None, "rms_norm")}, "SD3", known=_SD3)
        said = _said(config, _SD3)
        width = said.pop("caption_projection_dim")
        plan = cls(**said, num_single_layers=0, axes_dims_rope=None)
        refuse({"caption_projection_dim": width}, {"caption_projection_dim": (plan.width,)}, "SD3")
        return plan

    @classmethod
    def _of_flux(cls, config: Mapping[str, Any]) -> Plan:
        refuse(config, {"patch_size": (1,)}, "Flux", known=_FLUX)
        said = _said(config, _FLUX)
        if said["num_single_layers"] < 1:
            raise ValueError(f"num_single_layers is {said['num_single_layers']}; Flux must have at least 1")
        for name in ("in_channels", "out_channels"):
            if said[name] % 4:
                raise ValueError(f"{name} is {said[name]}; Flux's are those of 2 x 2 places, so a multiple of 4")
            said[name] //= 4
        return cls(**{**said, "patch_size": 2})


# what diffusers' classes take as given
_FLUX: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}
_SD3: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 96,
    "dual_attention_layers": (),
    "qk_norm": None,
}


def _said(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what its class takes as given, and JSON's lists as tuples."""
    said = {name: config.get(name, value) for name, value in defaults.items()}
    if said["out_channels"] is None:
        said["out_channels"] = said["in_channels"]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


class MMDiT(Network):
    """[B,C,H,W] at time t [B], told a prompt -> [B,C',H,W].

    cond.tokens [B,L,joint_attention_dim]: the encoded prompt; cond.mask bool[B,L] says which are real, without it all are. With
        no tokens, or none that are real in a row, the image attends to itself alone: the null condition.
    cond.vector [B,pooled_projection_dim]: the prompt in one vector; None = zeros. With guidance_embeds the guidance scale is its
        last number and must be said (`maquette.contracts.tell` puts numbers there).
    cond.field [B,F,H,W]: channels behind those of x, where in_channels counts more than x has (Flux Fill, Canny and Depth).

    Made for `Fit(bf16=True)`; for sampling in bfloat16, `.bfloat16()`: the time's waves and the turns stay float32.
    """

    edges = ("x_embedder", "pos_embed", "time_text_embed", "context_embedder", "proj_out")

    def __init__(self, plan: Plan = Plan()):
        super().__init__()
        self.plan, width, inside = plan, plan.width, plan.in_channels * plan.patch_size**2
        if plan.axes_dims_rope is not None:
            self.x_embedder = nn.Linear(inside, width)
        else:
            side, span = plan.pos_embed_max_size, plan.sample_size // plan.patch_size
            table = places(side, side, width, span=span).roll(width // 2, 1)  # theirs says the column first
            self.pos_embed = Patches(plan.in_channels, width, plan.patch_size, table)
        self.time_text_embed = _Told(plan)
        self.context_embedder = nn.Linear(plan.joint_attention_dim, width)
        heads, norm, last = plan.num_attention_heads, plan.qk_norm is not None, plan.num_layers - 1
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(width, heads, norm, bool(plan.num_single_layers) or i < last, i in plan.dual_attention_layers)
            for i in range(plan.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(width, heads, norm) for _ in range(plan.num_single_layers))
        self.norm_out = Steer(width, 2)
        self.proj_out = zeroed(nn.Linear(width, plan.out_channels * plan.patch_size**2))

    def widen(self, more: int) -> None:
        """Hear a guidance scale behind the condition's vector; what comes out stays as it is until it learns to heed it.

        Raises:
            ValueError: other than one number more, or it hears one already.
        """
        if more != 1 or self.plan.guidance_embeds:
            heard = "hears a guidance scale already" if self.plan.guidance_embeds else f"cannot hear {more} numbers more"
            raise ValueError(f"this MM-DiT {heard}; it can hear one guidance scale behind its vector")
        self.plan = self.time_text_embed.plan = replace(self.plan, guidance_embeds=True)
        self.time_text_embed.guidance_embedder = TwoLayers(WAVES, self.plan.width)
        zeroed(self.time_text_embed.guidance_embedder.linear_2)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        plan, cond, kind = self.plan, cond or Condition(), self.context_embedder.weight.dtype
        x = (x if cond.field is None else torch.cat([x, cond.field], 1)).to(kind)
        self._check(x, cond)
        high, wide = (side // plan.patch_size for side in x.shape[2:])
        told = F.silu(self.time_text_embed(x.new_zeros(len(x)) if t is None else t, cond.vector, kind))
        tokens = x.new_zeros(len(x), 0, plan.joint_attention_dim) if cond.tokens is None else cond.tokens.to(kind)
        text, h, turn, real = self.context_embedder(tokens), self._tokens(x), None, None
        if plan.axes_dims_rope is not None:
            turn = picture_turns(text.shape[1], high, wide, plan.axes_dims_rope, device=x.device)
        if cond.mask is not None and cond.tokens is not None:
            real = F.pad(cond.mask.bool(), (0, high * wide), value=True)
        for block in self.transformer_blocks:
            h, text = block(h, text, told, turn, real)
        if plan.num_single_layers:
            both = torch.cat([text, h], 1)
            for block in self.single_transformer_blocks:
                both = block(both, told, turn, real)
            h = both[:, text.shape[1] :]
        scale, shift = self.norm_out(told)
        return self._image(self.proj_out(adaptive(h, shift, scale)), high)

    def _tokens(self, x: Tensor) -> Tensor:
        """Squares of the image as tokens: [B,C,H,W] -> [B,N,D]."""
        if self.plan.axes_dims_rope is not None:
            return self.x_embedder(fold(x, self.plan.patch_size).flatten(2).mT)
        h, side = self.pos_embed(x), self.plan.pos_embed_max_size
        top, left = ((side - n) // 2 for n in h.shape[2:])
        table = self.pos_embed.pos_embed.view(side, side, -1)[top : top + h.shape[2], left : left + h.shape[3]]
        return h.flatten(2).mT + table.flatten(0, 1).to(h.dtype)

    def _image(self, h: Tensor, high: int) -> Tensor:
        """Tokens as squares of an image: [B,N,P] -> [B,C,H,W]."""
        if self.plan.axes_dims_rope is None:
            return picture(h, high, self.plan.patch_size)
        return unfold(h.mT.unflatten(2, (high, -1)), self.plan.patch_size)

    def _check(self, x: Tensor, cond: Condition) -> None:
        plan, by = self.plan, self.plan.patch_size
        if x.shape[1] != plan.in_channels or x.shape[2] % by or x.shape[3] % by:
            raise ValueError(
                f"this MM-DiT takes images of {plan.in_channels} channels, the condition's field included, whose sides divide by "
                f"{by}, not {tuple(x.shape[1:])}"
            )
        if plan.axes_dims_rope is None and max(x.shape[2:]) > by * plan.pos_embed_max_size:
            raise ValueError(
                f"the image is {x.shape[2]} x {x.shape[3]}; pos_embed_max_size is {plan.pos_embed_max_size}, which allows sides "
                f"of at most {by * plan.pos_embed_max_size}"
            )
        if cond.tokens is not None and cond.tokens.shape[2] != plan.joint_attention_dim:
            raise ValueError(
                f"tokens are {cond.tokens.shape[2]} wide; this MM-DiT's joint_attention_dim is {plan.joint_attention_dim}"
            )


class _Told(nn.Module):
    """Time, the prompt's vector and the guidance scale as one vector [B,D]."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        self.timestep_embedder = TwoLayers(WAVES, plan.width)
        self.guidance_embedder = TwoLayers(WAVES, plan.width) if plan.guidance_embeds else None
        self.text_embedder = TwoLayers(plan.pooled_projection_dim, plan.width) if plan.pooled_projection_dim else None

    def forward(self, t: Tensor, vector: Tensor | None, kind: torch.dtype) -> Tensor:
        pooled, scale = self.plan.pooled_projection_dim, self.plan.guidance_embeds
        if vector is None and not scale:
            vector = t.new_zeros(len(t), pooled)
        if vector is None or vector.shape[1] != pooled + scale:
            behind = " and the guidance scale behind them, as maquette.contracts.tell puts it" if scale else ""
            raise ValueError(
                f"vector is {None if vector is None else vector.shape[1]} wide; it must be {pooled + scale}: "
                f"pooled_projection_dim numbers of the prompt, {pooled}{behind}"
            )
        told = self.timestep_embedder(fourier(t, WAVES).to(kind))
        if self.guidance_embedder is not None:
            told = told + self.guidance_embedder(fourier(vector[:, -1], WAVES).to(kind))
        if self.text_embedder is not None:
            told = told + self.text_embedder(vector[:, :pooled].to(kind))
        return told


class DoubleBlock(nn.Module):
    """Image [B,N,D] and text [B,L,D], each with its own weights, attend as one sequence under adaLN-Zero (Esser 2024, fig. 2b).

    Args:
        reply: the text hears back, too; without it the text is let go, and comes out as it went in.
        dual: the image also attends to itself alone, beside.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, reply: bool = True, dual: bool = False):
        super().__init__()
        self.norm1, self.norm1_context = Steer(width, 9 if dual else 6), Steer(width, 6 if reply else 2)
        self.attn = Attention(width, heads, qk_norm, text=True, reply=reply)
        self.attn2 = Attention(width, heads, qk_norm) if dual else None
        self.ff, self.ff_context = FeedForward(width), FeedForward(width) if reply else None

    def forward(self, x: Tensor, text: Tensor, told: Tensor, turn: Tensor | None, real: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, scale, gate, shift2, scale2, gate2, *dual = self.norm1(told)
        of_text = self.norm1_context(told)
        one, two = of_text[:2] if self.ff_context is not None else of_text[::-1]  # one that lets go says its scale first
        said, heard = self.attn(adaptive(x, shift, scale), adaptive(text, one, two), turn, real)
        alone = None if self.attn2 is None else self.attn2(adaptive(x, dual[0], dual[1]), turn=turn)[0]
        x = gated(x, gate, said)
        if alone is not None:
            x = gated(x, dual[2], alone)
        x = gated(x, gate2, self.ff(adaptive(x, shift2, scale2)))
        if self.ff_context is None:
            return x, text
        _, _, gate, shift2, scale2, gate2 = of_text
        text = gated(text, gate, heard)
        return x, gated(text, gate2, self.ff_context(adaptive(text, shift2, scale2)))


class SingleBlock(nn.Module):
    """Attention and feed-forward beside each other, under one modulation and one gate: [B,T,D] -> [B,T,D] (Dehghani 2023)."""

    def __init__(self, width: int, heads: int, qk_norm: bool):
        super().__init__()
        self.norm = Steer(width, 3)
        self.attn = Attention(width, heads, qk_norm, out=False)
        self.proj_mlp, self.proj_out = nn.Linear(width, 4 * width), nn.Linear(5 * width, width)

    def forward(self, x: Tensor, told: Tensor, turn: Tensor | None, real: Tensor | None) -> Tensor:
        shift, scale, gate = self.norm(told)
        h = adaptive(x, shift, scale)
        both = torch.cat([self.attn(h, None, turn, real)[0], gelu(self.proj_mlp(h))], 2)
        return gated(x, gate, self.proj_out(both))


class Attention(nn.Module):
    """A stream [B,N,D] attends to itself, or as one sequence with a text [B,L,D] that has weights of its own and comes first.

    Args:
        qk_norm: normalise queries and keys (Henry 2020), with gains.
        out: mix the heads at last.
        text: there is a text.
        reply: it asks, too, and is answered; without it, it is only asked.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, out: bool = True, text: bool = False, reply: bool = False):
        super().__init__()
        self.heads, self.reply = heads, reply
        norms = [RMSNorm(width // heads) if qk_norm else nn.Identity() for _ in range(4)]
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = norms[:2]
        self.to_out = nn.ModuleList([nn.Linear(width, width)] if out else [])
        if text:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
            self.norm_added_q, self.norm_added_k = norms[2:]
        if reply:
            self.to_add_out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, text: Tensor | None = None, turn: Tensor | None = None, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What x and the text gain, the latter empty without a reply. `real` bool[B,L+N]: the positions that may be seen."""
        q, k, v = self.norm_q(self._heads(self.to_q(x))), self.norm_k(self._heads(self.to_k(x))), self._heads(self.to_v(x))
        asked = 0
        if text is not None:
            k = torch.cat([self.norm_added_k(self._heads(self.add_k_proj(text))), k], 1)
            v = torch.cat([self._heads(self.add_v_proj(text)), v], 1)
            if self.reply:
                asked = text.shape[1]
                q = torch.cat([self.norm_added_q(self._heads(self.add_q_proj(text))), q], 1)
        if turn is not None:  # of the whole sequence: the newest positions are the image's
            q, k = (rotate_pairs(each, turn[-each.shape[1] :]) for each in (q, k))
        h = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), False, real).transpose(1, 2).flatten(2)
        heard, h = h[:, :asked].contiguous(), h[:, asked:].contiguous()
        for out in self.to_out:
            h = out(h)
        return h, self.to_add_out(heard) if self.reply else heard

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1))


class Steer(nn.Module):
    """What is told [B,D] as `parts` shifts, scales and gates [B,D] each; all 0 at first (Peebles 2023, sec. 3.2)."""

    def __init__(self, width: int, parts: int):
        super().__init__()
        self.parts, self.linear = parts, zeroed(nn.Linear(width, parts * width))

    def forward(self, told: Tensor) -> tuple[Tensor, ...]:
        return self.linear(told).chunk(self.parts, 1)


class Patches(nn.Module):
    """Squares of an image as tokens: [B,C,H,W] -> [B,D,H/p,W/p]. Keeps a table of their places [N,D], if there is one to keep."""

    pos_embed: Tensor

    def __init__(self, channels: int, width: int, patch: int, table: Tensor | None = None):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        if table is not None:
            self.register_buffer("pos_embed", table[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def picture(h: Tensor, high: int, patch: int) -> Tensor:
    """Tokens as squares of an image, their channels innermost: [B,N,p*p*C] -> [B,C,H,W]."""
    return unfold(h.unflatten(2, (patch**2, -1)).mT.flatten(2).mT.unflatten(2, (high, -1)), patch)
