"""Samples as files: a sheet of pictures, arrays, text, JSON. Knows batches and file formats, no model and no page."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

GAP = 1  # pixels between pictures
SEEN = 64  # pixels: the side that a small picture is enlarged towards
_CAPTION = 13  # pixels of height of a caption
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def grid(
    images: Tensor, columns: int | None = None, captions: list[str] | None = None, zoom: int | None = None, gap: int = GAP
) -> Image.Image:
    """A sheet of pictures, row by row: float[N,C,H,W] in 0..1 -> PIL image. C is 1 (grey), 3 (RGB) or 4 (RGBA).

    Args:
        columns: pictures per row; by default about as many as rows.
        captions: a line under each picture, cut to its width.
        zoom: each pixel becomes zoom x zoom, so that small pictures can be seen; by default towards 64 pixels a side.

    Raises:
        ValueError: not pictures, none at all, or a number of captions or columns that does not fit them.
    """
    import numpy as np
    from PIL import Image

    if images.ndim != 4 or images.shape[1] not in _MODES:
        raise ValueError(f"pictures have shape {tuple(images.shape)}; allowed is [N, C, H, W] with C of 1, 3 or 4")
    count, channels, height, width = images.shape
    if count == 0:
        raise ValueError("there are no pictures to show: N is 0")
    if captions is not None and len(captions) != count:
        raise ValueError(f"{len(captions)} captions for {count} pictures")
    if columns is not None and columns < 1:
        raise ValueError(f"columns {columns} is not above 0")
    across = min(count, columns or math.ceil(math.sqrt(count)))
    zoom = zoom or max(1, round(SEEN / max(height, width)))
    room = _CAPTION if captions else 0
    pixels = (images.detach().float().cpu().nan_to_num(0.0).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    high, wide = height * zoom + room, width * zoom
    down = math.ceil(count / across)
    sheet = np.full((down * (high + gap) - gap, across * (wide + gap) - gap, channels), 128, np.uint8)
    if channels == 4:
        sheet[:] = 0  # gaps are transparent where the pictures can be
    for i in range(count):
        top, left = i // across * (high + gap), i % across * (wide + gap)
        sheet[top : top + high - room, left : left + wide] = pixels[i]
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    if captions:
        _write_captions(picture, captions, across, (wide, high), gap)
    return picture


def _write_captions(picture: Image.Image, captions: list[str], across: int, cell: tuple[int, int], gap: int) -> None:
    from PIL import ImageDraw, ImageFont

    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(10)
    ink, ground = ("white", "#262626") if picture.mode != "L" else (255, 38)
    wide, high = cell
    for i, caption in enumerate(captions):
        line = " ".join(caption.split())
        while line and pen.textlength(line, font) > wide - 2:
            line = line[:-1]
        top, left = i // across * (high + gap) + high - _CAPTION, i % across * (wide + gap)
        pen.rectangle((left, top, left + wide - 1, top + _CAPTION - 1), fill=ground)
        pen.text((left + wide / 2, top + _CAPTION / 2), line, fill=ink, font=font, anchor="mm")


def png(picture: Image.Image, info: dict[str, Any] | None = None) -> bytes:
    """A picture as PNG, with `info` as JSON in the text chunk "parameters", where image viewers look for it."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if info is not None:
        chunks.add_text("parameters", json.dumps(info, sort_keys=True, default=str))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=chunks, optimize=True)
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    """A picture as a data: URI, to stand in a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def check_suffix(field: str, path: Path) -> None:
    """Raises UnknownName: a suffix that samples of this field are not written as."""
    from maquette.recipes import UnknownName

    if path.suffix.lower() not in suffixes(field):
        raise UnknownName(f"suffix for samples of {field}", path.suffix or path.name, suffixes(field))


def suffixes(field: str) -> list[str]:
    """The file suffixes that samples of a field can be written as."""
    own = {"image": [".png", ".npz"], "text": [".txt", ".jsonl"]}
    return [*own.get(field, [".npz"]), ".json"]


def save_samples(
    batch: dict[str, Any], field: str, path: str | Path, info: dict[str, Any] | None = None, columns: int | None = None
) -> Path:
    """Write samples by the path's suffix; the old file, if any, stays until the new one is whole.

    Args:
        batch: what `System.sample` returns: `field`, "code", and what each sample was told, such as "label".
        field: the batch's own field: "image", "text".
        info: recipe, seed, what was asked for; kept inside the file where its format has a place for it.
        columns: of a sheet of pictures; by default about as many as rows.

    Raises:
        ValueError: a suffix that this field is not written as; names those it is, and the nearest.
    """
    from maquette.storage import replace_durably

    path = Path(path)
    check_suffix(field, path)
    writers = {".npz": _as_npz, ".txt": _as_text, ".jsonl": _as_lines, ".json": _as_json}
    suffix = path.suffix.lower()
    data = png(grid(batch[field], columns), info) if suffix == ".png" else writers[suffix](batch, field, info)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, data)
    return path


def _as_npz(batch: dict[str, Any], field: str, info: dict[str, Any] | None) -> bytes:
    """Every column as an array; text as fixed-width unicode, so that nothing needs pickle."""
    import numpy as np

    arrays = {k: v.detach().cpu().numpy() if hasattr(v, "detach") else np.array([str(x) for x in v]) for k, v in batch.items()}
    if info is not None:
        arrays["parameters"] = np.array(json.dumps(info, sort_keys=True, default=str))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _as_text(batch: dict[str, Any], field: str, info: dict[str, Any] | None) -> bytes:
    """One sample as it is; several under a heading each."""
    texts = [str(text) for text in batch[field]]
    if len(texts) == 1:
        return texts[0].encode("utf-8", "replace")
    return "\n".join(f"=== sample {i} ===\n{text}\n" for i, text in enumerate(texts)).encode("utf-8", "replace")


def _rows(batch: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """A dictionary per sample of what it is and what it was told; the code, and pictures it was told, are left out."""
    kept = {k: v for k, v in batch.items() if k == field or (k != "code" and getattr(v, "ndim", 0) < 4)}
    columns = {k: v.tolist() if hasattr(v, "tolist") else list(v) for k, v in kept.items()}
    names = [field, *sorted(set(columns) - {field})]
    return [{name: columns[name][i] for name in names} for i in range(len(columns[field]))]


def _as_lines(batch: dict[str, Any], field: str, info: dict[str, Any] | None) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in _rows(batch, field)).encode()


def _as_json(batch: dict[str, Any], field: str, info: dict[str, Any] | None) -> bytes:
    return (json.dumps({"parameters": info or {}, "samples": _rows(batch, field)}, default=str) + "\n").encode()
