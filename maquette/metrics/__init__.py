"""Metrics: one question per file. The folder is the registry: a file here with `measure` and `applies` is a metric."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from maquette.metrics.estimate import Estimate
    from maquette.metrics.evidence import Evidence


class Metric(Protocol):
    """What a metric's file offers. `MEANINGS`: what each figure says, for the report; keys may be a figure's beginning."""

    MEANINGS: dict[str, str]

    def applies(self, evidence: Evidence) -> str:
        """'' where the question makes sense, else the reason why not. Draws no samples."""

    def measure(self, evidence: Evidence) -> dict[str, Estimate]:
        """The figures that answer the question, by name."""


def all_metrics() -> dict[str, Metric]:
    """Every metric by its file's name, in alphabetical order. Imported when asked for."""
    modules = {found.name: importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)}
    return {name: cast(Metric, module) for name, module in modules.items() if hasattr(module, "measure")}


def meaning(figure: str) -> str:
    """One sentence on what a figure says ("" for an unknown one): `meaning("FD-mlp128-64")`."""
    known = {key: text for metric in all_metrics().values() for key, text in metric.MEANINGS.items()}
    fitting = [key for key in known if figure.startswith(key)]
    return known[max(fitting, key=len)] if fitting else ""
