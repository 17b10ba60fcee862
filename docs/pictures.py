"""Makes docs/pictures/ from finished runs: a sheet per recipe and its first strip; with --page also one of all beside real rows.

python docs/pictures.py FOLDER [--page]     where FOLDER/RECIPE*/samples/eval.npz are (benchmarks/bands.py --keep, or runs/demo)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from maquette import exhibits
from maquette.report.pictures import grid
from maquette.runs import Run

OUT = Path(__file__).parent / "pictures"


def column_per_class(found: dict[str, Any], images: str, labels: str, rows: int) -> torch.Tensor:
    """`rows` rows of images, a column per class, as one sheet's tensor."""
    told = torch.tensor(found[labels])
    classes = sorted(set(told.tolist()))
    places = [(told == label).nonzero().flatten()[:rows] for label in classes]
    return torch.stack([found[images][place[row]] for row in range(rows) for place in places])


def save(lines: torch.Tensor, path: Path) -> None:
    """Pictures [lines,columns,C,H,W] as one PNG."""
    zoom = 4 if max(lines.shape[3:]) < 16 else 2
    grid(lines.flatten(0, 1), columns=lines.shape[1], zoom=zoom).save(path, optimize=True)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/eval.json"))
    sheets: dict[str, Image.Image] = {}
    done: set[str] = set()
    for folder in folders:
        recipe = Run.open(folder).record["recipe"]
        found = exhibits.read(folder / "samples" / "eval.npz")
        if recipe in done:
            continue
        done.add(recipe)
        strips = {key: lines for key, lines in found.items() if key.startswith(exhibits.STRIP)}
        turned = next((lines for key, lines in strips.items() if "sources" in key), None)
        if turned is not None:
            save(turned, OUT / f"{recipe}.png")
            continue
        for lines in list(strips.values())[:1]:
            save(lines, OUT / f"{recipe}-strip.png")
        if "labels" not in found:
            if "real" in found:  # what makes nothing out of nothing: what went in above what came out
                save(torch.stack([found["real"][:20:2], found["samples"][:20:2]]), OUT / f"{recipe}.png")
            continue
        columns = len(set(found["labels"]))
        zoom = 4 if max(found["samples"].shape[2:]) < 16 else 2
        whole = column_per_class(found, "samples", "labels", 6)
        grid(whole, columns=columns, zoom=zoom).save(OUT / f"{recipe}.png", optimize=True)
        sheets.setdefault("real", grid(column_per_class(found, "real", "real_labels", 3), columns=columns, zoom=4))
        sheets[recipe] = grid(column_per_class(found, "samples", "labels", 3), columns=columns, zoom=4)
    print(f"{len(done)} systems in {OUT}")
    if "--page" in sys.argv:
        page(sheets)


def page(sheets: dict[str, Image.Image]) -> None:
    """All sheets, which must be of one size, under their names."""
    wide, high = next(iter(sheets.values())).size
    across = 2 if len(sheets) % 2 == 0 else 3
    down = -(-len(sheets) // across)
    pad, text = 16, 22
    drawn = Image.new("RGB", (across * (wide + pad) + pad, down * (high + pad + text) + pad), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=15)
    for number, (name, sheet) in enumerate(sheets.items()):
        x, y = pad + (number % across) * (wide + pad), pad + (number // across) * (high + pad + text)
        draw.text((x, y), "real, held out" if name == "real" else name, fill="black", font=font)
        drawn.paste(sheet, (x, y + text))
    drawn.save(OUT / "demo.png", optimize=True)


if __name__ == "__main__":
    main()
