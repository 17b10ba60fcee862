"""What any model must beat on a data set: its training rows, a Gaussian, independent pixels; for text, a compressor; for texts
that are made from others, these others themselves, what was made of the most similar training one, and, to find the one by the
other, the words that both share; for programs that are run, n-grams, and the most similar training program.

Knows the metrics through `judge`, no recipe and no system. A model that does not beat these has learnt nothing worth showing.
"""

from __future__ import annotations

import lzma
import math
import random
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maquette.data import Data
from maquette.evaluate import choose, judge
from maquette.metrics import retrieval
from maquette.metrics.bm25 import BM25
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import MOST, Evidence
from maquette.metrics.ngrams import NGrams
from maquette.sandbox import Uncontained
from maquette.streams import Streams

WRITTEN = ["exact", "translation", "summary"]  # metrics of texts made from others
MOST_PIECES = 200  # of a program that is counted together
Draw = Callable[[Tensor, Streams], Tensor]  # training rows of one class float[N,D] in 0..1 -> as many samples


def copies(rows: Tensor, rng: Streams) -> Tensor:
    """The rows themselves: the best Frechet distance to be had, and the worst copying."""
    return rows


def gaussian(rows: Tensor, rng: Streams) -> Tensor:
    """A Gaussian with the rows' own mean and covariance, drawn without ever forming the covariance."""
    mean = rows.mean(0)
    return mean + rng.normal(len(rows)) @ (rows - mean) / math.sqrt(max(1, len(rows) - 1))


def independent(rows: Tensor, rng: Streams) -> Tensor:
    """Every pixel from its own training values, whatever the others are."""
    return rows.gather(0, rng.integers(len(rows), rows.shape[1]))


DRAWS: dict[str, Draw] = {"training rows": copies, "Gaussian": gaussian, "independent pixels": independent}


def judge_baselines(data: Data, seed: int = 0, executes: bool = False) -> dict[str, dict[str, dict[str, Any]]]:
    """Baseline -> figure -> its Estimate as a dictionary: what `judge` says of each, and the bits that trivial coders need.

    Args:
        executes: whether programs that baselines write may be run, walled in.
    """
    if data.facts.field == "text":
        return {
            "xz given the training text": {"bits/byte": compressed(data)},
            **({**written(data, seed), "BM25": sought(data, seed)} if data.facts.sources else {}),
            **(programmed(data, seed) if executes else {}),
        }
    if data.facts.field != "image":
        return {}
    found = {}
    for name, draw in DRAWS.items():
        found[name] = _plain(judge(drawn(data, draw, seed))["metrics"])
    found["independent pixels"] |= pixel_bits(data)
    return found


def written(data: Data, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """Texts that no model wrote of the held-out sources, judged as a model's are."""
    known, texts = list(data.train.columns["source"]), list(data.train.columns["text"])

    def memory(sources: list[str]) -> list[str]:
        return [texts[i] for i in most_similar(sources, known)]

    writers = {"the source itself": bare, "the most similar training row": memory}
    return {name: _plain(judge(Evidence(data, writes=w, seed=seed), choose(WRITTEN))["metrics"]) for name, w in writers.items()}


def programmed(data: Data, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """Programs that no model wrote behind held-out prompts, run as a model's are; nothing where there are none to be run.

    Counted are n-grams of the training texts; the most similar training row is by its prompt, its program as it is.
    """
    if not {"prompt", "check"} <= {*data.held.columns}:
        return {}
    texts, known = (list(map(str, data.train.columns[name])) for name in ("text", "prompt"))
    grams, rng = NGrams(texts), random.Random(seed)

    def counted(prompts: list[str]) -> list[str]:
        return [grams.continued(prompt, rng, MOST_PIECES) for prompt in prompts]

    def memory(prompts: list[str]) -> list[str]:
        place = dict(zip(dict.fromkeys(prompts), most_similar(list(dict.fromkeys(prompts)), known), strict=True))
        return ["\n" + texts[place[prompt]].removeprefix(known[place[prompt]]) for prompt in prompts]

    found = {}
    for name, writes in {"n-grams of the training text": counted, "the most similar training row": memory}.items():
        told = judge(Evidence(data, writes=writes, seed=seed, executes=True), choose(["passing"]))
        if told["skipped"]:
            raise Uncontained(told["skipped"]["passing"])
        found[name] = _plain(told["metrics"])
    return found


def _plain(figures: dict[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {figure: {"value": e.value, "low": e.low, "high": e.high, "n": e.n} for figure, e in figures.items()}


def bare(sources: list[str]) -> list[str]:
    """Sources without the word and colon that all of them begin with, which says what is to be done."""
    asked = re.compile(r"[\w ]{1,24}: ")
    return [asked.sub("", source, count=1) for source in sources] if all(map(asked.match, sources)) else sources


def most_similar(texts: list[str], known: list[str]) -> list[int]:
    """For each text the place of the known one that is most like it."""
    return [place for place, _ in most_like(texts, known)]


def most_like(texts: list[str], known: list[str]) -> list[tuple[int, float]]:
    """For each text the place of the known one that shares most, and how much: by the cosine of rare groups of 2 to 4 letters."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    count = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    there = count.fit_transform(known).T.tocsr()
    here = count.transform(texts)
    found: list[tuple[int, float]] = []
    for at in range(0, len(texts), 64):
        near = (here[at : at + 64] @ there).toarray()
        found += [(int(place), float(row[place])) for row, place in zip(near, near.argmax(1), strict=True)]
    return found


def sought(data: Data, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Held-out texts found by their sources and sources by their texts, by the words they share, judged as an embedder is."""
    figures = retrieval.retrieval(Evidence(data, writes=bare, seed=seed), ("source", "text"), shared(data))
    return _plain(figures)


def shared(data: Data) -> retrieval.Near:
    """How near held-out sources and texts are by the words they share."""
    sides = ("source", "text")
    held = {side: list(data.held.columns[side][:MOST]) for side in sides}
    words = {side: BM25(held[side], list(data.train.columns[side])) for side in sides}

    def near(asked: str, kept: str, rows: Tensor) -> Tensor:
        return words[kept].near([held[asked][row] for row in rows.tolist()])[:, rows]

    return near


def drawn(data: Data, draw: Draw, seed: int = 0) -> Evidence:
    """Evidence of a baseline that is fitted to each class by itself and draws as many of it as there are."""
    train = data.train.rows(torch.arange(min(MOST, len(data.train))))
    rows, labels = train["image"].flatten(1), _labels(train)
    rng, samples = Streams.of(seed, len(rows)), torch.empty_like(rows)
    for label in labels.unique():
        here = (labels == label).nonzero()[:, 0]
        samples[here] = draw(rows[here], rng[here]).clamp(0, 1)
    told = {"label": labels} if data.facts.classes else {}
    return Evidence(data, samples={"image": samples.reshape(-1, *data.facts.shape), **told}, seed=seed)


def _labels(batch: dict[str, Any]) -> Tensor:
    return batch["label"] if "label" in batch else torch.zeros(len(batch["image"]), dtype=torch.int64)


def pixel_bits(data: Data) -> dict[str, dict[str, Any]]:
    """Bits per dimension of the held-out rows if every pixel is independent given the label (half a count for each level)."""
    levels = data.facts.levels
    train, held = data.train.all(), data.held.all()
    grey = {name: (batch["image"].flatten(1) * (levels - 1)).round().long() for name, batch in (("train", train), ("held", held))}
    labels, dims = _labels(train), grey["held"].shape[1]
    logs, joint = [], []
    for label in range(max(1, len(data.facts.classes))):
        rows = grey["train"][labels == label]
        counts = torch.full((dims, levels), 0.5).scatter_add_(1, rows.T, torch.ones(dims, len(rows)))
        chance = (counts / counts.sum(1, keepdim=True)).log()
        logs.append(chance.T.gather(0, grey["held"]).sum(1))
        joint.append(logs[-1] + math.log(max(len(rows), 0.5) / len(labels)))
    scale = -dims * math.log(2)
    found = {"bits/dim": {"value": float(torch.stack(joint).logsumexp(0).mean()) / scale}}
    if data.facts.classes:
        given = torch.stack(logs).gather(0, _labels(held)[None])[0]
        found["bits/dim given label"] = {"value": float(given.mean()) / scale}
    return found


def compressed(data: Data) -> dict[str, Any]:
    """Bits per byte of the held-out text under xz that has seen the training text, in a window that spans it all."""
    train, held = ("\n".join(split.columns["text"]).encode() for split in (data.train, data.held))
    window = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": max(1 << 16, min(1 << 30, len(train) + len(held)))}
    sizes = [len(lzma.compress(text, lzma.FORMAT_XZ, filters=[window])) for text in (train, train + held)]
    return {"value": 8 * (sizes[1] - sizes[0]) / max(1, len(held))}
