"""What a metric may look at: a system, its data, its samples, and feature networks; all made when first asked for, and shared.

Knows no metric. A generator that is no System is judged from arrays alone: `Evidence.of_arrays`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from maquette.contracts import Batch, Code, NeedsStart, Sampler
from maquette.data import Data, Facts, Split, fingerprint
from maquette.data.conversations import Conversations, opening, questions, replies
from maquette.metrics import features
from maquette.metrics.estimate import Estimate, Options, Signature
from maquette.metrics.intervals import Interval

if TYPE_CHECKING:
    from maquette.system import System

MOST = 10_000  # samples drawn, and reference rows looked at, unless the caller says otherwise
LEAST = 20
ANSWERED = 1000  # held-out sources that texts are written from


class UnfitSamples(ValueError):
    """The samples cannot be judged: not finite, or of another shape than the data."""


class Evidence:
    """All there is to judge a generator by.

    Args:
        data: its training and held-out splits.
        system: what draws the samples and scores the held-out rows; None when only samples are known.
        samples: a batch drawn already; None = drawn from the system when first looked at.
        n: samples to draw; None = as many as there are training rows, at most 10,000.
        seed: of the samples and of everything random in the measurements.
        writes: what writes a text of each source, in place of the system.
        executes: whether code that the system writes may be run, walled in.

    Raises:
        ValueError: neither system nor samples nor what writes, or fewer than 20 samples.
    """

    def __init__(
        self,
        data: Data,
        system: System | None = None,
        samples: Batch | None = None,
        n: int | None = None,
        seed: int = 0,
        writes: Callable[[list[str]], list[str]] | None = None,
        executes: bool = False,
    ):
        if system is None and samples is None and writes is None:
            raise ValueError("evidence needs a system or samples")
        self.writes, self.executes = writes, executes
        self.data, self.system, self.seed, self._samples = data, system, seed, samples
        self.tell: Callable[[float], None] = lambda share: None  # called with the share of the samples that is drawn
        self.facts, self.sampling_seconds = data.facts, 0.0
        drawn = len(next(iter(samples.values()))) if samples is not None else n
        self.n = min(MOST, self.facts.rows.get("train", MOST)) if drawn is None else drawn
        if self.n < LEAST and (samples is not None or n is not None):
            raise ValueError(f"n is {self.n}; at least {LEAST} samples are needed to say anything")
        self.n = max(LEAST, self.n)

    @classmethod
    def of_arrays(
        cls,
        train: tuple[Any, Any],
        held: tuple[Any, Any],
        samples: tuple[Any, Any],
        *,
        levels: int = 256,
        seed: int = 0,
        name: str = "arrays",
    ) -> Evidence:
        """Evidence from (images, labels) pairs; images float[N,C,H,W] in 0..1, labels int64[N] or None."""
        columns: dict[str, dict[str, Tensor | Any]] = {}
        for split, (images, labels) in {"train": train, "held": held}.items():
            grey = (torch.as_tensor(np.asarray(images)).float() * (levels - 1)).round().clamp(0, levels - 1).to(torch.uint8)
            columns[split] = {"image": grey} | ({} if labels is None else {"label": torch.as_tensor(np.asarray(labels)).long()})
        count = 0 if train[1] is None else int(columns["train"]["label"].max()) + 1
        facts = Facts(
            name=name,
            field="image",
            kind="own",
            licence="",
            attribution="",
            hash=fingerprint(columns),
            rows={split: len(found["image"]) for split, found in columns.items()},
            shape=tuple(columns["train"]["image"].shape[1:]),
            levels=levels,
            classes=tuple(str(i) for i in range(count)),
        )
        batch: Batch = {"image": torch.as_tensor(np.asarray(samples[0])).float()}
        if samples[1] is not None:
            batch["label"] = torch.as_tensor(np.asarray(samples[1])).long()
        return cls(Data(facts, lambda: {k: Split(v, levels) for k, v in columns.items()}), samples=batch, seed=seed)

    # -- batches -----------------------------------------------------------------------------------------------------

    @property
    def pictures(self) -> bool:
        """Whether the rows are images, and what is made are images too."""
        return self.facts.field == "image" and (self.system is None or self.system.codec.field == "image")

    @cached_property
    def train(self) -> Batch:
        return self.data.train.all()

    @cached_property
    def held(self) -> Batch:
        """The held-out rows, at most 10,000 of them: the first ones."""
        return self.data.held.rows(torch.arange(min(MOST, len(self.data.held))))

    @cached_property
    def samples(self) -> Batch:
        """The samples, on the CPU, images rounded to the data's grey levels: what would be saved is what is judged.

        Labels and other conditions are the training rows', in a seeded order: the training distribution exactly when n is
        the number of training rows.

        Raises:
            UnfitSamples: an image that is not finite, or of another shape than the data's; or a system that makes nothing
                out of nothing.
        """
        batch = self._samples
        if batch is None:
            assert self.system is not None
            began = time.perf_counter()

            def watch(drafts: int, first: int, code: Code) -> None:
                self.tell(first / self.n)

            try:
                batch = self.system.sample(self.n, about=self.requests(), seed=self.seed, watch=watch)
            except NeedsStart as error:
                raise UnfitSamples(str(error)) from None
            self.sampling_seconds = time.perf_counter() - began
        batch = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in batch.items()}
        if self.pictures:
            batch["image"] = self.rounded(batch["image"])
        return batch

    @cached_property
    def rebuilt(self) -> Tensor:
        """The held-out images as a lossy codec gives them back, rounded to the data's grey levels: float[N,C,H,W] on the CPU.

        Raises:
            UnfitSamples: one is not finite.
        """
        assert self.system is not None
        codec, parts = self.system.eval().codec, []
        with torch.no_grad():
            for part in self.held[codec.field].split(256):
                parts.append(codec.decode(codec.encode(part.to(self.system.device))).cpu())
        return self.rounded(torch.cat(parts))

    @property
    def unanswered(self) -> str:
        """Why no texts are to be written from the held-out rows' sources; "" where they are."""
        if self.system is None and self.writes is None:
            return "only samples are known, no system"
        if self.writes is None and isinstance(self.data.held, Conversations):
            return "" if len(self.data.held) else "no row is held out"
        conditioner = self.system.conditioner if self.system is not None else None
        told = conditioner is not None and "source" in conditioner.fields
        if self.writes is None and (not told or self.system is None or self.system.codec.field != "text"):
            return "the system writes no texts from others"
        if self.facts.field != "text" or not {"source", "text"} <= {*self.data.held.columns}:
            return "the data have no texts beside those they are made from"
        return "" if len(self.data.held) else "no row is held out"

    @cached_property
    def answers(self) -> list[tuple[str, str]]:
        """(the row's own text, what the system writes from its source) of at most 1,000 held-out rows, chosen by the seed."""
        held = self.data.held.rows(torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.data.held))[:ANSWERED]))
        if self.writes is not None:
            return list(zip(held["text"], self.writes(held["source"]), strict=True))
        assert self.system is not None and not self.unanswered
        if isinstance(self.data.held, Conversations):
            some = np.random.default_rng(self.seed).permutation(len(self.data.held))[:ANSWERED].tolist()
            return [(wanted, written) for _, wanted, written in replied(self.system, self.data.held, some, self.seed)]
        written = self.system.sample(len(held["text"]), about={"source": held["source"]}, seed=self.seed)["text"]
        return list(zip(held["text"], written, strict=True))

    def requests(self) -> Batch | None:
        """What each sample is told: what its conditioner is of training rows; None where that is nothing."""
        conditioner = self.system.conditioner if self.system is not None else None
        if conditioner is None or not conditioner.fields:
            return None
        order = np.random.default_rng(self.seed)
        rows = len(self.data.train)
        places = np.concatenate([order.permutation(rows) for _ in range(-(-self.n // rows))])[: self.n]
        return conditioner.asked(self.data.train.rows(torch.from_numpy(places))) or None

    def rounded(self, images: Tensor) -> Tensor:
        """Images on the data's own grey levels, in 0..1."""
        if tuple(images.shape[1:]) != self.facts.shape:
            raise UnfitSamples(f"samples have the shape {tuple(images.shape[1:])}, the data {self.facts.shape}")
        wrong = int((~torch.isfinite(images).flatten(1).all(1)).sum())
        if wrong:
            raise UnfitSamples(f"{wrong} of {len(images)} samples are not finite")
        top = self.facts.levels - 1
        return (images.float() * top).round().clamp(0, top) / top

    # -- arrays ------------------------------------------------------------------------------------------------------

    def rows(self, split: str) -> np.ndarray:
        """Images of "train", "held" or "samples" as float32[N,D] in 0..1."""
        return getattr(self, split)["image"].flatten(1).numpy()

    def labels(self, split: str) -> np.ndarray:
        """int64[N] labels of "train", "held" or "samples"."""
        return getattr(self, split)["label"].numpy()

    @property
    def labelled(self) -> bool:
        """Whether the data has labels."""
        return len(self.facts.classes) > 1

    @property
    def told(self) -> bool:
        """Whether each sample comes with the label it was drawn for."""
        if self._samples is not None:
            return "label" in self._samples
        conditioner = self.system.conditioner if self.system is not None else None
        return self.labelled and conditioner is not None and "label" in conditioner.fields

    def some(self, split: str, count: int) -> np.ndarray:
        """Positions of `count` rows of a split, chosen by the seed: int64[count]."""
        rows = len(next(iter(getattr(self, split).values())))
        return np.random.default_rng([self.seed, rows]).permutation(rows)[:count]

    # -- features ----------------------------------------------------------------------------------------------------

    @cached_property
    def kind(self) -> str:
        return features.kind_for(self.facts.shape, len(self.facts.classes))

    @cached_property
    def network(self) -> nn.Module:
        """The feature network: a classifier trained on the training split; untrained filters where there are no labels."""
        shape, classes, key = self.facts.shape, len(self.facts.classes), self.facts.hash[:16]
        return features.network(self.kind, shape, classes, key, lambda: (self.train["image"], self.train["label"]))

    @cached_property
    def network_name(self) -> str:
        return features.name_of(self.kind, self.network)

    @cached_property
    def held_features(self) -> np.ndarray:
        """float64[N,D]."""
        return features.apply(self.network, self.held["image"])

    @cached_property
    def sample_features(self) -> np.ndarray:
        """float64[N,D]."""
        return features.apply(self.network, self.samples["image"])

    @property
    def precision(self) -> str:
        """What the networks' products are computed in: "float32", or the type that the caller's autocast sets."""
        kind = self.system.device.type if self.system is not None else "cpu"
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if torch.is_autocast_enabled(kind) else "float32"

    # -- figures -----------------------------------------------------------------------------------------------------

    def estimate(
        self,
        metric: str,
        found: Interval,
        n: int,
        *,
        better: Any = "lower",
        aim: float | None = None,
        samples: int = 0,
        rows: int = 0,
        network: bool = False,
        options: Options = (),
    ) -> Estimate:
        """A figure signed with this evidence. `samples`, `rows`: how many of each the figure looked at."""
        signature = Signature(
            metric=metric,
            network=self.network_name if network else "",
            reference=f"held@{self.facts.hash[:12]}",
            samples=samples,
            rows=rows,
            seed=self.seed,
            options=options,
        )
        return Estimate(*found, n=n, signature=signature, better=better, aim=aim)


def replied(
    system: System, held: Conversations, places: list[int], seed: int, sampler: Sampler | None = None
) -> list[tuple[str, str, str]]:
    """(the last question, its answer, what the system answers) of held-out conversations."""
    asked, wanted = questions([held.talks[i] for i in places])
    start = opening(system.codec, asked, most=system.codec.length)  # type: ignore[arg-type]
    made = system.sample(len(start), start=start.to(system.device), seed=seed, sampler=sampler)
    said = [str(turns[-1]["content"]) for turns in asked]
    return list(zip(said, wanted, replies(system.codec, made["code"], start), strict=True))
