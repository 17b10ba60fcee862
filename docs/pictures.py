"""Makes docs/pictures/ from finished runs: a sheet per recipe, and one of all beside real rows.

python docs/pictures.py FOLDER     where FOLDER/RECIPE*/samples/eval.npz are (benchmarks/digits.py --keep, or runs/demo)
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


def main() -> None:
    OUT.mkdir(exist_ok=True)
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/eval.json"))
    sheets: dict[str, Image.Image] = {}
    for folder in folders:
        recipe = Run.open(folder).record["recipe"]
        found = exhibits.read(folder / "samples" / "eval.npz")
        if recipe in sheets or "labels" not in found:
            continue
        columns = len(set(found["labels"]))
        grid(column_per_class(found, "samples", "labels", 6), columns=columns, zoom=4).save(OUT / f"{recipe}.png", optimize=True)
        sheets.setdefault("real", grid(column_per_class(found, "real", "real_labels", 3), columns=columns, zoom=4))
        sheets[recipe] = grid(column_per_class(found, "samples", "labels", 3), columns=columns, zoom=4)
    wide, high = next(iter(sheets.values())).size
    across = 2 if len(sheets) % 2 == 0 else 3
    down = -(-len(sheets) // across)
    pad, text = 16, 22
    page = Image.new("RGB", (across * (wide + pad) + pad, down * (high + pad + text) + pad), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    for number, (name, sheet) in enumerate(sheets.items()):
        x, y = pad + (number % across) * (wide + pad), pad + (number // across) * (high + pad + text)
        draw.text((x, y), "real, held out" if name == "real" else name, fill="black", font=font)
        page.paste(sheet, (x, y + text))
    page.save(OUT / "demo.png", optimize=True)
    print(f"{len(sheets)} sheets in {OUT}")


if __name__ == "__main__":
    main()
