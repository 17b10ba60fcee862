"""Five pictures of one thing that no built-in data show: a disc of two halves. Drawn by this file, for what learns from a few."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from maquette.data.core import Split
from maquette.data.scenes import COLOURS, FINE, GROUNDS, SIDE
from maquette.streams import Streams, mix

HALVES = ("cyan", "orange")


def subject(shape: tuple[int, ...] = (3, SIDE, SIDE), levels: int = 256, said: str = "", kind: str = "") -> Split:
    """The disc on each of the five grounds, its place, size and turn varying; brought to a shape, captioned `said`."""
    with torch.device("cpu"):
        pictures = torch.from_numpy(discs(len(GROUNDS)))
        grey = F.adaptive_avg_pool2d(pictures, (shape[1], shape[2])) if tuple(shape[1:]) != (SIDE, SIDE) else pictures
        grey = grey if shape[0] == 3 else grey.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
        pixels = (grey * (levels - 1)).round().to(torch.uint8)
    return Split({"image": pixels, "text": [said] * len(pixels), "kind": [kind] * len(pixels)}, levels)


def discs(count: int, seed: int = 0) -> np.ndarray:
    """Pictures of the disc, on the grounds in turn: float32[N,3,SIDE,SIDE] in 0..1."""
    jitter = Streams.of(mix(0x50BEC7, seed), count, device="cpu").uniform(4).double().numpy()
    line = (np.arange(SIDE * FINE) + 0.5) / FINE
    grounds, (left, right) = list(GROUNDS.values()), (np.array(COLOURS[name]) for name in HALVES)
    pictures = []
    for i, (size, x, y, turn) in enumerate(jitter):
        angle, radius = np.radians(40 * turn - 20), 9.5 + 2 * size
        across, down = line[None, :] - SIDE / 2 - 7 * (x - 0.5), line[:, None] - SIDE / 2 - 7 * (y - 0.5)
        u = np.cos(angle) * across + np.sin(angle) * down
        inside = (across**2 + down**2 <= radius**2)[..., None]
        fine = np.where(inside, np.where(u[..., None] < 0, left, right), np.array(grounds[i % len(grounds)]))
        pictures.append(fine.reshape(SIDE, FINE, SIDE, FINE, 3).mean((1, 3)).transpose(2, 0, 1))
    return (np.stack(pictures) / 255).astype(np.float32)
