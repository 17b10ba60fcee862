"""Built-in characters: drawn by matplotlib's fonts, black on white, captioned by their Unicode names. Knows fonts, no folders.

Ink is black, for many names say so ("black chess queen"). What looks alike goes by several names (Latin, Greek and Cyrillic A),
and none of those crosses the split.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maquette.data.cache import kept
from maquette.data.core import Column, Data, Facts, image_data
from maquette.data.fonts import _ATTRIBUTION, _LICENCE, FONTS, SIDE, _face, _folder
from maquette.data.names import held_out, joined
from maquette.data.shares import sha1

if TYPE_CHECKING:
    from PIL.Image import Image

PLAIN = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
# Letters only: the names of symbols tell weight and slant ("heavy", "mathematical bold italic"), and theirs would belie them.
STYLED = (
    *("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold", "STIXGeneralBol"),
    *("DejaVuSans-Oblique", "DejaVuSerif-Italic", "STIXGeneralItalic"),
)
_MISDRAWN = {"DejaVuSerif-Italic": "\u1fd8"}  # without its breve: found by comparing what looks alike in one face alone
EM = 24  # pixels; the baseline is EM below the upper edge
ALIKE = 0.5  # squared distance of two drawings, in pixels of full ink: what is nearer is the same to a reader
SHARE = 15  # of the groups drawn for holding out, in percent
SCRIPTS = ("latin", "greek", "cyrillic", "armenian", "hebrew", "arabic", "georgian", "canadian", "tifinagh")
SIGNS = ("braille", "box drawings", "domino tile", "playing card", "arrow", "mathematical")
SORTS = {"L": "letter", "N": "number", "P": "punctuation", "S": "symbol"}  # by general category, where no word tells more
KINDS = (*SCRIPTS, *SIGNS, *SORTS.values())  # a label is a position in this


def characters() -> Data:
    """7,118 characters in up to 11 fonts, 32x32 grey, captioned by their Unicode names; look-alikes on one side; rendered."""
    from PIL import features

    key = hashlib.sha256(f"1 {features.version('freetype2')} {unicodedata.unidata_version}".encode())
    for font in (*PLAIN, *STYLED):
        key.update((_folder() / f"{font}.ttf").read_bytes())
    found = kept("characters", key.hexdigest(), _drawn)
    codes, fonts, ink, lost = found["code"], found["font"], found["ink"], int(found["lost"])
    names = [unicodedata.name(chr(code)).lower() for code in found["codes"].tolist()]
    away = dict(zip(found["codes"].tolist(), held_out(names, found["group"].tolist(), SHARE), strict=True))
    held = np.array([away[code] for code in codes.tolist()])
    digests = [sha1(f"character {code} {font}".encode()) for code, font in zip(codes.tolist(), fonts.tolist(), strict=True)]
    order = np.array(sorted(range(len(codes)), key=digests.__getitem__))
    columns: dict[str, dict[str, Column]] = {}
    for part, rows in (("train", order[~held[order]]), ("held", order[held[order]])):
        signs = [chr(code) for code in codes[rows].tolist()]
        columns[part] = {
            "image": torch.from_numpy(255 - ink[rows])[:, None],
            "label": torch.tensor([KINDS.index(kind(sign)) for sign in signs]),
            "font": torch.from_numpy(fonts[rows]),
            "text": [unicodedata.name(sign).lower() for sign in signs],
        }
    return image_data(_about(names, found["group"], lost), columns)


def _about(names: list[str], groups: np.ndarray, lost: int) -> Facts:
    rule = (
        f"by character, look-alikes together: groups held out where the first 32 bits of SHA-1 of their first name modulo 100 "
        f"are below {SHARE}, if training names have their every word; order by SHA-1"
    )
    largest = max(np.unique(groups, return_counts=True)[1])
    return Facts(
        name="characters",
        field="image",
        kind="rendered",
        licence=f"{_LICENCE}; Unicode License v3 (names)",
        attribution=f"{_ATTRIBUTION}; names: the Unicode Character Database, as Python carries it",
        hash="",
        rows={},
        classes=KINDS,
        split=rule,
        notes=(
            "font: " + ", ".join(f"{FONTS.index(font)} {font}" for font in (*PLAIN, *STYLED)),
            "bold and slanted faces draw letters only: a symbol's name tells its weight",
            f"{len(names):,} characters look like {len(set(groups.tolist())):,}: what looks alike, in whichever faces, to within "
            f"{ALIKE} pixels of ink, is one group, and of up to {largest} names",
            f"{lost} drawings larger than {SIDE}x{SIDE} are left out; what two faces draw alike is there once",
            "no factors: what a name tells (Greek, not Latin) its picture often does not show",
            "pixels depend on the FreeType version",
        ),
    )


def kind(sign: str) -> str:
    """A letter's script, what a symbol is of, else what Unicode says it is: one of KINDS."""
    name, category = unicodedata.name(sign).lower(), unicodedata.category(sign)[0]
    told = (*SCRIPTS, *SIGNS) if category == "L" else SIGNS
    return next((kind for kind in told if f" {kind} " in f" {name} "), SORTS[category])


def _drawn() -> dict[str, np.ndarray]:
    """Every character in every face, ink uint8[N,SIDE,SIDE] with its code point and font; and per code point its group."""
    codes, fonts, ink, lost = [], [], [], 0
    seen: set[tuple[int, bytes]] = set()
    for font in (*PLAIN, *STYLED):
        for code in _signs(font):
            drawn = _inked(FONTS.index(font), chr(code))
            if drawn is None:
                lost += 1
            elif (key := (code, drawn.tobytes())) not in seen:
                seen.add(key)
                codes.append(code)
                fonts.append(FONTS.index(font))
                ink.append(drawn)
    distinct = sorted(set(codes))
    at = {code: i for i, code in enumerate(distinct)}
    stacked = np.stack(ink)
    group = joined(len(distinct), ((at[codes[i]], at[codes[j]]) for i, j in alike(stacked)))
    arrays: dict[str, Any] = {"code": codes, "font": fonts, "codes": distinct, "group": group, "lost": lost}
    return {name: np.array(values) for name, values in arrays.items()} | {"ink": stacked}


def _signs(font: str) -> list[int]:
    """Code points of a face that have a name and are no mark to be put on another; of a styled face, letters of a script."""
    from fontTools.ttLib import TTFont  # matplotlib depends on it

    with TTFont(_folder() / f"{font}.ttf", lazy=True) as face:
        table = sorted(face.getBestCmap())
    lost = _MISDRAWN.get(font, "")
    named = [code for code in table if unicodedata.category(chr(code))[0] in SORTS and unicodedata.name(chr(code), "") != ""]
    signs = [code for code in named if chr(code) not in lost]
    if font in PLAIN:
        return signs
    return [code for code in signs if unicodedata.category(chr(code))[0] == "L" and kind(chr(code)) != "mathematical"]


def _inked(font: int, sign: str) -> np.ndarray | None:
    """White on black, uint8[SIDE,SIDE]: on the baseline, the middle of its advance in the middle, moved as little as it takes to
    be whole. None where it is too large, or blank."""
    from PIL import Image, ImageDraw, ImageFont

    face = _face(font, EM)
    assert isinstance(face, ImageFont.FreeTypeFont)
    page: Image.Image = Image.new("L", (4 * SIDE, 4 * SIDE))
    middle = 2 * SIDE
    ImageDraw.Draw(page).text((middle - round(face.getlength(sign) / 2), middle), sign, fill=255, font=face, anchor="ls")
    box = page.getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) > SIDE:
        return None
    x = min(max(middle - SIDE // 2, box[2] - SIDE), box[0])
    y = min(max(middle - EM, box[3] - SIDE), box[1])
    return np.asarray(page.crop((x, y, x + SIDE, y + SIDE)))


def alike(drawn: np.ndarray, block: int = 4, rows: int = 512) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of drawings uint8[N,S,S] whose squared distance is below ALIKE, white being 1.

    Sought among those of about one length, by means of blocks: neither tells two drawings further apart than they are.
    """
    count, side = len(drawn), drawn.shape[1] // block
    ink = drawn.reshape(count, -1).astype(np.float32) / 255
    length = np.sqrt((ink**2).sum(1))
    order = np.argsort(length, kind="stable")
    coarse = ink[order].reshape(count, side, block, side, block).mean((2, 4)).reshape(count, -1) * block
    square, slack = (coarse**2).sum(1), 0.01  # the difference of large numbers: a little more than asked for
    found = []
    for start in range(0, count, rows):
        longest = length[order[min(start + rows, count) - 1]] + ALIKE**0.5 + slack
        end = int(np.searchsorted(length[order], longest, side="right"))
        some, others = slice(start, start + rows), slice(start, end)
        near = square[some, None] + square[None, others] - 2 * coarse[some] @ coarse[others].T
        one, other = np.nonzero(near < ALIKE + slack)
        one, other = order[start + one[one < other]], order[start + other[one < other]]
        apart = ((ink[one] - ink[other]) ** 2).sum(1) < ALIKE
        found += [(min(pair), max(pair)) for pair in zip(one[apart].tolist(), other[apart].tolist(), strict=True)]
    return found
