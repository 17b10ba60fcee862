"""What the one transformer is made of, part by part: a published family is a value of Style (presets.py).

Knows how parts are asked for; builds none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from maquette.nn.attention import Attention
from maquette.nn.mlp import Gated
from maquette.nn.norm import RMSNorm
from maquette.nn.positions import Positions, Rotary

Norm = Callable[[int], nn.Module]  # width ->
Feed = Callable[[int], nn.Module]  # width ->


@dataclass(frozen=True)
class Around:
    """Where a block normalises: before a layer (GPT-2), after it as well (Gemma 2), or the sum of stream and layer (BERT)."""

    before: bool = True
    after: bool = False
    total: bool = False


@dataclass(frozen=True)
class Near:
    """Layers that see no further back than a window, in turns with those that see everything.

    Args:
        window: symbols seen, the own one included.
        turns: which layers of a turn are near, repeated over the depth: (True, False) = every other.
        positions: theirs, where they differ from the others' (Gemma 3).
    """

    window: int
    turns: tuple[bool, ...] = (True, False)
    positions: Callable[..., Positions] | None = None


@dataclass(frozen=True)
class Ends:
    """How symbols come in, and how they are scored.

    Args:
        tied: score symbols with the matrix that embeds them.
        scale: of the embeddings (Gemma: the root of the width).
        norm: normalise the embeddings (BERT).
        kinds: kinds that a symbol may be of, told as cond.field int64[B,1,T] (BERT's segments); 0 = they are not told apart.
        last: normalise what the last block leaves.
        act: activation of one more layer, and a normalisation, before the scores (BERT); None = there is none.
        bias: of the scores.
        out_scale: of what the scores are made of (T5: D^-0.5).
        cap: scores s become cap tanh(s / cap) (Gemma 2); 0 = they stay.
    """

    tied: bool = False
    scale: float = 1.0
    norm: bool = False
    kinds: int = 0
    last: bool = True
    act: Callable[[Tensor], Tensor] | None = None
    bias: bool = False
    out_scale: float = 1.0
    cap: float = 0.0


@dataclass(frozen=True)
class Style:
    """How a transformer departs from Llama's (Touvron 2023): pre-norm, RoPE, RMSNorm, SwiGLU, no biases. Parts are given as what
    makes them: `Style(attention=partial(Attention, groups=2), positions=partial(Rotary, theta=5e5))`.

    Args:
        attention: (width, heads, causal) -> Attention or Latent.
        feed: (width) -> Gated, Plain or Experts.
        norm: (width) -> normalisation.
        around: where blocks normalise.
        positions: (width, heads, turned) -> Rotary, Learned, Alibi or Relative; None = order is not told.
        near: layers that see a window only; None = all see everything.
        instead: layer -> feed, where that layer's is another (the dense ones among experts).
        ends: how symbols come in and are scored.
        smear: add the embedding of the symbol before, scaled per channel (the token shift of RWKV, Peng 2023, on the embeddings
            alone), where it is not causal of the one behind, too. Copying what followed an earlier occurrence then takes one
            layer of attention, not two.
        ahead: further symbols that are guessed, each by one more block (DeepSeek-V3, sec. 2.2; causal only).
        apart: the symbol that begins a document, beyond which no other sees; None = rows are whole.
    """

    attention: Callable[..., nn.Module] = Attention
    feed: Feed = Gated
    norm: Norm = RMSNorm
    around: Around = Around()
    positions: Callable[..., Positions] | None = Rotary
    near: Near | None = None
    instead: Mapping[int, Feed] = field(default_factory=dict)
    ends: Ends = Ends()
    smear: bool = False
    ahead: int = 0
    apart: int | None = None


LLAMA = Style()
