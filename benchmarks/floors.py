"""What a generator must beat: simple densities, a memoriser and compressors on the same split, under the same metrics.

    python benchmarks/floors.py [--out benchmarks/YYYY-MM-DD-floors.md] [--no-text]

Writes a dated markdown table. Knows no model of maquette's.
"""

from __future__ import annotations

import argparse
import bz2
import datetime
import io
import json
import lzma
import math
import platform
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from maquette.data import Data, open_data
from maquette.evaluate import judge
from maquette.metrics.evidence import Evidence

SEVEN_ZIP = shutil.which("7z") or shutil.which("7zz") or ""
Rows = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
COLUMNS = [
    "FD-mlp128-64", "precision", "recall", "density", "coverage",
    "C2ST forest", "C2ST convnet", "GAN-train", "GAN-test", "NN distance", "copies",
]  # fmt: skip


# -- generators: (training rows of one class [N,64] in 0..1, how many, rng) -> samples [n,64] ----------------------------


def gaussian(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """One Gaussian, full covariance, a hundredth of its mean variance added to the diagonal."""
    cov = np.cov(rows.T) + 0.01 * rows.var(0).mean() * np.eye(rows.shape[1])
    return rng.multivariate_normal(rows.mean(0), cov, n)


def mixture(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Eight diagonal Gaussians, by expectation maximisation."""
    from sklearn.mixture import GaussianMixture

    seed = int(rng.integers(1 << 31))
    return GaussianMixture(8, covariance_type="diag", reg_covar=1e-3, random_state=seed).fit(rows).sample(n)[0]


def kernels(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """A kernel density in the first 24 principal components, bandwidth by Scott's rule."""
    from sklearn.decomposition import PCA

    pca = PCA(24, random_state=0).fit(rows)
    code = pca.transform(rows)
    width = len(rows) ** (-1 / (24 + 4)) * code.std(0).mean()
    picked = code[rng.integers(len(rows), size=n)]
    return pca.inverse_transform(picked + width * rng.normal(size=picked.shape))


def pixels(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Every pixel drawn on its own from the class's training values."""
    return np.stack([column[rng.integers(len(rows), size=n)] for column in rows.T], 1)


def memory(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Training rows with noise of .05: the copier that any honest table must expose."""
    return rows[:n] + 0.05 * rng.normal(size=rows[:n].shape)


def training(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The training rows themselves."""
    return rows[:n]


def uniform(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform noise."""
    return rng.random((n, rows.shape[1]))


GENERATORS: dict[str, Draw] = {
    "real train": training,
    "full Gaussian per class": gaussian,
    "GMM-8 diagonal per class": mixture,
    "KDE in PCA-24 per class": kernels,
    "independent pixels per class": pixels,
    "train + noise (memoriser)": memory,
    "uniform noise": uniform,
}


def drawn(data: Data, draw: Draw, seed: int) -> Evidence:
    """Evidence of a per-class generator with the training labels' numbers."""
    train = data.train.all()
    rows, labels = train["image"].flatten(1).double().numpy(), train["label"].numpy()
    rng = np.random.default_rng(seed)
    parts = [draw(rows[labels == c], int((labels == c).sum()), rng) for c in np.unique(labels)]
    images = torch.from_numpy(np.concatenate(parts)).float().reshape(-1, *data.facts.shape)
    told = torch.from_numpy(np.repeat(np.unique(labels), [len(part) for part in parts]))
    return Evidence(data, samples={"image": images, "label": told}, seed=seed)


def sample_table(data: Data, seeds: int) -> list[str]:
    """A row per generator; the mean over `seeds` draws and, in brackets, half their range."""
    lines = ["| generator | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    signatures: dict[str, str] = {}
    real = ""
    for name, draw in GENERATORS.items():
        repeats = 1 if draw is training else seeds
        found = [judge(drawn(data, draw, seed))["metrics"] for seed in range(repeats)]
        cells = []
        for column in COLUMNS:
            values = [f[column].value for f in found]
            spread = f" ±{(max(values) - min(values)) / 2:.2g}" if repeats > 1 else ""
            cells.append(f"{np.mean(values):.3g}{spread}")
            signatures.setdefault(column, str(found[0][column].signature))
        if not real:
            estimate = found[0]["NN distance (real)"]
            real = f"| real held-out rows | {' | '.join('-' for _ in COLUMNS[:-2])} | {estimate.value:.3g} | .01 |"
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    lines.insert(3, real)
    return [*lines, "", "Signatures (seed 0):", "", *(f"- `{line}`" for line in signatures.values())]


# -- bits per dimension ---------------------------------------------------------------------------------------------------


def regression_bits(train: Rows, held: Rows, given_label: bool, penalty: float = 1.0, squares: bool = True) -> float:
    """Raster-order autoregressive logistic regression: a 17-way softmax per pixel on all pixels before it.

    Each earlier pixel enters as its value and, with `squares`, its square. The penalty was chosen on the last 287 training
    rows, from .1, .3, 1, 3, 10, 30 and 100.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = train
    z, w = held
    top = 16
    total = 0.0

    def inputs(rows: np.ndarray, labels: np.ndarray, at: int) -> np.ndarray:
        before = rows[:, :at] / top
        told = np.eye(10)[labels] if given_label else np.zeros((len(rows), 0))
        return np.concatenate([np.ones((len(rows), 1)), before, *([before**2] if squares else []), told], 1)

    for at in range(x.shape[1]):
        seen = np.unique(x[:, at])
        chance = np.full((len(z), top + 1), 0.0)
        if len(seen) > 1:
            fit = LogisticRegression(C=1 / penalty, max_iter=100).fit(inputs(x, y, at), x[:, at])
            chance[:, seen] = fit.predict_proba(inputs(z, w, at))
        else:
            chance[:, seen] = 1.0
        mixed = 0.98 * chance + 0.02 / (top + 1)  # values never seen at this pixel must cost something finite
        total -= np.log2(mixed[np.arange(len(z)), z[:, at]]).sum()
    return total / z.size


def mosaic(rows: np.ndarray) -> np.ndarray:
    """uint8[N,64] images side by side in one picture, 20 to a line."""
    side = math.isqrt(rows.shape[1])
    return rows.reshape(-1, 20, side, side).transpose(0, 2, 1, 3).reshape(-1, 20 * side)


def density_table(data: Data) -> list[str]:
    """Bits per dimension of the held-out digits under compressors and regressions."""
    from PIL import Image

    splits = [split.all() for split in (data.train, data.held)]
    (x, y), (z, w) = [((b["image"].flatten(1) * 16).round().byte().numpy(), b["label"].numpy()) for b in splits]
    picture = mosaic(z)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    raw = picture.tobytes()
    marginal = -np.log2(np.bincount(x.ravel(), minlength=17) / x.size)[z].mean()
    began = time.process_time()
    linear = regression_bits((x, y), (z, w), False, squares=False)
    plain = regression_bits((x, y), (z, w), False)
    labelled = regression_bits((x, y), (z, w), True)
    rows = {
        "log2 17 (uniform)": math.log2(17),
        "order 0 (training frequencies of the grey levels)": float(marginal),
        "PNG, one mosaic": 8 * buffer.tell() / z.size,
        "zlib -9, one mosaic": 8 * len(zlib.compress(raw, 9)) / z.size,
        "xz -9e, one mosaic": 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / z.size,
        "autoregressive logistic regression, linear inputs, label unknown": linear,
        "autoregressive logistic regression, label unknown": plain,
        "autoregressive logistic regression, given the label": labelled,
    }
    print(f"regressions took {time.process_time() - began:.0f} CPU-s", flush=True)
    return ["| coder | bits/dim |", "|---|---|", *(f"| {name} | {bits:.3f} |" for name, bits in rows.items())]


# -- bits per byte --------------------------------------------------------------------------------------------------------


def after(compress: Callable[[bytes], int], seen: bytes, text: bytes) -> int:
    """Bytes that `text` adds to what a compressor needs once it has seen `seen`."""
    return compress(seen + text) - compress(seen)


def xz(raw: bytes) -> int:
    """Bytes under xz with a window that spans the whole training text."""
    window = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}
    return len(lzma.compress(raw, lzma.FORMAT_XZ, filters=[window]))


def seven_zip(raw: bytes) -> int:
    """Bytes under 7-Zip's own PPMd, order 24, 1 GB: where it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text"
        source.write_bytes(raw)
        how = ["-m0=PPMd:o=24:mem=1g", "-bso0", "-bsp0"]
        subprocess.run([SEVEN_ZIP, "a", *how, f"{folder}/out.7z", str(source)], check=True, capture_output=True)
        return (Path(folder) / "out.7z").stat().st_size


def ppmd(raw: bytes) -> int:
    """Bytes under PPMd variant H as pyppmd has it, order 24, 1 GB. 7-Zip's comes to other figures: both are printed."""
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(24, 1 << 30)
    return len(encoder.encode(raw)) + len(encoder.flush())


def text_floors(name: str) -> tuple[dict[str, float], str]:
    """Bits per byte of a corpus's held-out part by compressor, and a line that says what was compressed."""
    data = open_data(name)
    train, held = ("\n".join(split.columns["text"]).encode() for split in (data.train, data.held))
    sizes: dict[str, Callable[[], int]] = {
        "zlib -9": lambda: len(zlib.compress(held, 9)),
        "bz2 -9": lambda: len(bz2.compress(held, 9)),
        "xz -9e": lambda: xz(held),
        "xz -9e given train": lambda: after(xz, train, held),
        "PPMd o24": lambda: ppmd(held),
        "PPMd o24 given train": lambda: after(ppmd, train, held),
    }
    if SEVEN_ZIP:
        sizes |= {"PPMd o24 (7-Zip)": lambda: seven_zip(held)}
        sizes |= {"PPMd o24 (7-Zip) given train": lambda: after(seven_zip, train, held)}
    rows = {}
    for label, size in sizes.items():
        rows[label] = 8 * size() / len(held)
        print(f"{label} {rows[label]:.3f}", flush=True)
    return rows, f"`{name}`: train {len(train):,} bytes, held out {len(held):,} bytes, data {data.facts.hash[:12]}"


def main() -> None:
    """Measure all floors and write the dated file."""
    today = datetime.date.today().isoformat()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / f"{today}-floors.md")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-text", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = open_data("digits")
    machine = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread"
    lines = [f"# Floors, {today}", "", f"`python benchmarks/floors.py --seeds {asked.seeds}` on {machine}.", ""]
    lines += [f"## Samples: digits, data {data.facts.hash[:12]}, {data.facts.split}", ""]
    lines += [f"Mean over {asked.seeds} draws, ± half their range. NN distance of real held-out rows is the mark, not 0.", ""]
    lines += [*sample_table(data, asked.seeds), "", "## Bits per dimension: the 360 held-out digits", "", *density_table(data)]
    if not asked.no_text:
        rows, told = text_floors("stdlib")
        lines += ["", "## Bits per byte", "", told, "", "| coder | bits/byte |", "|---|---|"]
        lines += [f"| {label} | {bits:.3f} |" for label, bits in rows.items()]
        asked.out.with_suffix(".json").write_text(json.dumps({"stdlib": rows}, indent=1) + "\n", encoding="utf-8")
    asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("wrote", asked.out)


if __name__ == "__main__":
    main()
