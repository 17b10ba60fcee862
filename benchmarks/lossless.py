"""Lossless coding: held-out pictures and text through a model's own bits, beside PNG, WebP, xz and bz2.

    python benchmarks/lossless.py [--runs digits-0,glyphs1-0,stdlib-0] [--keep FOLDER] [--budget 60]

A run is named by its data and its seed, and trained by `maquette train` in a process of its own on one thread, unless
FOLDER has it; its held-out part is packed and unpacked, and what comes out is compared byte for byte.
Writes benchmarks/DATE-lossless.md and .json; what another call of the day wrote of other runs stays.
"""

from __future__ import annotations

import argparse
import bz2
import io
import json
import lzma
import math
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maquette import api, lossless, parcel
from maquette.runs import versions

MODELS = {
    "digits": ["pixelcnn"],
    "glyphs1": ["pixelcnn", "--data", "glyphs1", "--depth", "4", "--sight", "6", "--dropout", "0.1", "--batch", "16"],
    "stdlib": ["gpt"],
}
JPEG_XL = {"digits": 2.45, "glyphs1": 0.116}  # bits/dim of cjxl -d 0 -e 9 on one mosaic, measured before this project
TEXT = 60_000  # bytes of held-out code, from its beginning


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--runs", default=",".join(f"{data}-{seed}" for data in MODELS for seed in (0, 1)))
    asked.add_argument("--keep", default="", help="keep the runs in this folder")
    asked.add_argument("--budget", default="60", help="CPU-seconds of training each")
    given = asked.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.keep or tempfile.mkdtemp(prefix="maquette-bench-"))
    found = []
    for name in given.runs.split(","):
        data, _, seed = name.partition("-")
        place = folder / name
        if not (place / "run.json").exists():
            words = [*MODELS[data], "--seed", seed, "--budget", f"{given.budget}s", "--out", str(place), "--threads", "1", "-q"]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, "-m", "maquette", "train", *words], check=True, env=env)
        run = api.load(place, device="cpu")
        found.append({"data": data, "seed": int(seed), **(text if data == "stdlib" else pictures)(run, data)})
        print(json.dumps(found[-1]), flush=True)
    path = Path(__file__).parent / f"{date.today()}-lossless.md"
    kept = json.loads(path.with_suffix(".json").read_text()) if path.with_suffix(".json").exists() else []
    rows = {(row["data"], row["seed"]): row for row in [*kept, *found]}
    found = [rows[key] for key in sorted(rows)]
    path.write_text(table(found) + "\n")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def there_and_back(run: api.Loaded, code: torch.Tensor, told: Any) -> dict[str, Any]:
    """Pack and unpack; what came out is what went in, or this fails."""
    began = time.process_time()
    packed = lossless.pack(run.system, code, told)
    middle = time.process_time()
    back, about = lossless.unpack(run.system, packed.data)
    assert torch.equal(back, code), "not lossless"
    assert not told or all(torch.equal(about[k], told[k]) for k in about)
    seconds = {"pack seconds": round(middle - began, 1), "unpack seconds": round(time.process_time() - middle, 1)}
    trained = {"trained seconds": round(run.progress.seconds), "steps": run.progress.step}
    trained["commit"] = str(run.trained.record["versions"]["git"])[:8]
    return {"bytes": len(packed.data), "model bits": packed.bits, **seconds, **trained}


def pictures(run: api.Loaded, data: str) -> dict[str, Any]:
    """All held-out pictures with their labels in one file; and one mosaic of them as PNG and WebP."""
    held = run.data.held.all()
    told = {"label": held["label"]}
    found = there_and_back(run, run.system.encode(held), told)
    dims = math.prod(held["image"].shape)
    score = {"per": "bits/dim", "size": dims, "rate": found["bytes"] * 8 / dims, "JPEG XL": JPEG_XL[data]}
    return {**found, **score, **{k: v * 8 / dims for k, v in mosaics(held["image"], run.facts.levels).items()}}


def mosaics(images: torch.Tensor, levels: int) -> dict[str, int]:
    """Bytes of all pictures side by side as PNG (of the fewest bits per pixel that hold the levels) and lossless WebP."""
    from PIL import Image

    count, _, height, width = images.shape
    across = math.isqrt(count)
    down = -(-count // across)
    sheet = np.zeros((down * across, height, width), np.uint8)
    sheet[:count] = (images[:, 0] * (levels - 1)).round().byte().numpy()
    flat = sheet.reshape(down, across, height, width).transpose(0, 2, 1, 3).reshape(down * height, across * width)
    plain = Image.fromarray(flat * (255 // (levels - 1)))
    options: dict[str, Any] = {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100, "method": 6}}
    sizes = {}
    for name, how in options.items():
        buffer = io.BytesIO()
        (plain.convert("1") if levels == 2 and name == "PNG" else plain).save(buffer, name, **how)
        sizes[name] = len(buffer.getvalue())
    return sizes


def text(run: api.Loaded, data: str) -> dict[str, Any]:
    """The beginning of the held-out code as one file, as `maquette compress` does it; and the same bytes by xz and bz2."""
    raw = "\n".join(run.data.held.documents).encode()[:TEXT].decode(errors="ignore").encode()  # type: ignore[attr-defined]
    with tempfile.NamedTemporaryFile(suffix=".py") as file:
        Path(file.name).write_bytes(raw)
        code, _ = parcel.fold(Path(file.name), run.facts, run.system.codec)
        found = there_and_back(run, code, None)
        parcel.unfold(code, {}, run.facts, run.system.codec, Path(file.name))
        assert Path(file.name).read_bytes() == raw, "not lossless"
    rivals = {"xz": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME), "bz2": bz2.compress(raw)}
    sizes = {name: len(packed) * 8 / len(raw) for name, packed in rivals.items()}
    return {**found, "per": "bits/byte", "size": len(raw), "rate": found["bytes"] * 8 / len(raw), **sizes}


def table(found: list[dict[str, Any]]) -> str:
    """A row per run."""
    rivals = ["PNG", "WebP", "JPEG XL", "xz", "bz2"]
    heads = ["held-out data", "seed", "CPU-s", "file", "rate", "model's bits", "file / model", *rivals, "pack, unpack CPU-s"]
    commits = list(dict.fromkeys(row["commit"] for row in found))
    lines = [
        f"# Lossless coding, {date.today()}",
        "",
        "`python benchmarks/lossless.py`, one thread, torch " + versions()["torch"] + f", trained at {', '.join(commits)}.",
        "Every file was unpacked and compared: byte for byte the same. The rate counts the whole file, header and labels",
        "included, but not the model (nor JPEG XL's program). PNG and WebP hold one mosaic of the same pictures, by Pillow;",
        "JPEG XL's figures are `cjxl -e 9` on such a mosaic, measured before this project.",
        f"Text is the first {TEXT:,} bytes of held-out code: other bytes than those of the language benchmarks.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in found:
        others = [f"{row[name]:.3f}" if name in row else "-" for name in rivals]
        cells = [f"{row['data']}, {row['size']:,} {row['per'].split('/')[1]}s", str(row["seed"]), str(row["trained seconds"])]
        cells += [f"{row['bytes']:,} bytes", f"**{row['rate']:.4f}** {row['per']}", f"{row['model bits']:,.0f}"]
        cells += [f"{row['bytes'] * 8 / row['model bits']:.4f}", *others, f"{row['pack seconds']}, {row['unpack seconds']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
