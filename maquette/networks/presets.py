"""The published families as switches of the one transformer: what makes each, at any size. Knows no weights and no files.

Sizes are arguments of the transformer (vocab, width, depth, heads); what a family has besides is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from maquette.networks.style import Around, Ends, Near, Style
from maquette.nn.attention import Attention, Cross, Latent
from maquette.nn.experts import Experts
from maquette.nn.gelu import gelu
from maquette.nn.mlp import Gated, Plain
from maquette.nn.norm import RMSNorm
from maquette.nn.positions import Learned, Relative, Rotary, Stretch

PLAIN_QK = partial(RMSNorm, gain=False)


def small(groups: int = 0, apart: int | None = None) -> Style:
    """What learns most from little on a CPU: Llama's, with queries and keys normalised and embeddings smeared."""
    return Style(attention=partial(Attention, groups=groups, norm=PLAIN_QK), smear=True, apart=apart)


def gpt2(context: int = 1024) -> Style:
    """GPT-2 (Radford 2019): learned positions, LayerNorm before each layer, biases, GELU, one matrix in and out."""
    return Style(
        attention=partial(Attention, bias=True, bias_out=True),
        feed=partial(Plain, act=gelu),
        norm=nn.LayerNorm,
        positions=partial(Learned, count=context),
        ends=Ends(tied=True),
    )


def gpt3(context: int = 2048, window: int = 256) -> Style:
    """GPT-3 (Brown 2020, sec. 2.1): GPT-2's, with every other layer seeing a band only (its pattern within is unpublished)."""
    return replace(gpt2(context), near=Near(window, (False, True)))


def llama(groups: int = 0, hidden: int = 0, theta: float = 500000.0, stretch: Stretch | None = None, eps: float = 1e-5) -> Style:
    """Llama 2 and 3 (Touvron 2023, Dubey 2024): RMSNorm, SwiGLU, rotary positions, grouped heads, no biases."""
    return Style(
        attention=partial(Attention, groups=groups),
        feed=partial(Gated, hidden=hidden),
        norm=partial(RMSNorm, eps=eps),
        positions=partial(Rotary, theta=theta, stretch=stretch),
    )


def qwen(
    groups: int = 0, size: int = 0, hidden: int = 0, tied: bool = True, feed: Callable[[int], nn.Module] | None = None
) -> Style:
    """Qwen 3 (Yang 2025): Llama's, with queries and keys normalised per head; `feed` for its mixtures of experts."""
    return Style(
        attention=partial(Attention, groups=groups, size=size, norm=RMSNorm),
        feed=feed or partial(Gated, hidden=hidden),
        positions=partial(Rotary, theta=1e6),
        ends=Ends(tied=tied),
    )


def gemma(width: int, groups: int = 1, size: int = 0, hidden: int = 0, window: int = 4096, third: bool = False) -> Style:
    """Gemma 2 (Riviere 2024): layers near and far in turns, capped scores, norms before and after, GeGLU, scaled embeddings.

    `third`: Gemma 3 (Kamath 2025), five near layers to a far one, whose positions turn slower; queries and keys are normalised
    and nothing is capped.
    """
    norm = partial(RMSNorm, one=True)
    return Style(
        attention=partial(Attention, groups=groups, size=size, norm=norm if third else None, cap=0.0 if third else 50.0),
        feed=partial(Gated, hidden=hidden, act=gelu),
        norm=norm,
        around=Around(after=True),
        positions=partial(Rotary, theta=1e6) if third else Rotary,
        near=Near(window, (True,) * 5 + (False,), Rotary) if third else Near(window),
        ends=Ends(tied=True, scale=width**0.5, cap=0.0 if third else 30.0),
    )


def deepseek(
    experts: int = 8,
    top: int = 2,
    hidden: int = 0,
    *,
    dense: int = 1,
    shared: int = 1,
    ahead: int = 1,
    kept: int = 0,
    query: int = 0,
) -> Style:
    """DeepSeek-V3 (2024): latent attention, fine experts beside a shared one, balanced without a loss, guessing further ahead.

    Args:
        hidden: channels within an expert; 0 = the rule of Gated.
        dense: first layers that have no experts.
        shared: how many experts' channels the shared one has.
    """
    feed = partial(
        Experts, count=experts, top=top, hidden=hidden, shared=shared * hidden, score=torch.sigmoid, scale=1.0, balance=0.001
    )
    return Style(
        attention=partial(Latent, kept=kept, query=query),
        feed=feed,
        instead={i: partial(Gated, hidden=hidden * (top + shared)) for i in range(dense)},
        ahead=ahead,
    )


def grok(groups: int = 0, hidden: int = 0, experts: int = 8, width: int = 0) -> Style:
    """Grok-1 (xAI 2024): two of eight experts with GELU gates, norms before and after each layer, scores capped at 30.

    How its experts were balanced is not published; here as DeepSeek-V3's.
    """
    return Style(
        attention=partial(Attention, groups=groups, cap=30.0),
        feed=partial(Experts, count=experts, top=2, hidden=hidden, feed=partial(Gated, act=gelu), norm=False),
        norm=partial(RMSNorm, eps=1e-5),
        around=Around(after=True),
        ends=Ends(tied=True, scale=width**0.5 if width else 1.0),
    )


def t5(both: bool, hidden: int = 0, size: int = 0, gated: bool = False, width: int = 0) -> Style:
    """T5 (Raffel 2020): a score per distance in the place of positions, RMSNorm, ReLU, unscaled attention. `both`: the encoder.

    Args:
        gated: T5 1.1's GEGLU, and matrices of its own for the scores.
        width: of a first-version decoder, whose scores are scaled by its root, as they are made by what embeds.
    """
    return Style(
        attention=partial(Attention, size=size, scale=1.0),
        feed=partial(Gated, hidden=hidden, act=gelu) if gated else partial(Plain, hidden=hidden, act=F.relu, bias=False),
        positions=partial(Relative, both=both),
        ends=Ends(tied=not gated, out_scale=width**-0.5 if width and not gated else 1.0),
    )


def t5_cross(width: int, heads: int, size: int = 0) -> Cross:
    """How T5's decoder attends to its encoder."""
    return Cross(width, heads, size=size, scale=1.0)


def bert(context: int = 512, kinds: int = 2) -> Style:
    """BERT (Devlin 2018): both ways, learned positions and segments, norms of each sum, GELU, a layer before the scores."""
    return Style(
        attention=partial(Attention, bias=True, bias_out=True),
        feed=Plain,
        norm=partial(nn.LayerNorm, eps=1e-12),
        around=Around(before=False, total=True),
        positions=partial(Learned, count=context),
        ends=Ends(tied=True, norm=True, kinds=kinds, last=False, act=F.gelu, bias=True),
    )
