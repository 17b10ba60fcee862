"""Can samples stand in for real rows, and do they show what they were asked to? GAN-train and GAN-test (Shmelkov 2018).

Knows a classifier of images. Tiny images: a support vector machine on pixels; larger: the small convnet of features.py.
"""

from __future__ import annotations

import numpy as np

from maquette.metrics import features
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import proportion

MEANINGS = {
    "GAN-train": "Accuracy on held-out rows of a classifier trained on samples alone: falls when they are wrong or lack variety.",
    "GAN-test": "Accuracy on samples of a classifier trained on real rows: do they show the label asked for? A memoriser gets 1.",
}


def applies(evidence: Evidence) -> str:
    if not evidence.pictures:
        return "the data are not images"
    if not evidence.labelled:
        return "the data have no labels"
    return "" if evidence.told else "the samples were not drawn for a label"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Both accuracies with Wilson's interval over the rows they are tested on."""
    judge = "svm-rbf-C10" if max(evidence.facts.shape[1:]) <= features.TINY else "convnet64"
    n, rows = evidence.n, len(evidence.held["image"])
    real_rows = len(evidence.train["image"])
    learned = int((reads(evidence, "samples", "held", judge) == evidence.labels("held")).sum())
    obeyed = int((reads(evidence, "train", "samples", judge) == evidence.labels("samples")).sum())
    options = (("judge", judge), ("interval", "Wilson"))
    trained = (("judge", f"{judge} on {real_rows} training rows"), ("interval", "Wilson"))
    train, test, sign = proportion(learned, rows), proportion(obeyed, n), evidence.estimate
    return {
        "GAN-train": sign("GAN-train", train, rows, better="higher", samples=n, rows=rows, options=options),
        "GAN-test": sign("GAN-test", test, n, better="higher", samples=n, options=trained),
    }


def reads(evidence: Evidence, source: str, target: str, judge: str) -> np.ndarray:
    """Labels that a classifier trained on one split gives to another's images."""
    labels = evidence.labels(source)
    if len(np.unique(labels)) < 2:  # nothing to tell apart
        return np.full(len(evidence.rows(target)), labels[0])
    if judge != "convnet64":
        from sklearn.svm import SVC

        return SVC(C=10).fit(evidence.rows(source), labels).predict(evidence.rows(target))
    if source == "train":
        net = evidence.network
    else:
        with features.seeded(0):
            net = features.Convnet(evidence.facts.shape, len(evidence.facts.classes))
            features.teach(net, evidence.samples["image"], evidence.samples["label"], steps=500)
    return features.apply(lambda x: net.head(net(x)), getattr(evidence, target)["image"]).argmax(1)  # type: ignore[operator]
