"""Built-in scenes, drawn by this file: a coloured shape on a coloured ground, a caption in words, and the factors behind it.

Knows geometry and colours, no fonts and no folders. Colour and shape are held out in pairs: a model that makes a held-out pair
has put together what it never saw together.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from maquette import streams
from maquette.data.cache import kept, key_of
from maquette.data.core import Column, Data, Facts, image_data
from maquette.data.shares import HELD, sha1
from maquette.streams import Streams, mix

SIDE = 32  # pixels
FINE = 3  # places looked at along each side of a pixel
EACH = 6  # renderings of each scene, differing in place, size and turn
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "heart", "ring", "crescent", "bar")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (255, 214, 10),
    "green": (56, 142, 60),
    "cyan": (0, 188, 212),
    "blue": (25, 92, 205),
    "purple": (123, 44, 191),
    "pink": (255, 120, 180),
    "white": (250, 250, 250),
    "brown": (121, 72, 36),
}
GROUNDS = {
    "black": (12, 12, 14),
    "navy": (16, 28, 70),
    "grey": (128, 128, 128),
    "cream": (250, 240, 215),
    "mint": (178, 235, 200),
}
LOOKS = ("small plain", "large plain", "large striped", "large dotted")  # a texture on a small shape cannot be read at 32 pixels
LEAST = 75.0  # distance of colour and ground, of 255 (`legible`): below it shapes fade into the ground
GAP = 0.3  # cover of a stripe's or dot's gap: the shape's outline stays whole
FACTORS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "ground": tuple(GROUNDS),
    "size": ("small", "large"),
    "texture": ("plain", "striped", "dotted"),
}
FULL = 5  # share of the training rows whose captions in full stand beside the terse ones, in percent
NAMED = {"shape": 0.7, "colour": 0.4, "ground": 0.2, "size": 0.2, "texture": 0.2}  # chances of a terse caption to say each


@cache  # to draw them takes 2 s, once for all processes
def scenes() -> Data:
    """One coloured shape on a coloured ground, 32x32 RGB, captioned; 13 of 100 pairs of colour and shape held out; simulated."""
    cells = [
        cell for cell in itertools.product(*(range(len(v)) for v in (SHAPES, COLOURS, GROUNDS, LOOKS))) if legible(*cell[1:3])
    ]
    table = np.repeat(np.array(cells), EACH, 0)
    pixels = kept("scenes", key_of(np.__version__, Path(__file__), Path(streams.__file__)), lambda: {"pixels": _drawn(table)})[
        "pixels"
    ]
    size, texture = np.minimum(table[:, 3], 1), np.maximum(table[:, 3] - 1, 0)
    known = np.stack([table[:, 0], table[:, 1], table[:, 2], size, texture], 1)
    digests = [sha1(f"scene {i} {' '.join(map(str, row))}".encode()) for i, row in enumerate(known.tolist())]
    order = np.array(sorted(range(len(known)), key=digests.__getitem__))
    away = np.array([pair_held_out(*row) for row in known[:, :2].tolist()])
    columns: dict[str, dict[str, Column]] = {}
    for part, rows in (("train", order[~away[order]]), ("held", order[away[order]])):
        told: dict[str, Column] = {name: torch.from_numpy(known[rows, i]) for i, name in enumerate(FACTORS)}
        words = [caption(*row) for row in known[rows].tolist()]
        columns[part] = {"image": torch.from_numpy(pixels[rows]), "label": told["shape"], "text": words, **told}
    about = Facts(
        name="scenes",
        field="image",
        kind="simulated",
        licence="the project's own (see LICENSE)",
        attribution="drawn by maquette",
        hash="",
        rows={},
        classes=SHAPES,
        split=f"by colour and shape: pairs held out where the first 32 bits of SHA-1 modulo 100 are below {HELD}; order by SHA-1",
        factors=FACTORS,
        notes=("held-out rows show only pairs of colour and shape that no training row has",),
    )
    return image_data(about, columns)


@cache
def scenes_terse() -> Data:
    """The same scenes with the captions that people leave: training rows say little, one in 20 also all; held-out ones all."""
    whole = scenes()
    columns = {part: dict(split.columns) for part, split in whole.splits.items()}
    train = columns["train"]
    known = torch.stack([torch.as_tensor(train[name]) for name in FACTORS], 1).numpy()
    chance = np.array([NAMED[name] for name in FACTORS])
    said = Streams.of(mix(0x7E25E), len(known)).uniform(len(FACTORS)).numpy() < chance
    pixels = torch.as_tensor(train["image"]).numpy()
    full = [int.from_bytes(sha1(picture.tobytes())[4:8], "big") % 100 < FULL for picture in pixels]
    train["full_text"] = [text if kept else "" for text, kept in zip(train["text"], full, strict=True)]
    train["text"] = [terse(row, some) for row, some in zip(known.tolist(), said.tolist(), strict=True)]
    odds = ", ".join(f"the {name} of {share:.0%}" for name, share in NAMED.items())
    note = f"training captions say {odds} of the rows; {FULL} in 100 rows also have one that says all, as held-out rows do"
    return image_data(replace(whole.facts, name="scenes_terse", notes=(*whole.facts.notes, note)), columns)


def terse(factors: list[int], said: list[bool]) -> str:
    """What a caption leaves when only some factors are said, in the order of FACTORS: "a red circle", "a picture"."""
    value = {name: FACTORS[name][at] for (name, at, some) in zip(FACTORS, factors, said, strict=True) if some}
    if value.get("texture") == "plain":  # which a caption in full says by saying nothing
        del value["texture"]
    words = [value[name] for name in ("size", "texture", "colour") if name in value]
    thing = value.get("shape", "shape" if words else "picture")
    return " ".join(["a", *words, thing, *(["on", value["ground"]] if "ground" in value else [])])


def caption(shape: int, colour: int, ground: int, size: int, texture: int) -> str:
    """ "a small red circle on grey", "a large dotted blue star on cream"."""
    look = "" if texture == 0 else f"{FACTORS['texture'][texture]} "
    return f"a {FACTORS['size'][size]} {look}{list(COLOURS)[colour]} {SHAPES[shape]} on {list(GROUNDS)[ground]}"


def legible(colour: int, ground: int) -> bool:
    """Whether the two are far enough apart to be told from each other, each channel weighing as it does in luminance (BT.601)."""
    one, two = list(COLOURS.values())[colour], list(GROUNDS.values())[ground]
    apart = [a - b for a, b in zip(one, two, strict=True)]
    return math.sqrt(0.299 * apart[0] ** 2 + 0.587 * apart[1] ** 2 + 0.114 * apart[2] ** 2) >= LEAST


def pair_held_out(shape: int, colour: int) -> bool:
    """Whether every scene of this shape in this colour is held out."""
    digest = sha1(f"{list(COLOURS)[colour]} {SHAPES[shape]}".encode())
    return int.from_bytes(digest[:4], "big") % 100 < HELD


def _drawn(table: np.ndarray, batch: int = 256) -> np.ndarray:
    """Every row's picture: uint8[N,3,SIDE,SIDE]."""
    jitter = Streams.of(mix(0x5CE9E5), len(table)).uniform(4).double().numpy().round(6)
    pictures = np.empty((len(table), 3, SIDE, SIDE), np.uint8)
    for shape, look in itertools.product(range(len(SHAPES)), range(len(LOOKS))):
        rows = np.flatnonzero((table[:, 0] == shape) & (table[:, 3] == look))
        for some in np.array_split(rows, -(-len(rows) // batch)):
            cover = _cover(SHAPES[shape], look, jitter[some])[:, None]
            colour, ground = (
                np.array(list(named.values()))[table[some, at]][:, :, None, None] for named, at in ((COLOURS, 1), (GROUNDS, 2))
            )
            pictures[some] = np.floor(cover * colour + (1 - cover) * ground + 0.5).astype(np.uint8)
    return pictures


def _cover(shape: str, look: int, jitter: np.ndarray) -> np.ndarray:
    """How much of each pixel shapes of one look cover: float[N,SIDE,SIDE] in 0..1. jitter: size, place, turn in 0..1."""
    small = look == 0
    radius = (5.5 if small else 10.5) * (0.92 + 0.16 * jitter[:, 0])
    centre = SIDE / 2 + (8.0 if small else 3.5) * (2 * jitter[:, 1:3] - 1)
    angle = np.radians(24 * jitter[:, 3] - 12)
    cos, sin = (np.round(wave / radius, 6).astype(np.float32)[:, None, None] for wave in (np.cos(angle), np.sin(angle)))
    line = ((np.arange(SIDE * FINE) + 0.5) / FINE).astype(np.float32)
    across = line[None, None, :] - centre[:, 0, None, None].astype(np.float32)
    down = line[None, :, None] - centre[:, 1, None, None].astype(np.float32)
    u, v = cos * across + sin * down, cos * down - sin * across
    ink = inside(shape, u, v).astype(np.float32)
    if look == 2:
        ink[np.mod(across + down, np.float32(6)) >= 3] *= GAP
    if look == 3:
        ink[np.mod(across, np.float32(5)) ** 2 + np.mod(down, np.float32(5)) ** 2 < np.float32(6)] *= GAP
    return ink.reshape(len(jitter), SIDE, FINE, SIDE, FINE).mean((2, 4), dtype=np.float64)


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which places (u to the right, v down) lie inside a shape that reaches to about 1 from its centre."""
    far = u**2 + v**2
    match shape:
        case "circle":
            return far <= 0.95**2
        case "square":
            return np.maximum(abs(u), abs(v)) <= 0.8
        case "triangle":
            return (v <= 0.75) & (2 * abs(u) <= v + 1.05)
        case "diamond":
            return abs(u) / 0.7 + abs(v) <= 1.05
        case "cross":
            return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 0.95)
        case "star":
            sector = np.mod(np.arctan2(u, -v) + math.pi / 5, 2 * math.pi / 5) - math.pi / 5
            reach = np.sqrt(far)
            return reach * (np.cos(sector) + abs(np.sin(sector)) * 1.54) <= 1.05
        case "heart":
            x, y = u * 1.2, 0.15 - v * 1.2
            return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3
        case "ring":
            return (far <= 0.95**2) & (far >= 0.5**2)
        case "crescent":
            return (far <= 0.95**2) & ((u - 0.45) ** 2 + v**2 >= 0.75**2)
        case _:  # a bar
            return (abs(u) <= 1.0) & (abs(v) <= 0.36)
