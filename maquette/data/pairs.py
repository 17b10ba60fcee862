"""Built-in images to translate between: the same character in two typefaces, and digits drawn by fonts as by hands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.data.cache import kept, key_of
from maquette.data.core import Column, Data, Facts, image_data
from maquette.data.fonts import _ATTRIBUTION, _LICENCE, EM, FONTS, SIDE, _face, _folder, drawing, font_digits

if TYPE_CHECKING:
    from PIL.Image import Image

SANS, SERIF = "DejaVuSans", "DejaVuSerif"
INK = 64  # of 255: paler is paper
HELD = 10  # every tenth character is held out
BIG = 4  # characters are drawn this many times too large
ALIKE = 2.5  # of 255, on average: drawings that differ less are the same


def serif_glyphs() -> Data:
    """Characters of DejaVu Serif, 32x32 grey, each beside the same of DejaVu Sans as "source": true pairs."""
    pairs = torch.from_numpy(kept("serif_glyphs", drawing(Path(__file__), (SANS, SERIF)), lambda: {"pairs": _pairs()})["pairs"])
    where = torch.from_numpy(np.arange(len(pairs)) % HELD == 0)
    columns: dict[str, dict[str, Column]] = {
        part: {"image": pairs[rows, 1:], "source": pairs[rows, :1]} for part, rows in (("train", ~where), ("held", where))
    }
    rule = f"by character: every {HELD}th of those both faces have is held out; pairs that look the same are one"
    lost = f"characters that both faces draw alike (mean difference below {ALIKE} of 255) are left out: arrows, dots, mathematics"
    about = Facts("serif_glyphs", "image", "rendered", _LICENCE, _ATTRIBUTION, "", {}, split=rule, notes=(lost,))
    return image_data(about, columns)


def _pairs() -> np.ndarray:
    """Each character in both faces: uint8[N,2,SIDE,SIDE]."""
    from PIL import ImageChops

    drawn: dict[bytes, np.ndarray] = {}
    for code in _shared():
        pair = [_written(face, chr(code)) for face in (SANS, SERIF)]
        left, top, right, bottom = ImageChops.lighter(*pair).getbbox() or (0, 0, 0, 0)
        if max(right - left, bottom - top) > BIG * SIDE:  # it would be cut
            continue
        x, y = (left + right - BIG * SIDE) // 2, (top + bottom - BIG * SIDE) // 2  # one frame for both: neither moves
        both = np.stack([np.asarray(page.crop((x, y, x + BIG * SIDE, y + BIG * SIDE)).reduce(BIG)) for page in pair])
        if np.abs(both[0] - both[1].astype(np.int64)).mean() >= ALIKE:
            drawn.setdefault(both.tobytes(), both)  # Latin A, Greek Alpha and Cyrillic A look the same: one of them is enough
    return np.stack(list(drawn.values()))


def _written(face: str, sign: str) -> Image:
    """The sign at BIG times its size, its baseline and the middle of its advance where those of every face are."""
    from PIL import Image, ImageDraw, ImageFont

    font = _face(FONTS.index(face), BIG * EM)
    assert isinstance(font, ImageFont.FreeTypeFont)
    page, middle = Image.new("L", (4 * BIG * EM, 4 * BIG * EM)), 2 * BIG * EM
    ImageDraw.Draw(page).text((middle - round(font.getlength(sign) / 2), 3 * BIG * EM), sign, fill=255, font=font, anchor="ls")
    return page


def _shared() -> list[int]:
    """Code points that both faces draw with ink, in order."""
    from fontTools.ttLib import TTFont  # matplotlib depends on it

    found = []
    for face in (SANS, SERIF):
        with TTFont(_folder() / f"{face}.ttf", lazy=True) as font:
            table, outlines = font.getBestCmap(), font["glyf"]
            found.append({code for code, name in table.items() if outlines[name].numberOfContours})
    return sorted(found[0] & found[1])


def font_digits8() -> Data:
    """Font digits as the handwritten ones lie: half as slanted, cut to their ink, brought to 8x8 in 17 grey levels."""
    whole = font_digits()
    key = key_of(drawing(Path(__file__), FONTS), torch.__version__, whole.facts.hash)
    laid = kept("font_digits8", key, lambda: {part: _laid(split.columns["image"]) for part, split in whole.splits.items()})
    columns = {part: {**split.columns, "image": torch.from_numpy(laid[part])} for part, split in whole.splits.items()}
    note = "each image's own slant is halved, so that slants vary as handwritten digits' do (0.10 and 0.12; 0.19 before)"
    return image_data(replace(whole.facts, name="font_digits8", levels=17, notes=(*whole.facts.notes, note)), columns)


def _laid(pixels: Column) -> np.ndarray:
    """Digits [N,1,SIDE,SIDE] of 256 levels as the handwritten ones lie: uint8[N,1,8,8] of 17."""
    assert isinstance(pixels, torch.Tensor)
    grey = F.avg_pool2d(_cut(_straightened(pixels.float())), SIDE // 8) * 16 / 255
    return grey.round().to(torch.uint8).numpy()


def _straightened(x: Tensor) -> Tensor:
    """Each [1,H,W] sheared about its middle by half its slant: of the covariance of ink across and down, over that down."""
    down, across = (torch.arange(n) - (n - 1) / 2 for n in x.shape[2:])
    ink = x[:, 0]
    mass = ink.sum((1, 2))
    y = down[:, None] - ((ink.sum(2) * down).sum(1) / mass)[:, None, None]
    z = across - ((ink.sum(1) * across).sum(1) / mass)[:, None, None]
    shear = (ink * y * z).sum((1, 2)) / (ink * y.square()).sum((1, 2)) / 2
    zero, one = torch.zeros_like(shear), torch.ones_like(shear)
    return _sampled(x, torch.stack([one, shear, zero, zero, one, zero], 1))


def _cut(x: Tensor) -> Tensor:
    """Each square [1,S,S] cut to its ink, the longer side as long as before, in the middle."""
    side = x.shape[2]
    first, last = [], []
    for ink in ((x[:, 0] > INK).any(1), (x[:, 0] > INK).any(2)):  # per column, per row
        first.append(ink.byte().argmax(1).float())
        last.append(side - ink.flip(1).byte().argmax(1).float())
    scale = torch.maximum(last[0] - first[0], last[1] - first[1]) / side
    right, low = ((a + b) / side - 1 for a, b in zip(first, last, strict=True))
    zero = torch.zeros_like(scale)
    return _sampled(x, torch.stack([scale, zero, right, zero, scale, low], 1))


def _sampled(x: Tensor, maps: Tensor) -> Tensor:
    """x [N,1,S,S] at the places that affine maps [N,6] of -1..1 name; rounded, so that a last bit moves no pixel."""
    grids = F.affine_grid(maps.double().view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x.double(), grids, align_corners=False).mul(256).round().div(256)
