"""Built-in sprites, drawn by this file: one white shape on black, every combination of five known factors exactly once.

Knows geometry, no fonts and no folders. After dSprites (Matthey 2017), at half its size and a 48th of its rows.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from maquette.data.core import Column, Data, Facts, image_data
from maquette.data.shares import RULE, held_out, sha1

SIDE = 32  # pixels
FINE = 8  # places looked at along each side of a pixel: it is white where half of them are inside
SHAPES = ("square", "ellipse", "heart")
RADII = (5.0, 5.75, 6.5, 7.25, 8.0)  # pixels to a shape's furthest point; with these no two drawings differ in less than 4 pixels
TURN = 90 / 8  # degrees; eight turns stay below 90, at which a square is itself again
PLACES = (16, 8)  # of the centre along x and y, one pixel apart. Were they equal, a VAE could turn the plane at no cost
FACTORS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "scale": tuple(f"{radius:g} px" for radius in RADII),
    "orientation": tuple(f"{TURN * i:g} degrees" for i in range(8)),
    "x": tuple(str(i) for i in range(PLACES[0])),
    "y": tuple(str(i) for i in range(PLACES[1])),
}


def sprites() -> Data:
    """15,360 white shapes on black, 32x32, two levels: every combination of shape, scale, orientation, x and y; simulated."""
    table = np.array(list(itertools.product(*(range(len(values)) for values in FACTORS.values()))))
    stamps = {key: stamp(*key) for key in itertools.product(range(3), range(len(RADII)), range(8))}
    drawn = np.stack([placed(stamps[shape, scale, turn], x, y) for shape, scale, turn, x, y in table.tolist()])[:, None]
    digests = [sha1(f"sprites {' '.join(map(str, row))}".encode()) for row in table.tolist()]
    order = np.array(sorted(range(len(table)), key=digests.__getitem__))
    away = np.array([held_out(digest) for digest in digests])
    columns: dict[str, dict[str, Column]] = {}
    for part, rows in (("train", order[~away[order]]), ("held", order[away[order]])):
        told = {name: torch.from_numpy(table[rows, i]) for i, name in enumerate(FACTORS)}
        columns[part] = {"image": torch.from_numpy(drawn[rows]), "label": told["shape"], **told}
    about = Facts(
        name="sprites",
        field="image",
        kind="simulated",
        licence="the project's own (see LICENSE)",
        attribution="drawn by maquette; the idea is dSprites' (Matthey 2017)",
        hash="",
        rows={},
        levels=2,
        classes=SHAPES,
        split=RULE.replace("by content", "by the five factors"),
        factors=FACTORS,
    )
    return image_data(about, columns)


def stamp(shape: int, scale: int, turn: int) -> np.ndarray:
    """One shape about the middle of a square of 17x17 pixels, uint8 in 0..1.

    The inverse turn is rounded, so that a last bit of sin or cos moves no pixel.
    """
    half = (SIDE - PLACES[0]) // 2 + 0.5
    line = (np.arange(2 * half * FINE) + 0.5) / FINE - half
    across, down = np.meshgrid(line, line)
    angle = math.radians(TURN * turn)
    cos, sin = round(math.cos(angle), 5), round(math.sin(angle), 5)
    u, v = (cos * across + sin * down) / RADII[scale], (cos * down - sin * across) / RADII[scale]
    cells = inside(SHAPES[shape], u, v).reshape(round(2 * half), FINE, round(2 * half), FINE)
    return (cells.mean((1, 3)) >= 0.5).astype(np.uint8)


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which places (u to the right, v down) lie inside a shape whose furthest point is 1 from the centre."""
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= math.sqrt(0.5)
    if shape == "ellipse":
        return u**2 + (v / 0.5) ** 2 <= 1
    x, y = u * 1.26, 0.1 - v * 1.26  # the curve (x^2 + y^2 - 1)^3 = x^2 y^3, its point down
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


def placed(drawn: np.ndarray, x: int, y: int) -> np.ndarray:
    """A stamp on its black square, none cut off: uint8[SIDE,SIDE]. x counts to the right, y downwards."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    top = (PLACES[0] - PLACES[1]) // 2 + y
    canvas[top : top + len(drawn), x : x + len(drawn)] = drawn
    return canvas
