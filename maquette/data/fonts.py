"""Built-in images rendered from matplotlib's fonts: characters, and digits with affine jitter. Knows fonts, no folders."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from maquette import streams
from maquette.data.cache import kept, key_of
from maquette.data.core import Column, Data, Facts, image_data
from maquette.streams import Streams, mix

if TYPE_CHECKING:
    from PIL.Image import Image

_DEJAVU = [
    f"DejaVu{face}"
    for family in ("Sans", "SansMono")
    for face in (family, *(f"{family}-{s}" for s in ("Bold", "BoldOblique", "Oblique")))
]
_SERIF = [f"DejaVuSerif{style}" for style in ("", "-Bold", "-BoldItalic", "-Italic")]
_CM = ["cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"]
STIX = ["STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic"]
# Not cmex10, cmmi10, cmsy10: they hold symbols and old-style digits where letters should be.
FONTS = (*_DEJAVU, *_SERIF, *_CM, *STIX)  # a "font" column is a position in this
CHARACTERS = tuple(map(chr, range(33, 127)))
# TeX's text fonts hold other signs (inverted marks, dashes, accents) on these codes, cmti10 a pound sign: seen by looking.
_MISLABELLED = {**dict.fromkeys(("cmb10", "cmr10", "cmss10"), "<>\\_{|}"), "cmti10": "<>\\_{|}$"}
SIDE = 32  # pixels
EM = 26  # pixels
INK = 128  # grey level of 255 from which a pixel is black
JITTERS = 60  # per font and digit, of which HELD are held out
HELD = 10

_LICENCE = "Bitstream Vera and DejaVu licence; STIX Font Licence; BaKoMa licence (cm*)"
_ATTRIBUTION = "DejaVu, STIX and Computer Modern fonts as matplotlib carries them; rendered by FreeType"


def glyphs() -> Data:
    """The 94 printable ASCII characters in 21 fonts, 32x32 grey; the four STIX faces are held out."""
    parts = {
        "train": [i for i, name in enumerate(FONTS) if name not in STIX],
        "held": [i for i, name in enumerate(FONTS) if name in STIX],
    }
    columns: dict[str, dict[str, Column]] = {}
    for part, fonts in parts.items():
        cells = [(f, i) for f in fonts for i, sign in enumerate(CHARACTERS) if sign not in _MISLABELLED.get(FONTS[f], "")]
        drawn = [np.asarray(_centred(_ink(font, CHARACTERS[i], EM), SIDE)) for font, i in cells]
        columns[part] = {
            "image": torch.from_numpy(np.stack(drawn)[:, None]),
            "label": torch.tensor([i for _, i in cells]),
            "font": torch.tensor([font for font, _ in cells]),
        }
    lost = "29 of 1,974 left out: TeX's fonts hold other signs on <>\\_{|} and, in italics, $"
    return image_data(_about("glyphs", CHARACTERS, "by font family: STIX held out", lost), columns)


def glyphs1() -> Data:
    """The characters of `glyphs` in black and white, 32x32: ink where half a pixel or more is covered; STIX held out."""
    grey = glyphs()
    columns: dict[str, dict[str, Column]] = {}
    for part, split in grey.splits.items():
        pixels = split.columns["image"]
        assert isinstance(pixels, torch.Tensor)
        columns[part] = {**split.columns, "image": (pixels >= INK).byte()}
    return image_data(replace(grey.facts, name="glyphs1", levels=2), columns)


def font_digits() -> Data:
    """The ten digits in 21 fonts, 32x32 grey, turned, sheared, scaled and moved: 10,500 and 2,100 held out."""
    cells = [(font, digit) for font in range(len(FONTS)) for digit in range(10)]
    drawn = kept("font_digits", drawing(Path(__file__), FONTS), lambda: {"drawn": _digits(cells)})["drawn"]
    where = np.arange(len(drawn)) // len(cells)  # the jitter's number: consecutive rows go through every cell
    columns: dict[str, dict[str, Column]] = {}
    for part, rows in (("train", where >= HELD), ("held", where < HELD)):
        count = int(rows.sum()) // len(cells)
        columns[part] = {
            "image": torch.from_numpy(drawn[rows]),
            "label": torch.tensor([digit for _, digit in cells]).repeat(count),
            "font": torch.tensor([font for font, _ in cells]).repeat(count),
        }
    rule = f"by jitter: {HELD} of {JITTERS} renderings of each digit in each font; every font is on both sides"
    return image_data(_about("font_digits", tuple("0123456789"), rule), columns)


def drawing(code: Path, fonts: tuple[str, ...]) -> str:
    """A key of what code draws with fonts (`cache.kept`)."""
    import PIL
    from PIL import features

    versions = f"{PIL.__version__} {features.version('freetype2')} {np.__version__}"
    return key_of(versions, code, Path(__file__), Path(streams.__file__), *(_folder() / f"{font}.ttf" for font in fonts))


def _digits(cells: list[tuple[int, int]]) -> np.ndarray:
    """Every rendering of each of (font, digit): uint8[JITTERS * cells,1,SIDE,SIDE]."""
    big = [_centred(_ink(font, str(digit), 4 * EM), 4 * SIDE) for font, digit in cells]
    table = _jitters(len(cells) * JITTERS)
    return np.stack([_jittered(big[i % len(cells)], row) for i, row in enumerate(table)])[:, None]


def _about(name: str, classes: tuple[str, ...], split: str, *more: str) -> Facts:
    fonts = ", ".join(f"{i} {font}" for i, font in enumerate(FONTS))
    notes = (f"font: {fonts}", "pixels depend on the FreeType version", *more)
    return Facts(name, "image", "rendered", _LICENCE, _ATTRIBUTION, "", {}, classes=classes, split=split, notes=notes)


def _jitters(count: int) -> list[list[float]]:
    """Per picture the inverse affine map (a, b, d, e, f_x, f_y) about the centre, for Pillow.

    Turn +-15 degrees, shear +-0.2, scale 0.8 .. 1.15 on each axis, shift +-3 pixels; uniform and independent.
    """
    u = Streams.of(mix(0xF0D161), count).uniform(6).double().numpy() * 2 - 1
    turn, shear = u[:, 0] * math.radians(15), u[:, 1] * 0.2
    wide, high = 0.975 + 0.175 * u[:, 2], 0.975 + 0.175 * u[:, 3]
    cos, sin = np.cos(turn), np.sin(turn)
    # the inverse of turn @ shear @ scale, rounded so that a last bit of sin or cos moves no pixel
    inverse = [(sin * shear + cos) / wide, (sin - cos * shear) / wide, -sin / high, cos / high]
    return np.stack([*inverse, 3 * u[:, 4], 3 * u[:, 5]], 1).round(5).tolist()


def _jittered(big: Image, row: list[float]) -> np.ndarray:
    """A 128x128 drawing through the map, to uint8[32,32]: sampled at 64x64, then 2x2 means."""
    from PIL.Image import Resampling, Transform

    a, b, d, e, right, down = row
    half, scale = SIDE, 2.0  # the centre of a 64x64 grid; big pixels per its pixel
    x, y = half + 2 * right, half + 2 * down  # where the centre goes; Pillow itself samples at pixel centres
    centre = 2 * SIDE
    matrix = (a * scale, b * scale, centre - scale * (a * x + b * y), d * scale, e * scale, centre - scale * (d * x + e * y))
    return np.asarray(big.transform((2 * SIDE, 2 * SIDE), Transform.AFFINE, matrix, Resampling.BILINEAR).reduce(2))


@cache
def _folder() -> Path:
    """matplotlib's fonts, found without importing it where it lies as its wheel put it."""
    found = importlib.util.find_spec("matplotlib")
    for place in (found.submodule_search_locations if found else None) or []:
        path = Path(place) / "mpl-data" / "fonts" / "ttf"
        if path.is_dir():
            return path
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _ink(font: int, text: str, em: int) -> Image:
    """The text in white on black, cropped to its ink. em: pixels per em."""
    from PIL import Image, ImageDraw, ImageFont

    face = _face(font, em)
    assert isinstance(face, ImageFont.FreeTypeFont)
    canvas = Image.new("L", (4 * em, 4 * em))
    ImageDraw.Draw(canvas).text((em, em), text, fill=255, font=face)
    return canvas.crop(canvas.getbbox())


@cache
def _face(font: int, em: int) -> object:
    from PIL import ImageFont

    # the basic layout: the other one is not in every build of Pillow
    return ImageFont.truetype(_folder() / f"{FONTS[font]}.ttf", em, layout_engine=ImageFont.Layout.BASIC)


def _centred(ink: Image, side: int) -> Image:
    """The ink in the middle of a black square."""
    from PIL import Image

    canvas = Image.new("L", (side, side))
    canvas.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return canvas
