"""What do samples give back of pictures that lost something? Held-out pictures, what is left of them, and samples told of that.

Knows a conditioner's `worsened` and `plain` (contracts.Restoring).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from maquette.contracts import restoring
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import mean

MOST = 500  # held-out pictures looked at
MEANINGS = {
    "PSNR, restored": "Peak signal-to-noise ratio, in decibels, of samples against the held-out pictures whose remains they were "
    "told, the mean over pictures. A likely sample that is not the same is far off, and a blur is nearer: read it beside FD.",
    "PSNR, plain": "The same of what is made without a model: bicubic interpolation, or the grey picture itself.",
    "PSNR, kept": "Samples made worse in the same way, against what they were told: how well they obey it.",
}


def applies(evidence: Evidence) -> str:
    system = evidence.system
    if system is None or not evidence.pictures:
        return "only samples are known, no system" if evidence.pictures else "the data are not images"
    return "" if restoring(system.conditioner) is not None else "the system is not told of pictures that lost something"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Means over held-out pictures, with normal intervals."""
    system = evidence.system
    assert system is not None and system.conditioner is not None
    lost = restoring(system.conditioner)
    assert lost is not None
    chosen = torch.from_numpy(evidence.some("held", MOST))
    rows = evidence.data.held.rows(chosen)
    images: Tensor = rows["image"]
    left = lost.worsened(images)
    drawn = system.sample(len(chosen), about={**system.conditioner.asked(rows), "source": left}, seed=evidence.seed)
    again, top = evidence.rounded(drawn["image"].cpu()), evidence.facts.levels - 1
    found = {
        "PSNR, restored": decibels(again, images, top),
        "PSNR, plain": decibels(lost.plain(left), images, top),
        "PSNR, kept": decibels(lost.worsened(again), left, top),
    }
    options = (("interval", "normal"),)
    return {
        name: evidence.estimate(name, mean(each), len(each), better="higher", rows=len(each), options=options)
        for name, each in found.items()
    }


def decibels(one: Tensor, other: Tensor, top: int) -> np.ndarray:
    """Peak signal-to-noise ratios of pictures [N,C,H,W] in 0..1, at most that of an error of half a grey level."""
    loss = (one - other).square().flatten(1).mean(1).double().numpy()
    return np.minimum(10 * math.log10(4 * top**2), -10 * np.log10(np.maximum(loss, 1e-12)))
