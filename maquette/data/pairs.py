"""Built-in images to translate between: the same character in two typefaces, and digits drawn by fonts as by hands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from maquette.data.core import Column, Data, Facts, image_data
from maquette.data.fonts import _ATTRIBUTION, _LICENCE, EM, FONTS, SIDE, _centred, _folder, _ink, font_digits

SANS, SERIF = "DejaVuSans", "DejaVuSerif"
INK = 64  # of 255: paler is paper
HELD = 10  # every tenth character is held out


def serif_glyphs() -> Data:
    """Characters of DejaVu Serif, 32x32 grey, each beside the same of DejaVu Sans as "source": true pairs."""
    drawn: dict[bytes, np.ndarray] = {}
    for code in _shared():
        pair = [_ink(FONTS.index(face), chr(code), EM) for face in (SANS, SERIF)]
        if max(*pair[0].size, *pair[1].size) <= SIDE:  # a wider one would be cut
            both = np.stack([np.asarray(_centred(ink, SIDE)) for ink in pair])
            drawn.setdefault(both.tobytes(), both)  # Latin A, Greek Alpha and Cyrillic A look the same: one of them is enough
    pairs = torch.from_numpy(np.stack(list(drawn.values())))
    where = torch.from_numpy(np.arange(len(pairs)) % HELD == 0)
    columns: dict[str, dict[str, Column]] = {
        part: {"image": pairs[rows, 1:], "source": pairs[rows, :1]} for part, rows in (("train", ~where), ("held", where))
    }
    rule = f"by character: every {HELD}th of those both faces have is held out; pairs that look the same are one"
    return image_data(Facts("serif_glyphs", "image", "rendered", _LICENCE, _ATTRIBUTION, "", {}, split=rule), columns)


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
    """Font digits cut to their ink and brought to 8x8 in 17 grey levels, as the handwritten ones lie."""
    from PIL import Image

    whole = font_digits()
    columns: dict[str, dict[str, Column]] = {}
    for part, split in whole.splits.items():
        pixels = split.columns["image"]
        assert isinstance(pixels, torch.Tensor)
        drawn = []
        for image in pixels[:, 0].numpy():
            ink = Image.fromarray(image).crop(Image.fromarray((image > INK).astype(np.uint8)).getbbox())
            square = _centred(ink, max(ink.size))
            drawn.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BILINEAR).reduce(SIDE // 8)))
        grey = (np.stack(drawn)[:, None].astype(np.float64) * 16 / 255).round().astype(np.uint8)
        columns[part] = {**split.columns, "image": torch.from_numpy(grey)}
    return image_data(replace(whole.facts, name="font_digits8", levels=17), columns)
