"""T5's encoder (Raffel 2020), tensor by tensor: the hub's T5, mT5 and UMT5 encoders open here under their own names.

Knows symbols; no tokenizer and no file. The decoder is not built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Condition, Network
from maquette.nn.attention import attend
from maquette.nn.gelu import gelu
from maquette.nn.norm import RMSNorm
from maquette.nn.positions import buckets

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # of feed_forward_proj, "gated-" or not
    "relu": F.relu,
    "gated-gelu": gelu,
    "gated-silu": F.silu,
}


@dataclass(frozen=True)
class Plan:
    """What of a T5Config varies here, under transformers' names.

    Args:
        vocab_size: symbols.
        d_model: channels D of the stream.
        d_kv: channels of a head.
        d_ff: channels within the feed-forward layers.
        num_layers, num_heads: of the encoder.
        feed_forward_proj: "relu" (T5), "gated-gelu" (T5 v1.1, Flan, mT5, UMT5) or "gated-silu" (UL2).
        relative_attention_num_buckets, relative_attention_max_distance: distances are told apart in so many classes, and
            all from the maximum on are one.
        dropout_rate: share of the stream's and the feed-forward layers' channels dropped in training; attention keeps its own.
        layer_norm_epsilon: of every normalisation.
        each: every layer has its own scores of distances (UMT5); False = all have the first's.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    feed_forward_proj: str = "relu"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    each: bool = False

    def __post_init__(self) -> None:
        if self.feed_forward_proj not in ACTIVATIONS:
            known = " or ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"feed_forward_proj is {self.feed_forward_proj!r}; this T5 has {known} only")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Plan:
        """A transformers configuration (its config.json) as a plan; what it does not say is as in transformers.

        Raises:
            ValueError: it asks for what this network does not have.
        """
        kind = config.get("model_type", "t5")
        if kind not in _DEFAULTS:
            raise ValueError(f"model_type is {kind!r}; this encoder is that of {' or '.join(map(repr, _DEFAULTS))} only")
        said = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        return cls(**{**_DEFAULTS[kind], **said, "each": kind == "umt5"})


_MT5: dict[str, Any] = {"vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
_DEFAULTS: dict[str, dict[str, Any]] = {"t5": {}, "mt5": _MT5, "umt5": _MT5}  # transformers', where they differ from T5's


class T5Encoder(Network):
    """Symbols -> states, int64[B,T] -> [B,T,D]: T5EncoderModel. `cond.mask` bool[B,T] says which symbols may be seen.

    Float16 overflows in the large ones, as in the reference; bfloat16 does not.
    """

    edges = ("shared",)

    def __init__(self, plan: Plan = Plan()):
        super().__init__()
        self.plan = plan
        self.shared = nn.Embedding(plan.vocab_size, plan.d_model)
        self.encoder = _Stack(plan)

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return self.read(x, cond.mask if cond is not None else None)[0]

    def read(self, x: Tensor, mask: Tensor | None = None, skip: int = 0, norm: bool = True) -> tuple[Tensor, None]:
        """States [B,T,D] of a layer, and None: it has no vector for the whole.

        Args:
            mask: bool[B,T], the symbols that may be seen; None = all.
            skip: layers, counted from the last, left out.
            norm: whether the states pass the final normalisation.
        """
        return self.encoder(self.shared(x), mask, skip, norm), None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Some files hold the embedding under the encoder's name, or twice; those of a whole T5 also its decoder."""
        twin = state_dict.pop(prefix + "encoder.embed_tokens.weight", None)
        if twin is not None:
            state_dict.setdefault(prefix + "shared.weight", twin)
        for name in [name for name in state_dict if name.startswith((prefix + "decoder.", prefix + "lm_head."))]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Filling(Network):
    """Symbols, some of them masks, -> logits of every symbol: int64[B,T] -> [B,T,V], an encoder's states by its own embedding.

    Args:
        encoder: learns to fill in what is masked (Devlin 2018, sec. 3.1), its embedding read as T5 reads it (scaled by D^-0.5).
    """

    def __init__(self, encoder: T5Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        states = self.encoder(x, cond=cond)
        return F.linear(states * self.encoder.plan.d_model**-0.5, self.encoder.shared.weight)


class _Stack(nn.Module):
    """Blocks and a last normalisation: [B,T,D] -> [B,T,D]."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.dropout = nn.Dropout(plan.dropout_rate)
        self.block = nn.ModuleList(_Block(plan, distances=plan.each or not i) for i in range(plan.num_layers))
        self.final_layer_norm = RMSNorm(plan.d_model, plan.layer_norm_epsilon)

    def forward(self, h: Tensor, mask: Tensor | None, skip: int = 0, norm: bool = True) -> Tensor:
        if not 0 <= skip <= len(self.block):
            raise ValueError(f"skip is {skip}; this T5 has 0 .. {len(self.block)} layers to leave out")
        h = self.dropout(h)
        bias: Tensor | None = None
        for block in cast("list[_Block]", list(self.block)[: len(self.block) - skip]):
            distances = block.distances(h.shape[1])
            if distances is not None:
                bias = distances if mask is None else distances.masked_fill(~mask[:, None, None], -torch.inf)
            h = block(h, bias)
        return self.dropout(self.final_layer_norm(h) if norm else h)


class _Block(nn.Module):
    """Self-attention, then feed-forward, each added to the stream: [B,T,D] -> [B,T,D]."""

    def __init__(self, plan: Plan, distances: bool):
        super().__init__()
        self.layer = nn.ModuleList([_SelfAttention(plan, distances), _FeedForward(plan)])

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self.layer[1](self.layer[0](x, bias))

    def distances(self, length: int) -> Tensor | None:
        """Its own scores of distances [1,H,T,T]; None where it takes those of a block before."""
        return cast("_SelfAttention", self.layer[0]).SelfAttention.distances(length, length)


class _SelfAttention(nn.Module):
    """x + attention(norm(x)): [B,T,D] -> [B,T,D]."""

    def __init__(self, plan: Plan, distances: bool):
        super().__init__()
        self.SelfAttention = _Attention(plan, distances)
        self.layer_norm = RMSNorm(plan.d_model, plan.layer_norm_epsilon)
        self.dropout = nn.Dropout(plan.dropout_rate)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), bias))


class _FeedForward(nn.Module):
    """x + feed-forward(norm(x)): [B,T,D] -> [B,T,D]."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.DenseReluDense = _Dense(plan)
        self.layer_norm = RMSNorm(plan.d_model, plan.layer_norm_epsilon)
        self.dropout = nn.Dropout(plan.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class _Attention(nn.Module):
    """Multi-head attention whose scores are not scaled, with a score per distance: [B,T,D] -> [B,T,D]."""

    def __init__(self, plan: Plan, distances: bool):
        super().__init__()
        inside, self.heads = plan.num_heads * plan.d_kv, plan.num_heads
        self.furthest = plan.relative_attention_max_distance
        self.q, self.k, self.v = (nn.Linear(plan.d_model, inside, bias=False) for _ in range(3))
        self.o = nn.Linear(inside, plan.d_model, bias=False)
        for layer, std in (
            (self.q, (plan.d_model * plan.d_kv) ** -0.5),  # makes up for the missing 1 / sqrt(C)
            (self.k, plan.d_model**-0.5),
            (self.v, plan.d_model**-0.5),
            (self.o, inside**-0.5),
        ):
            nn.init.normal_(layer.weight, std=std)
        self.relative_attention_bias: nn.Embedding | None = None
        if distances:
            self.relative_attention_bias = nn.Embedding(plan.relative_attention_num_buckets, plan.num_heads)
            nn.init.normal_(self.relative_attention_bias.weight, std=plan.d_model**-0.5)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (each(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        return self.o(attend(q, k, v, causal=False, bias=bias, scale=1.0).transpose(1, 2).flatten(2))

    def distances(self, new: int, seen: int) -> Tensor | None:
        """Scores of `seen` positions by their distance from each of the `new` last: [1,H,T,S]."""
        if self.relative_attention_bias is None:
            return None
        weight = self.relative_attention_bias.weight
        places = torch.arange(seen, device=weight.device)
        classes = buckets(places[None] - places[seen - new :, None], len(weight), self.furthest)
        return self.relative_attention_bias(classes).permute(2, 0, 1)[None]


class _Dense(nn.Module):
    """Linear, activation, linear; gated, the activation times another linear: [B,T,D] -> [B,T,D]."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.act, self.dropout = ACTIVATIONS[plan.feed_forward_proj], nn.Dropout(plan.dropout_rate)
        names = ("wi_0", "wi_1") if plan.feed_forward_proj.startswith("gated-") else ("wi",)
        for name in names:
            self.add_module(name, nn.Linear(plan.d_model, plan.d_ff, bias=False))
        self.inward = names
        self.wo = nn.Linear(plan.d_ff, plan.d_model, bias=False)
        for linear in (*(self.get_submodule(name) for name in names), self.wo):
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        h, *gated = (self.get_submodule(name)(x) for name in self.inward)
        h = self.act(h)
        for other in gated:
            h = h * other
        return self.wo(self.dropout(h))
