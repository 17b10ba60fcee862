"""Built-in emoji: the pictures in the font Noto Color Emoji, captioned by their Unicode names. Knows where systems keep the font.

A picture stands for one character, or for several in a row (a person, a skin tone, a rocket); its caption names them all.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maquette.data.cache import kept
from maquette.data.core import Column, Data, Facts, image_data
from maquette.data.errors import DataError
from maquette.data.images import _fits
from maquette.data.names import held_out, joined
from maquette.data.shares import sha1

FONT = "NotoColorEmoji.ttf"
_SYSTEM = ("truetype/noto", "noto", "google-noto-color-emoji-fonts", "google-noto-emoji", "noto-emoji")
FOLDERS = (*(f"/usr/share/fonts/{name}" for name in _SYSTEM), "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
SIDE = 32  # pixels, where no size is asked for
SHARE = 25  # of the groups drawn for holding out, in percent
FEWEST = 100  # pictures that a font must bring
_TONES = {
    f"emoji modifier fitzpatrick type-{kind}": f"{tone} skin tone"
    for kind, tone in (("1-2", "light"), ("3", "medium-light"), ("4", "medium"), ("5", "medium-dark"), ("6", "dark"))
}
_SILENT = "\u200d\ufe0f"  # the joiner, and the wish for colour
_STRAY = re.compile("\u200d[\U0001f3fb-\U0001f3ff]|💋.*❤")  # a tone without its person, a kiss before its heart
_PERSON = "👨👩🧑"
_AFTER = "♀♂⚧🔥🩹🗨🌫💨💫🌈🦺⬛🟩🟫💥❄☠↔↕➡🫲"  # never first of several
_CODES = re.compile("[\U0001f1e6-\U0001f1ff\U000e0020-\U000e007f🈐-🉈]")  # letters of flags, ideographs: named by codes
# What Unicode 14 does not have: a newer Python knows more names, and the data should not depend on it.
_NEWER = {0x1F6D8, 0x1F6DC}.union(
    *(range(0x1FA75, 0x1FA78), range(0x1FA7D, 0x1FA80), range(0x1FA87, 0x1FA90), range(0x1FAAD, 0x1FAB0)),
    *(range(0x1FABB, 0x1FAC0), range(0x1FAC6, 0x1FAD0), range(0x1FADA, 0x1FAE0), range(0x1FAE8, 0x1FAF0)),
    range(0x1FAF7, 0x1FB00),
)
# A person by any of these words, whatever is said aside, is one subject.
_WHO = dict.fromkeys(("man", "woman", "adult", "dancer", "male", "female"), "person")
_WHO |= {"women": "men", "girl": "child", "boy": "child", "mother": "father", "princess": "prince", "queen": "king"}
_ASIDE = re.compile(r", (?:[a-z-]+ skin tone|male sign|female sign|black rightwards arrow)")
_SEVERAL = re.compile(r"\bperson\b.*\bperson\b|\bchild\b.*\bchild\b|\bholding hands\b|^family$|^kiss$|^couple with heart$")


def emoji(size: int = SIDE) -> Data:
    """3,490 emoji, 32x32 RGB on white, captioned by their Unicode names; skin tones, men and women on one side; rendered.

    Args:
        size: side in pixels that bitmaps of 136 are brought to; 0 is the default.

    Raises:
        DataError: the font is not there, or not one of bitmaps.
    """
    size = size or SIDE
    raw = font().read_bytes()
    key = hashlib.sha256(f"1 {size}".encode() + hashlib.sha256(raw).digest())
    found = kept("emoji", key.hexdigest(), lambda: _drawn(raw, size))
    names, pixels = found["name"].tolist(), found["pixels"]
    held = np.array(held_out(names, found["group"].tolist(), SHARE))
    digests = [sha1(name.encode()) for name in names]
    order = np.array(sorted(range(len(names)), key=digests.__getitem__))
    columns: dict[str, dict[str, Column]] = {
        part: {"image": torch.from_numpy(pixels[rows]), "text": [names[i] for i in rows.tolist()]}
        for part, rows in (("train", order[~held[order]]), ("held", order[held[order]]))
    }
    rule = (
        f"by subject, whatever its skin tone and sex, equal pictures together: groups held out where the first 32 bits of SHA-1 "
        f"of their first name modulo 100 are below {SHARE}, if training names have their every word; order by SHA-1"
    )
    about = Facts(
        name="emoji",
        field="image",
        kind="rendered",
        licence="SIL Open Font License 1.1 (pictures); Unicode License v3 (names)",
        attribution=f"{found['font']}, Google; names: the Unicode Character Database, as Python carries it",
        hash="",
        rows={},
        split=rule,
        notes=(
            "a caption names its characters in turn, a comma between them; skin tones by their short names in CLDR",
            "flags of countries are left out: they are spelt by letters; so is what came after Unicode 14",
            f"{len(set(found['group'].tolist())):,} subjects; {sum('skin tone' in name for name in names):,} of {len(names):,} "
            f"pictures are of one with a skin tone",
            "pixels depend on the version of the font",
        ),
        size=size if size != SIDE else 0,
    )
    return image_data(about, columns)


def font() -> Path:
    """The font's file.

    Raises:
        DataError: it is nowhere it is looked for.
    """
    for folder in FOLDERS:
        if (place := Path(folder).expanduser() / FONT).is_file():
            return place
    raise DataError(
        f"emoji needs the font {FONT}, which is in none of {', '.join(FOLDERS)}; `apt-get install fonts-noto-color-emoji` brings "
        f"it on Debian and Ubuntu; or use `characters`, whose fonts are here"
    )


def _drawn(raw: bytes, size: int) -> dict[str, np.ndarray]:
    """Every emoji: its name, the group that must lie on one side, pixels uint8[N,3,size,size]; and the font's own name."""
    from fontTools.ttLib import TTFont  # matplotlib depends on it

    with TTFont(BytesIO(raw), lazy=True) as face:
        if "CBDT" not in face:
            raise DataError(f"{FONT} holds no bitmaps (no CBDT table): it is drawn by outlines, which are not read here")
        strike: Any = face["CBDT"].strikeData[0]
        called = f"{face['name'].getDebugName(4)} {face['head'].fontRevision:.3f}"
        spelt = sorted((sequence, glyph) for glyph, sequence in _spelt(face).items() if glyph in strike)
        glyphs = {caption(sequence): glyph for sequence, glyph in spelt if told(sequence)}
        pictures = {name: strike[glyph].imageData for name, glyph in glyphs.items()}
    if len(pictures) < FEWEST:
        raise DataError(f"{FONT} holds {len(pictures)} pictures of emoji that have names; at least {FEWEST} are needed")
    _fits(len(pictures), size, size)
    names = list(pictures)
    first: dict[bytes | str, int] = {}
    pairs = [(i, first.setdefault(what, i)) for i, name in enumerate(names) for what in (pictures[name], subject(name))]
    pixels = np.stack([_pixels(picture, size) for picture in pictures.values()])
    group = np.array(joined(len(names), pairs))
    return {"name": np.array(names), "group": group, "pixels": pixels, "font": np.array(called)}


def _spelt(face: Any) -> dict[str, str]:
    """Glyph -> the characters it draws: by the font's table, and by its ligatures, of which some are for right-to-left text."""
    signs: dict[str, str] = {}
    for code, glyph in sorted(face.getBestCmap().items()):
        if unicodedata.name(chr(code), ""):  # not the private characters that some glyphs have besides
            signs.setdefault(glyph, chr(code))
    found = {glyph: [sign] for glyph, sign in signs.items()}
    for lookup in face["GSUB"].table.LookupList.Lookup:
        for part in lookup.SubTable:
            for first, some in getattr(getattr(part, "ExtSubTable", part), "ligatures", {}).items():
                for each in some:
                    parts = [first, *each.Component]
                    if all(one in signs for one in parts):
                        found.setdefault(each.LigGlyph, []).append("".join(signs[one] for one in parts))
    return {glyph: max(spellings, key=_forward) for glyph, spellings in found.items()}


def _forward(sequence: str) -> tuple[bool, bool, bool, str]:
    """Ranks spellings of one picture: the tone behind its person, who comes first, and what is said of them after."""
    return not _STRAY.search(sequence), sequence[0] not in _AFTER, sequence[0] in _PERSON, sequence


def told(sequence: str) -> bool:
    """Whether an emoji's name says what it shows: no flag, no letter or bare mark, nothing newer than Unicode 14."""
    if _CODES.search(sequence) or any(ord(sign) in _NEWER for sign in sequence):
        return False
    said = [sign for sign in sequence if sign not in _SILENT]
    if len(said) == 1:
        return ord(said[0]) > 0x7F and unicodedata.category(said[0]) in ("So", "Sm", "Po", "Pd", "Ll")
    return bool(said) and all(unicodedata.name(sign, "") for sign in said)


def caption(sequence: str) -> str:
    """The names of its characters: "runner, dark skin tone, female sign"."""
    names = [unicodedata.name(sign, "").lower() for sign in sequence if sign not in _SILENT]
    return ", ".join(_TONES.get(name, name.removeprefix("emoji component ")) for name in names)


def subject(name: str) -> str:
    """What a caption is about, whoever it is: without skin tone and sex; several people are one subject."""
    bare = re.sub(r"[a-z]+", lambda word: _WHO.get(word[0], word[0]), _ASIDE.sub("", name))
    if bare == "rightwards hand, leftwards hand":  # they shake
        return "handshake"
    return "several people" if _SEVERAL.search(bare) else bare


def _pixels(picture: bytes, size: int) -> np.ndarray:
    """A bitmap in the middle of a white square, brought to size: uint8[3,size,size]."""
    from PIL import Image

    with Image.open(BytesIO(picture), formats=("PNG",)) as image:
        drawn = image.convert("RGBA")
    side = max(drawn.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    small = square.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)  # antialiased when it shrinks
    return np.asarray(small).transpose(2, 0, 1)
