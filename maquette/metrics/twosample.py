"""Can a classifier tell samples from held-out rows? Area under its ROC curve (Lopez-Paz & Oquab 2017): .5 cannot, 1 always can.

Two classifiers, since each is blind to something: a random forest mostly sees single pixels, a small convnet sees strokes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from maquette.metrics import features
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import area

FOLDS, TREES, MOST = 5, 200, 500  # MOST: rows a side, which bounds the time on larger images
EPOCHS = 16  # of the convnet, over the other folds
MEANINGS = {
    "C2ST forest": "How well a random forest tells samples from held-out rows, cross-validated: .5 is a coin toss (best), 1 is "
    "always. It mostly sees single pixels.",
    "C2ST convnet": "The same question put to a small convolutional network, which sees strokes and edges.",
}


def applies(evidence: Evidence) -> str:
    if not evidence.pictures:
        return "the data are not images"
    return "" if evidence.facts.rows.get("held", 0) >= 4 * FOLDS else f"needs at least {4 * FOLDS} held-out rows"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Two AUCs on equally many held-out rows and samples, with DeLong's interval.

    Samples are on the data's grey levels already (evidence.py): finer values alone would give them away.
    """
    size = min(len(evidence.held["image"]), evidence.n, MOST)
    real = evidence.held["image"][evidence.some("held", size)]
    made = evidence.samples["image"][evidence.some("samples", size)]
    images, which = torch.cat([real, made]), np.repeat([0, 1], size)
    options = (("folds", str(FOLDS)), ("interval", "DeLong"))
    found = {}
    for name, judge in {"C2ST forest": forest, "C2ST convnet": convnet}.items():
        scores = crossed(judge, images, which, evidence.seed)
        auc = area(scores[which == 0], scores[which == 1])
        found[name] = evidence.estimate(name, auc, 2 * size, samples=size, rows=size, options=options)
    return found


Judge = Callable[[torch.Tensor, np.ndarray, torch.Tensor, int], np.ndarray]


def crossed(judge: Judge, images: torch.Tensor, which: np.ndarray, seed: int) -> np.ndarray:
    """Each row's score for being a sample, by a judge that was trained on the other folds: float64[N]."""
    from sklearn.model_selection import StratifiedKFold

    scores = np.empty(len(which))
    for rest, fold in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(which, which):
        scores[fold] = judge(images[rest], which[rest], images[fold], seed)
    return scores


def forest(images: torch.Tensor, which: np.ndarray, asked: torch.Tensor, seed: int) -> np.ndarray:
    """A random forest's share of votes for "sample"."""
    from sklearn.ensemble import RandomForestClassifier

    judge = RandomForestClassifier(TREES, random_state=seed).fit(images.flatten(1).numpy(), which)
    return judge.predict_proba(asked.flatten(1).numpy())[:, 1]


def convnet(images: torch.Tensor, which: np.ndarray, asked: torch.Tensor, seed: int) -> np.ndarray:
    """The small convnet's logit for "sample"."""
    with features.seeded(seed):
        net = features.Convnet(tuple(images.shape[1:]), 2)
        features.teach(net, images, torch.from_numpy(which), steps=EPOCHS * len(images) // 64, seed=seed)
    logits = features.apply(lambda x: net.head(net(x)), asked)
    return logits[:, 1] - logits[:, 0]
