"""Corpora that need no download: they come with the packages maquette installs, or with Python itself."""

from __future__ import annotations

import numpy as np
import torch

from maquette.data.core import Data, Facts, Split, fingerprint


def images(name: str, columns: dict[str, dict], levels: int, classes: tuple[str, ...], **facts) -> Data:
    """Data of labelled images from columns per split."""
    train = columns["train"]
    shares = torch.bincount(train["label"], minlength=len(classes)).double() / len(train["label"]) if classes else torch.zeros(0)
    facts = Facts(
        name=name,
        field="image",
        hash=fingerprint(columns),
        rows={k: len(v["image"]) for k, v in columns.items()},
        shape=tuple(train["image"].shape[1:]),
        levels=levels,
        classes=classes,
        shares=tuple(shares.tolist()),
        **facts,
    )
    return Data(facts, lambda: {k: Split(v, levels) for k, v in columns.items()})


def digits() -> Data:
    """1,797 handwritten digits, 8x8, 17 grey levels: scikit-learn's copy of the UCI test set. Split 1,437 / 360."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    pixels, label = found.images.astype(np.uint8)[:, None], found.target.astype(np.int64)
    parts = train_test_split(pixels, label, test_size=360, stratify=label, random_state=0)
    parts = [torch.from_numpy(np.ascontiguousarray(part)) for part in parts]
    columns = {"train": {"image": parts[0], "label": parts[2]}, "held": {"image": parts[1], "label": parts[3]}}
    return images(
        "digits",
        columns,
        levels=17,
        classes=tuple("0123456789"),
        kind="real",
        licence="CC BY 4.0",
        attribution="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository",
        split="stratified by label, 1,437 / 360, random_state 0",
    )
