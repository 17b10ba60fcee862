"""maquette: train, sample, score, compare and resume every family of generative model, through one loop."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

VERBS = (
    "baselines",
    "compare",
    "compress",
    "decompress",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "interpolate",
    "load",
    "resume",
    "sample",
    "search",
    "show",
    "train",
    "vary",
)


def _verb(name: str) -> property:
    """A verb of `maquette.api`, imported at first use so that `maquette --help` never waits for torch."""

    def find(package: ModuleType) -> Any:
        return getattr(importlib.import_module("maquette.api"), name)

    def keep(package: ModuleType, module: ModuleType) -> None:
        """Importing the module `maquette.train` does not hide the verb `maquette.train`."""

    return property(find, keep)


class _Package(ModuleType):
    """The package, with its verbs as attributes. `from maquette.train import ...` still reads the module of that name."""

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *VERBS])


for _name in VERBS:
    setattr(_Package, _name, _verb(_name))
sys.modules[__name__].__class__ = _Package
