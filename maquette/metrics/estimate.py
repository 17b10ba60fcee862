"""A figure that can be defended: its value, its 95 % interval, and a signature that says exactly how it was measured.

Knows no metric, no data and no model. Figures whose signatures differ refuse to be compared.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Options = tuple[tuple[str, str], ...]
_WORDS = {"samples": "n samples", "rows": "n reference", "network": "feature network"}


class UnlikeSignatures(ValueError):
    """Two figures that were not measured alike. The message names every field that differs, with both values."""


@dataclass(frozen=True)
class Signature:
    """How a figure was measured.

    Args:
        metric: what was measured: "recall", "FD-mlp128-64".
        network: the feature network and the first 8 digits of its weights' SHA-256: "mlp128-64@1f2e3d4c".
        reference: the split it was measured against, and the first 12 digits of the data's SHA-256: "held@0123456789ab".
        samples: how many samples were looked at (0 = none are needed).
        rows: how many reference rows.
        seed: of the samples, and of everything random in the measurement.
        options: whatever else changes the figure, as (name, value): ("k", "5"), ("bound", "ELBO"), ("interval", "Wilson").
    """

    metric: str
    network: str = ""
    reference: str = ""
    samples: int = 0
    rows: int = 0
    seed: int = 0
    options: Options = ()

    def __str__(self) -> str:
        """One compact line, in a fixed order, without the parts that are empty."""
        parts = [("net", self.network), ("ref", self.reference), ("n", self.samples), ("nref", self.rows)]
        known = [f"{name}:{value}" for name, value in parts if value]
        return "|".join([self.metric, *known, f"seed:{self.seed}", *(f"{name}:{value}" for name, value in self.options)])

    def differences(self, other: Signature) -> list[str]:
        """Every field in which two signatures differ: ["n samples: 1437 vs 360"]."""
        mine, theirs = self._flat(), other._flat()
        names = [*mine, *(name for name in theirs if name not in mine)]
        pairs = {name: (mine.get(name, "none"), theirs.get(name, "none")) for name in names}
        return [f"{name}: {a} vs {b}" for name, (a, b) in pairs.items() if a != b]

    def _flat(self) -> dict[str, Any]:
        shown = [f.name for f in fields(self) if f.name not in ("options", "seed")]
        plain = {_WORDS.get(name, name): getattr(self, name) or "none" for name in shown}
        return {**plain, "seed": self.seed, **dict(self.options)}


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Args:
        value: the figure.
        low, high: ends of the 95 % interval; its kind is in the signature's options.
        n: how many independent things the interval is over (samples, reference rows, windows of text).
        signature: how it was measured.
        better: which way is better.
        aim: the ideal value, for figures that can miss it on both sides (a distance ratio of 1); `better` then
            names the harmless side.

    Raises:
        ValueError: ends out of order, or a `better` that is neither way.
    """

    value: float
    low: float
    high: float
    n: int
    signature: Signature
    better: Literal["lower", "higher"] = "lower"
    aim: float | None = None

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better is {self.better!r}; allowed: 'lower', 'higher'")
        if self.low > self.high:
            raise ValueError(f"the interval of {self.signature.metric} runs from {self.low} down to {self.high}")

    @property
    def loss(self) -> tuple[float, float, float]:
        """(value, low, high) turned so that lower is better: negated, or as the distance from the aim."""
        if self.aim is not None:
            ends = sorted((abs(self.low - self.aim), abs(self.high - self.aim)))
            inside = self.low <= self.aim <= self.high
            return abs(self.value - self.aim), 0.0 if inside else ends[0], ends[1]
        return (self.value, self.low, self.high) if self.better == "lower" else (-self.value, -self.high, -self.low)

    def beats(self, other: Estimate) -> bool:
        """Whether this figure is better, beyond both intervals' doubt.

        Raises:
            UnlikeSignatures: they were not measured alike.
        """
        return compare(self, other) > 0

    def asdict(self) -> dict[str, Any]:
        """Plain values for JSON. A figure that is not finite is written as null."""
        plain = asdict(self)
        for name in ("value", "low", "high"):
            plain[name] = plain[name] if math.isfinite(plain[name]) else None
        return {**plain, "line": str(self.signature)}

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Estimate:
        """An estimate as `asdict` wrote it, also after a trip through JSON."""
        signed = dict(saved["signature"])
        signed["options"] = tuple((str(name), str(value)) for name, value in signed["options"])
        ends = {name: math.nan if saved[name] is None else float(saved[name]) for name in ("value", "low", "high")}
        return cls(**ends, n=saved["n"], signature=Signature(**signed), better=saved["better"], aim=saved.get("aim"))

    def json(self) -> str:
        return json.dumps(self.asdict(), allow_nan=False)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def compare(a: Estimate, b: Estimate) -> int:
    """1 if a is better than b beyond the intervals' doubt, -1 if b is, 0 if the figures do not tell them apart.

    Beyond doubt: the 95 % interval of the difference, built from the two intervals (MOVER, Zou & Donner 2008), leaves 0 out.
    Figures that share a reference set err together, so this is on the careful side.

    Raises:
        UnlikeSignatures: they were not measured alike; the message names what differs.
    """
    differ = a.signature.differences(b.signature)
    if differ:
        raise UnlikeSignatures(f"these figures cannot be compared; they differ in {'; '.join(differ)}")
    (mine, my_low, my_high), (theirs, their_low, their_high) = a.loss, b.loss
    if theirs - mine > math.hypot(my_high - mine, theirs - their_low):
        return 1
    if mine - theirs > math.hypot(mine - my_low, their_high - theirs):
        return -1
    return 0
