"""How many bits does a byte of held-out text cost? All of it, whatever the tokenizer.

Knows a stream of tokens, how many UTF-8 bytes it stands for, and an objective's `score`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.data import Windows
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.metrics.intervals import Z95
from maquette.streams import Streams

MEANINGS = {
    "bits/byte": "Bits per UTF-8 byte of the whole held-out part, each token seen with at least half a window of text before it. "
    "Tokenizers do not matter; compare with xz and PPMd that were given the training text.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if evidence.facts.field != "text":
        return "the data are not text"
    if not isinstance(evidence.data.held, Windows):
        return "rows are whole texts, not windows of one stream"
    return "" if evidence.system.objective.bound else f"{type(evidence.system.objective).__name__} gives no likelihood"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Total nats / ln 2 / total bytes; the interval is over windows, as if they were independent.

    Raises:
        UnfitSamples: the tokenizer loses some of this text.
    """
    held: Any = evidence.data.held
    _check_whole(evidence.system, held)
    window = int(held.length)
    nats = windowed(evidence, held.tokens, window)
    scale = math.log(2) * int(held.bytes)
    value = float(nats.sum()) / scale
    half = Z95 * math.sqrt(len(nats)) * float(nats.std(ddof=1)) / scale if len(nats) > 1 else math.inf
    assert evidence.system is not None
    options = (
        ("bound", evidence.system.objective.bound),
        ("window", f"{window}, stride {max(1, window // 2)}"),
        ("precision", evidence.precision),
        ("interval", f"normal over {len(nats)} windows"),
    )
    found = (value, max(0.0, value - half), value + half)
    return {"bits/byte": evidence.estimate("bits/byte", found, len(nats), rows=len(held.tokens), options=options)}


def _check_whole(system: Any, held: Any) -> None:
    """That every held-out text comes back from a tokenizer that loses some: what is lost would cost no bits."""
    if system.codec.lossy:
        rows = system.codec.tokenize(list(held.documents))
        lost = sum(system.codec.join(row) != text for row, text in zip(rows, held.documents, strict=True))
        if lost:
            raise UnfitSamples(
                f"{lost} of {len(rows)} held-out texts do not come back from the tokenizer; what it loses costs no bits"
            )


def windows(length: int, window: int) -> Iterator[tuple[int, int]]:
    """(first position, how many leading positions are context) of windows that score every position exactly once.

    All but the first have at least half a window of context; the last is moved back so that it ends with the text.
    """
    stride = max(1, window // 2)
    done = 0
    while done < length:
        first = max(0, min(done - (window - stride), length - window)) if done else 0
        yield first, done - first
        done = min(length, first + window)


@torch.no_grad()
def windowed(evidence: Evidence, tokens: Tensor, window: int) -> np.ndarray:
    """Nats of each window's scored positions: float64[windows]. tokens int64[N]."""
    system = evidence.system
    assert system is not None
    system.eval()
    places = list(windows(len(tokens), window))
    streams = Streams.of(evidence.seed, len(places), device=system.device)
    tokens, found = tokens.long(), []
    batch = 4 if system.device.type == "cpu" else 64  # four windows' logits are nearer to a core's cache: 10 % faster than 16
    for at in range(0, len(places), batch):
        some = places[at : at + batch]
        code = torch.stack([tokens[first : first + window] for first, _ in some]).to(system.device)
        given = torch.tensor([context for _, context in some], device=system.device)
        nats = system.objective.score(system, {"code": code, "given": given}, streams[slice(at, at + len(some))])
        assert nats is not None, "an objective with a bound gives a score"
        found.append(nats.double().cpu().numpy())
    return np.concatenate(found)
