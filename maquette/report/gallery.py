"""Samples as a report shows them: a sheet with a column per class, and pairs of a sample and its nearest training row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maquette.report.pictures import data_uri, grid

if TYPE_CHECKING:
    from torch import Tensor

MOST_COLUMNS, MOST_ROWS = 10, 6
MOST_PIXELS = 96  # a picture in a report is at most this wide


def sheet(images: Tensor, labels: Sequence[int] | None, classes: Sequence[str], name: str, about: str) -> dict[str, Any]:
    """A grid as the template wants it: a column per class where there are labels, gaps and missing pictures transparent.

    Args:
        images: float[N,C,H,W] in 0..1, or uint8 in 0..255.
        about: what the pictures are, for those who cannot see them.
    """
    images = seen(images)
    if labels is not None and len(classes) > 1 and len(labels) == len(images):
        picked, heads = _by_class(images, [int(label) for label in labels], classes)
    else:
        across = min(MOST_COLUMNS, max(1, len(images)))
        picked, heads = images[: across * MOST_ROWS], []
    columns = len(heads) or min(MOST_COLUMNS, len(picked))
    return {"name": name, "heads": heads, "alt": about, **_embedded(picked, columns)}


def strips(run: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Sheets of the strips a run has kept: paths through its latents, styles mixed. The key says what each shows."""
    from maquette.exhibits import STRIP

    found = []
    for key, pictures in run.items():
        if key.startswith(STRIP):
            note = key.removeprefix(STRIP)
            shown = _embedded(seen(pictures.flatten(0, 1)), pictures.shape[1])
            found.append({"name": name, "heads": [], "alt": f"{name}. {note}.", "note": note, **shown})
    return found


def pairs(samples: Tensor | None, nearest: Tensor, most: int = MOST_COLUMNS) -> dict[str, Any] | None:
    """The samples that lie closest to a training row, each above that row, the closest first.

    Args:
        nearest: float[N,2,C,H,W], a sample and its nearest training row; or float[N,C,H,W], the rows of `samples` in order.
    """
    import torch

    if nearest.ndim == 5:
        made, rows = seen(nearest[:, 0]), seen(nearest[:, 1])
    elif samples is not None and nearest.shape == samples[: len(nearest)].shape:
        made, rows = seen(samples[: len(nearest)]), seen(nearest)
    else:
        return None
    if not len(made):
        return None
    apart = (made - rows).flatten(1).norm(dim=1)
    order = apart.argsort(stable=True)[:most]
    alt = f"Above, the {len(order)} samples closest to a training row; below each, that row."
    return {
        "alt": alt,
        "shown": len(order),
        "of": f"{len(made):,}",
        "same": int((apart == 0).sum()),
        **_embedded(torch.cat([made[order], rows[order]]), len(order)),
    }


def seen(images: Tensor) -> Tensor:
    """Pictures as RGBA floats of a size a page can carry: float[N,4,H,W]."""
    import torch
    from torch.nn import functional

    images = torch.as_tensor(images)
    images = images.float() if images.is_floating_point() else images.float() / 255
    images = images.nan_to_num(0.0).clamp(0, 1)
    if images.shape[1] not in (3, 4):
        images = images[:, :1].expand(-1, 3, -1, -1)
    if max(images.shape[2:]) > MOST_PIXELS and len(images):
        scale = MOST_PIXELS / max(images.shape[2:])
        images = functional.interpolate(images, [max(1, round(side * scale)) for side in images.shape[2:]], mode="area")
    return images if images.shape[1] == 4 else torch.cat([images, torch.ones_like(images[:, :1])], 1)


def _by_class(images: Tensor, labels: list[int], classes: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The first pictures of each class in columns; the commonest classes where there are too many."""
    import torch

    places: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        places.setdefault(label, []).append(i)
    known = [label for label in range(len(classes)) if label in places or len(classes) <= MOST_COLUMNS]
    shown = sorted(sorted(known, key=lambda label: -len(places.get(label, [])))[:MOST_COLUMNS])
    rows = min(MOST_ROWS, max(len(places.get(label, [])) for label in shown))
    blank = torch.zeros_like(images[:1])
    cells = [images[at : at + 1] if (at := _at(places, label, row)) >= 0 else blank for row in range(rows) for label in shown]
    return torch.cat(cells), [str(classes[label]) for label in shown]


def _at(places: dict[int, list[int]], label: int, row: int) -> int:
    found = places.get(label, [])
    return found[row] if row < len(found) else -1


def _embedded(images: Tensor, columns: int) -> dict[str, Any]:
    zoom = max(1, round(80 / max(images.shape[2:])))
    picture = grid(images, columns=columns, zoom=zoom, gap=max(1, zoom // 3))
    return {"uri": data_uri(picture), "width": picture.width, "height": picture.height, "columns": columns}
