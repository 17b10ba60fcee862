"""What processes that are forked to be killed share: what any training imports and opens.

No test is imported here: each such process would read it again.
"""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import huggingface_hub  # noqa: F401
import torch
import torch.utils.tensorboard
from narrow import small

import maquette.report.card  # noqa: F401
from maquette import api, recipes, training
from maquette.data import open_data
from maquette.runs import Run

SHOWN = ("shortcut", "gan", "pixelcnn", "vae", "gpt", "sft")  # whose previews are drawn: they take most of the time


def train_and_die(recipe: str, out: str, step: int, **options: Any) -> None:
    """Train, and die by SIGKILL once `step` is in the log."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    write = Run.log

    def log(run: Run, row: dict[str, float]) -> None:
        write(run, row)
        if row["step"] >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    Run.log = log  # type: ignore[method-assign]
    if recipe not in SHOWN:
        training._preview = lambda session, step: None
    with small():
        api.train(recipe, out=out, quiet=True, **options)


recipes.catalogue()
assert open_data("digits").splits
first = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # torch's first optimizer imports its compiler
