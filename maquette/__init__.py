"""maquette: train, sample, score, compare and resume every family of generative model, through one loop."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_VERBS = ("compare", "doctor", "evaluate", "load", "resume", "sample", "show", "train")


def __getattr__(name: str) -> Any:
    """The verbs, imported at first use so that `maquette --help` never waits for torch."""
    if name in _VERBS:
        return getattr(importlib.import_module("maquette.api"), name)
    raise AttributeError(f"module 'maquette' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_VERBS])
