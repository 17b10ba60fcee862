"""Built-in images that people made. Knows where scikit-learn keeps its digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from maquette.data.core import Column, Data, Facts, image_data


def digits() -> Data:
    """1,797 handwritten digits, 8x8, 17 grey levels: scikit-learn's copy of the UCI test set."""
    pixels, label = _digits()
    train, held = stratified(label, 360)
    columns: dict[str, dict[str, Column]] = {
        part: {"image": torch.from_numpy(pixels[rows]), "label": torch.from_numpy(label[rows])}
        for part, rows in (("train", train), ("held", held))
    }
    about = Facts(
        name="digits",
        field="image",
        kind="real",
        licence="CC BY 4.0",
        attribution="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository",
        hash="",
        rows={},
        levels=17,
        classes=tuple("0123456789"),
        split="stratified by label, 1,437 / 360, random_state 0",
    )
    return image_data(about, columns)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8[1797,1,8,8] in 0..16 and int64[1797]. The file is read itself: importing scikit-learn takes 1.4 s."""
    found = importlib.util.find_spec("sklearn")
    places = (found.submodule_search_locations if found else None) or []
    for place in places:
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
            return table[:, :64].reshape(-1, 1, 8, 8).copy(), table[:, 64].astype(np.int64)
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return loaded.images.astype(np.uint8)[:, None], loaded.target.astype(np.int64)


def stratified(label: np.ndarray, held: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions of scikit-learn's `train_test_split(test_size=held, stratify=label, random_state=seed)`.

    Written out so that the split, which every published figure rests on, needs no import and never moves.
    """
    rng = np.random.RandomState(seed)
    counts = np.bincount(label)
    kept = _quota(counts, len(label) - held, rng)
    given = _quota(counts - kept, held, rng)
    train, test = [], []
    for kind, count in enumerate(counts):
        rows = np.flatnonzero(label == kind)[rng.permutation(count)]
        train.append(rows[: kept[kind]])
        test.append(rows[kept[kind] : kept[kind] + given[kind]])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def _quota(counts: np.ndarray, draws: int, rng: np.random.RandomState) -> np.ndarray:
    """How many of each class `draws` rows should hold: shares rounded down, the largest remainders rounded up."""
    exact = counts / counts.sum() * draws
    quota = np.floor(exact)
    missing = int(draws - quota.sum())
    for remainder in np.sort(np.unique(exact - quota))[::-1]:
        if missing == 0:
            break
        tied = np.flatnonzero(exact - np.floor(exact) == remainder)
        take = min(len(tied), missing)
        quota[rng.choice(tied, size=take, replace=False)] += 1
        missing -= take
    return quota.astype(int)
