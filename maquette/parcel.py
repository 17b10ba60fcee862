"""What is compressed and comes back, as files: text, pictures, arrays. Knows files, the data's facts and a codec; no model.

Pictures come back pixel for pixel, numbered in the order of their names; text comes back byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette import storage
from maquette.contracts import IGNORE, Batch, Code, Codec
from maquette.data import DataError, Facts
from maquette.data.images import Picture, read
from maquette.data.listing import IMAGE, File, walk
from maquette.report.pictures import grid, png, save_samples

LANE = 16  # windows of text in a row: rows are coded side by side, and each begins without context
LANES = 64
ARRAYS = (".npz", ".npy")


def fold(source: Path, facts: Facts, codec: Codec) -> tuple[Code, Batch | None]:
    """A file or folder as symbols int64[N,T], and what it says of each row, if anything.

    Raises:
        DataError: it is missing, or not of this model's kind, size or levels.
    """
    if not source.exists():
        raise DataError(f"there is nothing at {source} to compress")
    if codec.field == "text":
        return _lanes(_text(source, codec), codec.length), None
    if codec.field != "image":
        raise DataError(f"this run makes {codec.field}; files of it cannot be read yet, use maquette.lossless.pack")
    images, label = pictures(source, facts)
    return codec.encode(images), None if label is None else {"label": label}


def pictures(
    source: Path, facts: Facts, exact: bool = True, shapes: Sequence[tuple[int, ...]] = ()
) -> tuple[Tensor, Tensor | None]:
    """Pictures of the data's own size and grey levels, float[N,C,H,W] in 0..1, and their labels if the file has them.

    Args:
        shapes: that they may be of, too, each (C, H, W).
        exact: refuse a pixel between two of the data's grey levels, instead of taking the nearer one.

    Raises:
        DataError: they are missing, damaged, or of another size or mode, or of other levels where it must be exact.
    """
    if not source.exists():
        raise DataError(f"there is nothing at {source}")
    pixels, label = _arrays(source) if source.suffix in ARRAYS else (_pictures(source), None)
    return _levels(pixels, facts, source, exact, shapes).float() / (facts.levels - 1), label


def mask(source: Path, facts: Facts) -> Tensor:
    """A picture of the data's own size as bool[H,W]: where it is white (above half of all grey levels).

    Raises:
        DataError: it is missing, no picture, one of another size, or all white or nowhere.
    """
    if not source.is_file():
        raise DataError(f"--mask {source} is no file; it must be a picture, white where the run is to write")
    found = _pictures(source)[0]
    if tuple(found.shape[1:]) != facts.shape[1:]:
        raise DataError(f"--mask {source} is {found.shape[2]}x{found.shape[1]}; this run's pictures are {_size(facts.shape)}")
    white = found.float().mean(0) > 127.5
    if not bool(white.any()):
        raise DataError(f"--mask {source} is white nowhere, so that there is nothing to write; white marks what is to be filled")
    if bool(white.all()):
        raise DataError(
            f"--mask {source} is white all over, so that nothing of the picture is kept; leave out --start and --mask"
        )
    return white


def unfold(code: Code, told: Batch, facts: Facts, codec: Codec, out: Path) -> None:
    """Symbols as the file (or, for pictures, folder) that they were.

    Raises:
        DataError: several pictures and the name of one file.
    """
    if codec.field == "text":
        (text,) = codec.decode(code[code != IGNORE][None])
        out.parent.mkdir(parents=True, exist_ok=True)
        return storage.replace_durably(out, text.encode())
    images = codec.decode(code) if len(code) else torch.zeros(0, *facts.shape)
    if out.suffix == ".npz":
        save_samples({"image": images, **told}, "image", out)
    elif out.suffix == ".png":
        if len(images) != 1:
            raise DataError(f"{len(images)} pictures do not go into one {out.name}: name a folder, or an .npz")
        out.parent.mkdir(parents=True, exist_ok=True)
        storage.replace_durably(out, png(grid(images, zoom=1)))
    elif out.suffix:
        raise DataError(f"pictures are not written as {out.suffix}; allowed are .png (one picture), .npz, or a folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            storage.replace_durably(out / f"{number:06d}.png", png(grid(image[None], zoom=1)))


def _text(source: Path, codec: Codec) -> Code:
    raw = source.read_bytes() if source.is_file() else None
    if raw is None:
        raise DataError(f"{source} is a folder; a model of text compresses one file at a time")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text: byte {error.start} is {raw[error.start]:#04x}") from None
    code = codec.encode([text])
    if codec.decode(code) != [text]:
        raise DataError(f"{source} does not survive this run's tokenizer, so it cannot be coded without loss")
    return code


def _lanes(code: Code, window: int) -> Code:
    """One row of text as several of equal length, the last ones shorter: [1,T] -> [N, T/N], filled up with IGNORE."""
    total = code.shape[1]
    rows = min(LANES, max(1, total // (LANE * window)))
    width = -(-total // rows)
    return torch.nn.functional.pad(code[0], (0, rows * width - total), value=IGNORE).view(rows, width)


def _pictures(source: Path) -> Tensor:
    """A picture, or a folder of them in the order of their names: uint8[N,C,H,W]."""
    files = walk(source) if source.is_dir() else [File(source, source.name, source.name)]
    files = [file for file in files if file.path.suffix.lower() in IMAGE or source.is_file()]
    found = read([Picture(file.name, file.open) for file in sorted(files, key=lambda file: file.name)], 0, str(source))
    if found.skipped:
        name, why = found.skipped[0]
        raise DataError(f"{len(found.skipped)} of the pictures cannot be read, {name} first: {why}")
    return found.pixels


def _arrays(source: Path) -> tuple[Tensor, Tensor | None]:
    """Pictures [N,C,H,W] in an array file as uint8 or as shares 0..1, with their labels where an .npz has them."""
    try:
        loaded = np.load(source)
        arrays = {k: loaded[k] for k in loaded.files} if source.suffix == ".npz" else {"image": loaded}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{source} cannot be read: {error}") from None
    if "image" not in arrays or arrays["image"].ndim != 4:
        raise DataError(f"{source} has no array 'image' of shape [N, C, H, W]; it has {', '.join(arrays) or 'none'}")
    label = torch.from_numpy(arrays["label"]).long() if "label" in arrays else None
    return torch.from_numpy(arrays["image"]), label


def _levels(pixels: Tensor, facts: Facts, source: Path, exact: bool, shapes: Sequence[tuple[int, ...]] = ()) -> Tensor:
    """Pictures as whole grey levels 0 .. levels - 1.

    Raises:
        DataError: another shape, or, where `exact`, a value that is none of the levels.
    """
    allowed = (facts.shape, *shapes)
    if pixels.shape[1] == 1 and tuple(pixels.shape[1:]) not in allowed:
        pixels = pixels.expand(-1, facts.shape[0], -1, -1)  # grey as R = G = B
    if tuple(pixels.shape[1:]) not in allowed:
        sizes = " or ".join(_size(shape) for shape in allowed)
        raise DataError(f"pictures in {source} are {_size(pixels.shape[1:])}; this run's are {sizes}")
    top = facts.levels - 1
    level = (pixels.double() * (1.0 if pixels.is_floating_point() else 1 / 255) * top).round()
    again = level / top if pixels.is_floating_point() else (level * 255 / top).round()
    wrong = (again - pixels.double()).abs() > (1e-6 if pixels.is_floating_point() else 0)
    if exact and bool(wrong.any()):
        value = pixels[wrong][0].item()
        raise DataError(f"a pixel in {source} is {value:g}, which is none of this run's {facts.levels} grey levels")
    return level.long()


def _size(shape: Any) -> str:
    return f"{shape[2]}x{shape[1]} with {shape[0]} channel{'s' * (shape[0] > 1)}"
