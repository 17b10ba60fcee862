"""Pictures, from bytes to one tensor: looked at before they are decoded, brought to one size, grey where all are grey.

Knows formats and their faults; not where pictures lie nor what they are called.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from maquette.data.core import Column, Data, image_data
from maquette.data.errors import DataError, Skip, refuse_mostly_bad
from maquette.data.shares import sha1

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg", ".jfif"), "WEBP": (".webp",), "BMP": (".bmp", ".dib"), "GIF": (".gif",)}
FORMATS = tuple(SUFFIXES)  # a short list on purpose: each decoder is a way in for damaged and hostile files
NOT_READ = (".tif", ".tiff", ".heic", ".heif", ".avif", ".ico", ".psd", ".svg", ".jp2", ".jxl", ".tga", ".ppm", ".pgm")
PIXELS = 4096 * 4096  # decoded; a 10 KiB file can claim 232 MiB
BYTES = 1 << 28  # of a file
FEW = 0.1  # share of the images that may be of another size, and are then skipped (one of three or more always)
BAR = 2000  # images from which a progress bar is shown

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class Picture:
    """One picture yet to be read. name: for messages; part: "train", "held" or ""; label: a class name."""

    name: str
    open: Callable[[], BinaryIO]
    part: str = ""
    label: str | None = None
    caption: str | None = None


@dataclass
class Decoded:
    """Pictures that could be read, in order, as uint8[N,C,H,W], with their bytes' SHA-1; and what was skipped, and why."""

    pictures: list[Picture]
    pixels: Tensor
    digests: list[bytes]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Look:
    """What a header says. size: (width, height) as shown, after the EXIF orientation."""

    format: str
    size: tuple[int, int]


def read(pictures: list[Picture], size: int, place: str) -> Decoded:
    """Look at every header, agree on one size, decode.

    Raises:
        DataError: no pictures, more than half of them bad, sizes that differ (with size 0), or too much for memory.
    """
    if not pictures:
        raise DataError(f"{place} has no images in it; allowed are {', '.join(s for some in SUFFIXES.values() for s in some)}")
    with _quiet():
        looks = list(_each(_look, pictures, "looking at images"))
        bad = [(p.name, look) for p, look in zip(pictures, looks, strict=True) if isinstance(look, str)]
        refuse_mostly_bad(bad, len(pictures), "images", place)
        good = [(p, look) for p, look in zip(pictures, looks, strict=True) if isinstance(look, Look)]
        notes = _misnamed(good)
        want = (size, size) if size else _common(Counter(look.size for _, look in good), place)
        fit = [p for p, look in good if size or look.size == want]
        odd = [(p.name, _differs(look.size, want)) for p, look in good if not size and look.size != want]
        if odd:
            notes.append(
                f"{len(fit)} images are {want[0]}x{want[1]}; {len(odd)} of another size skipped, which a size would keep"
            )
        _fits(len(fit), *want)
        found = _assemble(fit, _each(lambda picture: _decode(picture, size, want), fit, "reading images"))
    refuse_mostly_bad(bad + found.skipped, len(pictures), "images", place)
    return replace(found, skipped=bad + found.skipped + odd, notes=notes)


def _differs(size: tuple[int, int], want: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels; the others are {want[0]}x{want[1]}"


def _look(picture: Picture) -> Look | str:
    """What the header says, or why the picture cannot be read. Decodes nothing."""
    try:
        with picture.open() as file:
            return _header(file)
    except Skip as reason:
        return str(reason)
    except OSError as error:
        return f"cannot be opened: {error.strerror or error}"


def _header(file: BinaryIO) -> Look:
    from PIL import Image, UnidentifiedImageError

    count = file.seek(0, os.SEEK_END)
    if count == 0:
        raise Skip("empty: zero bytes")
    if count > BYTES:
        raise Skip(f"{count:,} bytes; at most {BYTES:,} are read")
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise Skip(f"not an image of a kind that is read ({', '.join(FORMATS)}), or its header is damaged") from None
    except Image.DecompressionBombError:
        raise Skip(f"too many pixels; at most {PIXELS:,} are decoded") from None
    except Exception as error:  # decoders meet damage with errors of every type
        raise Skip(f"damaged header: {error}") from None
    wide, high = image.size
    if wide * high > PIXELS:
        raise Skip(f"{wide}x{high} is {wide * high:,} pixels; at most {PIXELS:,} are decoded")
    kind = image.format or ""
    if kind == "MPO":  # a JPEG with a second view, as phones write it: the first view is the picture
        kind = "JPEG"
    elif getattr(image, "is_animated", False):
        raise Skip("animated; only still images are read")
    if kind in ("JPEG", "WEBP"):  # a PNG's would need decoding; `_decode` honours it all the same
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except Exception:  # damaged EXIF: shown as it lies
            turned = False
        wide, high = (high, wide) if turned else (wide, high)
    return Look(kind, (wide, high))


def _decode(picture: Picture, size: int, shape: tuple[int, int]) -> tuple[np.ndarray, bytes] | str:
    """uint8[C,H,W] (C = 1 where it is grey) and the SHA-1 of the bytes, or why there are none."""
    from PIL import Image

    try:
        with picture.open() as file:
            raw = file.read()
        with Image.open(BytesIO(raw), formats=FORMATS) as image:
            if size and image.format == "JPEG":
                image.draft(None, (2 * size, 2 * size))  # type: ignore[no-untyped-call]
            pixels = _pixels(image, size)
    except Exception as error:  # decoders meet damage with errors of every type
        return f"damaged: {error}"
    if pixels.shape[1:] != (shape[1], shape[0]):
        return _differs((pixels.shape[2], pixels.shape[1]), shape)
    return pixels, sha1(raw)


def _pixels(image: Image, size: int = 0) -> np.ndarray:
    """An image as uint8[C,H,W]: upright, on white where it is clear, 8 bits; centre-cropped and resized for a size."""
    from PIL import Image, ImageOps

    with_alpha = image.has_transparency_data
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16 bits: Pillow's own conversion would clip
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray((deep / 257).round().clip(0, 255).astype(np.uint8))
    elif with_alpha:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white.convert("RGB")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    if size and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)  # antialiased when it shrinks
    array = np.asarray(image)
    if array.ndim == 2:
        return array[None]
    if (array[..., 0] == array[..., 1]).all() and (array[..., 1] == array[..., 2]).all():
        return array[None, ..., 0]
    return array.transpose(2, 0, 1)


def _assemble(pictures: list[Picture], results: Iterable[tuple[np.ndarray, bytes] | str]) -> Decoded:
    """The decoded pictures in one tensor."""
    arrays: list[np.ndarray | None] = []
    kept, digests, skipped = [], [], []
    for picture, result in zip(pictures, results, strict=True):
        if isinstance(result, str):
            skipped.append((picture.name, result))
        else:
            kept.append(picture)
            arrays.append(result[0])
            digests.append(result[1])
    channels = max((array.shape[0] for array in arrays if array is not None), default=1)
    shape = next((array.shape[1:] for array in arrays if array is not None), (0, 0))
    pixels = np.empty((len(kept), channels, *shape), np.uint8)
    for i, array in enumerate(arrays):
        pixels[i] = array  # a grey picture fills all three channels
        arrays[i] = None
    return Decoded(kept, torch.from_numpy(pixels), digests, skipped)


def _common(sizes: Counter[tuple[int, int]], place: str) -> tuple[int, int]:
    """The one size of (nearly) all images."""
    (first, count), total = sizes.most_common(1)[0], sizes.total()
    if total - count <= max(FEW * total, total > 2):
        return first
    some = ", ".join(f"{wide}x{high}: {n}" for (wide, high), n in sizes.most_common(5))
    more = f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
    short = sorted(min(pair) for pair in sizes.elements())[total // 2]
    fit = 1 << min(8, max(3, short.bit_length() - 1))
    raise DataError(f"the images in {place} are of different sizes ({some}{more}); --size {fit} crops and resizes them all")


def _fits(count: int, wide: int, high: int) -> None:
    """Refuse what would not fit in half of this machine's memory."""
    need = count * wide * high * 3
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on this system
        return
    if need > memory / 2:
        side = int((memory / 2 / count / 3) ** 0.5)
        fit = 1 << max(0, side.bit_length() - 1)
        raise DataError(
            f"{count:,} images of {wide}x{high} are {need / 2**30:.1f} GiB in memory, more than half of this machine's "
            f"{memory / 2**30:.1f}; --size {fit} would fit"
        )


def _misnamed(good: list[tuple[Picture, Look]]) -> list[str]:
    """A note on files named for another format than they hold. They are read all the same."""
    wrong = [f"{p.name} is {k.format}" for p, k in good if "." in p.name and not p.name.lower().endswith(SUFFIXES[k.format])]
    if not wrong:
        return []
    some = ", ".join(wrong[:5]) + ", ..." * (len(wrong) > 5)
    return [f"{len(wrong)} named for another format than they hold, read all the same ({some})"]


def _each(work: Callable[[_In], _Out], items: list[_In], what: str) -> Iterator[_Out]:
    """`work` of every item, in order, on a few threads: Pillow's decoders let go of the interpreter's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            done: Iterable[_Out] = pool.map(work, items)
            if len(items) > BAR and sys.stderr.isatty():
                from rich.console import Console
                from rich.progress import track

                done = track(done, what, len(items), console=Console(stderr=True), transient=True)
            yield from done
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's warnings (on bombs, EXIF, palettes) are answered here by reasons of our own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def resized(data: Data, size: int) -> Data:
    """A built-in's images at another size, in 256 levels."""
    if data.facts.shape[1:] == (size, size):
        return Data(replace(data.facts, size=size), lambda: data.splits)
    from PIL import Image

    columns: dict[str, dict[str, Column]] = {}
    for name, split in data.splits.items():
        pixels: Any = split.columns["image"]
        full = (pixels.double() * 255 / (split.levels - 1)).round().byte().numpy()
        drawn = [_pixels(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), size) for image in full]
        drawn = [np.broadcast_to(array, (full.shape[1], size, size)) for array in drawn]  # one grey picture among colours
        columns[name] = {**split.columns, "image": torch.from_numpy(np.stack(drawn))}
    note = f"resized from {data.facts.shape[2]}x{data.facts.shape[1]}"
    return image_data(replace(data.facts, size=size, levels=256, notes=(*data.facts.notes, note)), columns)
