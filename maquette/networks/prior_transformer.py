"""DALL-E 2's prior (Ramesh 2022, sec. 2.2), tensor by tensor as diffusers' PriorTransformer: a vector from a text.

Knows vectors, states and times; not what made them, and no process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.networks.plans import refuse
from maquette.nn.attention import attend
from maquette.nn.embed import TwoLayers, fourier
from maquette.nn.mlp import FeedForward, Rise

_ONLY: dict[str, tuple[Any, ...]] = {  # what Karlo's and Kandinsky's priors have
    "time_embed_act_fn": ("silu",),
    "norm_in_type": (None,),
    "embedding_proj_norm_type": (None,),
    "encoder_hid_proj_type": ("linear",),
    "added_emb_type": ("prd",),
    "additional_embeddings": (4,),
    "dropout": (0, 0.0),
    "time_embed_dim": (None,),
    "embedding_proj_dim": (None,),
    "clip_embed_dim": (None,),
}


@dataclass(frozen=True)
class PriorPlan:
    """What of a PriorTransformer's configuration varies here, under its own names.

    Args:
        num_attention_heads, attention_head_dim: heads, and channels of each.
        num_layers: blocks.
        embedding_dim: numbers of a vector, and of a state of the text.
        num_embeddings: states of every text.
    """

    num_attention_heads: int = 32
    attention_head_dim: int = 64
    num_layers: int = 20
    embedding_dim: int = 768
    num_embeddings: int = 77

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """A diffusers configuration (its config.json) as a plan.

        Raises:
            ValueError: it asks for what this network does not have.
        """
        width = config.get("embedding_dim", cls.embedding_dim)
        same = {name: (None, width) for name in ("embedding_proj_dim", "clip_embed_dim")}
        inner = config.get("num_attention_heads", 32) * config.get("attention_head_dim", 64)
        known = [f.name for f in fields(cls)]
        refuse(config, _ONLY | same | {"time_embed_dim": (None, inner)}, "prior", known)
        return cls(**{name: config[name] for name in known if name in config})


class PriorTransformer(Network):
    """A noised vector [B,P] at time t [B] -> an estimate [B,P], read from the last of a row of tokens that look back alone:

    the text's states (a condition's tokens [B,L,P]), its vector [B,P], the time, the noised vector, and one that asks.

    Args:
        plan: its shape.
        steps: of the chain it is trained on; time t in 0..1 is told as its step number, t * steps - 1 (theirs count from 0).

    Raises:
        ValueError: a condition without a vector and `num_embeddings` tokens of width P.
    """

    edges = ("proj_in", "embedding_proj", "encoder_hidden_states_proj", "proj_to_clip_embeddings", "time_embedding")
    clip_mean: Tensor
    clip_std: Tensor

    def __init__(self, plan: PriorPlan, steps: int = 1000):
        super().__init__()
        self.plan, self.steps = plan, steps
        inner, inside = plan.num_attention_heads * plan.attention_head_dim, plan.embedding_dim
        self.time_embedding = TwoLayers(inner, inner)
        self.proj_in, self.embedding_proj, self.encoder_hidden_states_proj = (nn.Linear(inside, inner) for _ in range(3))
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(1, plan.num_embeddings + 4, inner))
        self.prd_embedding = nn.Parameter(0.02 * torch.randn(1, 1, inner))
        self.transformer_blocks = nn.ModuleList(_Block(inner, plan.num_attention_heads) for _ in range(plan.num_layers))
        self.norm_out = nn.LayerNorm(inner)
        self.proj_to_clip_embeddings = nn.Linear(inner, inside)
        self.register_buffer("clip_mean", torch.zeros(1, inside))  # theirs undo a standardisation with these
        self.register_buffer("clip_std", torch.ones(1, inside))

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        plan, width = self.plan, self.plan.embedding_dim
        vector, tokens = (None, None) if cond is None else (cond.vector, cond.tokens)
        shapes = [None if slot is None else tuple(slot.shape[1:]) for slot in (vector, tokens)]
        if cond is None or vector is None or tokens is None or shapes != [(width,), (plan.num_embeddings, width)]:
            raise ValueError(
                f"this prior is told of a vector [B,{width}] and tokens [B,{plan.num_embeddings},{width}] by its condition, "
                f"not {' and '.join(map(str, shapes))}"
            )
        dtype, inner = self.proj_in.weight.dtype, self.proj_in.out_features
        step = (x.new_zeros(len(x)) if t is None else t).float() * self.steps - 1
        time = self.time_embedding(fourier(step, inner, scale=1.0).to(dtype))
        told = [self.embedding_proj(vector.to(dtype)), time, self.proj_in(x.to(dtype))]
        states = self.encoder_hidden_states_proj(tokens.to(dtype))
        h = torch.cat([states, torch.stack(told, 1), self.prd_embedding.expand(len(x), -1, -1)], 1) + self.positional_embedding
        real = None if cond.mask is None else F.pad(cond.mask, (0, 4), value=True)
        for block in self.transformer_blocks:
            h = block(h, real)
        return self.proj_to_clip_embeddings(self.norm_out(h[:, -1]))


class _Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): [B,T,D] -> [B,T,D]. Each place sees itself and those before it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1, self.ff = _Attention(width, heads), FeedForward(width, Rise(width, F.gelu))

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x), real)
        return x + self.ff(self.norm3(x))


class _Attention(nn.Module):
    """Multi-head attention of each place to those before it that are `real` bool[B,T]: [B,T,D] -> [B,T,D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        q, k, v = (each(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](attend(q, k, v, True, real).transpose(1, 2).flatten(2))
