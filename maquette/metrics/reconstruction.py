"""What does a lossy codec lose, and what does it spend? Held-out images against themselves, encoded and decoded.

Knows a codec's `encode` and `decode`, and an objective's optional `rate`: (system, batch, rng) -> nats [B] of the codes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from maquette.metrics import features
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.frechet import RESAMPLES, distance, gaussian
from maquette.metrics.intervals import bootstrap, mean
from maquette.streams import Streams

BATCH = 256
MEANINGS = {
    "PSNR": "Peak signal-to-noise ratio of held-out images after encoding and decoding, in decibels, the mean over images: 20 is "
    "coarse, 30 is close. It prefers a blur to a sharp guess: read it beside rFD.",
    "rFD-": "Fréchet distance between held-out images and their own reconstructions, in the named classifier's last hidden "
    "layer; 0 = no difference in mean and covariance. A codec trained on a classifier's features of its own may flatter it.",
    "rFD-randconv": "The same in UNTRAINED convolutional features, which no codec was trained to please: a weak figure that sees "
    "textures and strokes.",
    "bits/image": "What the codes of one held-out image cost to send: under the learned prior where there is one (given the "
    "label where it is told), else with all codes equally likely, or for Gaussian latents the divergence from a standard normal.",
    "codebook use": "Share of a codebook's symbols that any held-out image uses, the mean over books.",
    "codebook perplexity": "How many symbols of a codebook are in even use: e to the entropy of their frequencies over held-out "
    "images, the geometric mean over books. Few images leave rare symbols out.",
}


def applies(evidence: Evidence) -> str:
    if evidence.system is None:
        return "only samples are known, no system"
    if not evidence.pictures:
        return "the data are not images"
    return "" if evidence.system.codec.lossy else "the codec loses nothing"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """PSNR and Fréchet distance of the reconstructions, the bits they cost, and how evenly the symbols are used."""
    held, again, n = evidence.held["image"], evidence.rebuilt, len(evidence.held["image"])
    normal = (("interval", "normal"),)
    worst = 10 * math.log10(4 * (evidence.facts.levels - 1) ** 2)  # an error of half a grey level: where PSNR is cut off
    loss = (held - again).square().flatten(1).mean(1).double().numpy()
    decibels = np.minimum(worst, -10 * np.log10(np.maximum(loss, 1e-12)))
    found = {"PSNR": evidence.estimate("PSNR", mean(decibels), n, better="higher", rows=n, options=normal)}
    untrained = features.network("randconv", evidence.facts.shape, 0, "", lambda: (held, held))
    for kind, net in {evidence.kind: evidence.network, "randconv": untrained}.items():
        found[f"rFD-{kind}"] = apart(evidence, kind, features.apply(net, again), features.apply(net, held))
    bits = rate(evidence)
    if bits is not None:
        found["bits/image"] = evidence.estimate("bits/image", mean(bits), n, rows=n, options=normal)
    return {**found, **use(evidence)}


def apart(evidence: Evidence, kind: str, made: np.ndarray, real: np.ndarray) -> Estimate:
    """Fréchet distance of features [N,D]; an image and its reconstruction are redrawn together."""

    def fd(weights: np.ndarray) -> float:
        return distance(*gaussian(made, weights), *gaussian(real, weights))

    times = RESAMPLES if made.shape[1] <= 64 else RESAMPLES // 4  # eigenvalues of wide covariances take their time
    found = bootstrap(fd, len(made), resamples=times, seed=evidence.seed, floor=0.0)
    options = (("interval", f"bootstrap-{times} of pairs"),)
    return evidence.estimate(f"rFD-{kind}", found, len(made), rows=len(made), network=kind == evidence.kind, options=options)


@torch.no_grad()
def rate(evidence: Evidence) -> np.ndarray | None:
    """Bits of each held-out image's code, float64[N]; None where the objective cannot say."""
    system = evidence.system
    assert system is not None
    price = getattr(type(system.objective), "rate", None)
    if price is None:
        return None
    rows = len(evidence.held["image"])
    streams, parts = Streams.of(evidence.seed, rows, device=system.device), []
    for at in range(0, rows, BATCH):
        part = slice(at, min(rows, at + BATCH))
        nats = price(system.objective, system, {k: v[part] for k, v in evidence.held.items()}, streams[part])
        if nats is None:
            return None
        parts.append(nats.double().cpu().numpy())
    return np.concatenate(parts) / math.log(2)


def use(evidence: Evidence) -> dict[str, Estimate]:
    """Share of the symbols in use and their perplexity; {} where codes are no symbols."""
    assert evidence.system is not None
    system, codec = evidence.system.eval(), evidence.system.codec
    with torch.no_grad():
        code = torch.cat([codec.encode(part.to(system.device)).cpu() for part in evidence.held["image"].split(BATCH)])
    if code.is_floating_point():
        return {}
    symbols, books = int(codec.bos), int(codec.books)
    counts = torch.stack([histogram(row.view(-1, books), symbols) for row in code]).numpy()  # [N, books, symbols]
    n, options = len(code), (("symbols", str(symbols)), ("interval", f"bootstrap-{RESAMPLES} of images"))
    value, low, high = bootstrap(
        lambda w: float((np.tensordot(w, counts, 1) > 0).mean()), n, resamples=RESAMPLES, seed=evidence.seed, floor=0.0
    )
    share = (value, low, min(1.0, high))
    even = bootstrap(lambda w: perplexity(np.tensordot(w, counts, 1)), n, resamples=RESAMPLES, seed=evidence.seed, floor=1.0)
    return {
        "codebook use": evidence.estimate("codebook use", share, n, better="higher", rows=n, options=options),
        "codebook perplexity": evidence.estimate("codebook perplexity", even, n, better="higher", rows=n, options=options),
    }


def histogram(code: Tensor, symbols: int) -> Tensor:
    """int64[T,Q] -> how often each book's symbols occur, float32[Q,symbols]."""
    return torch.stack([torch.bincount(book, minlength=symbols) for book in code.T]).float()


def perplexity(counts: np.ndarray) -> float:
    """e to the entropy of each book's frequencies [Q,symbols], the geometric mean over books."""
    share = counts / counts.sum(1, keepdims=True)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    return float(np.exp(entropy.mean()))
