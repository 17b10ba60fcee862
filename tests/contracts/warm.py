"""What processes that are forked to be killed share: what any training imports and opens, and nets and corpora that are small.

No test is imported here: each such process would read it again.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock

import huggingface_hub  # noqa: F401
import torch
import torch.utils.tensorboard

import maquette.report.card  # noqa: F401
from maquette import api, recipes, training
from maquette.data import Data, dialogues, open_data, opening, principles
from maquette.networks.unet import UNet
from maquette.recipes import cascade, pictures, unclip
from maquette.runs import Run

SHOWN = ("shortcut", "gan", "pixelcnn", "vae", "gpt", "sft")  # whose previews are drawn: they take most of the time


def _narrow(make: Callable[..., Any]) -> Callable[..., Any]:
    """A U-Net told captions, with a quarter of the channels, but 16 or more, and one head for every 16."""

    def plan(**told: Any) -> Any:
        widths = tuple(max(16, width // 4) for width in told["block_out_channels"])
        heads = tuple(width // 16 for width in widths)
        return make(**told | {"block_out_channels": widths, "attention_head_dim": heads, "norm_num_groups": 4})

    return plan


def _half(self: UNet, channels: int, width: int, *more: Any, **told: Any) -> None:
    """A U-Net of half the channels."""
    _whole(self, channels, width // 2, *more, **told)


_whole = UNet.__init__
_drawn = lru_cache(maxsize=None)(opening._drawn.__wrapped__)  # what is small is no other test's
_SMALL: list[tuple[Any, str, Any]] = [
    *((module, "ROWS", 800) for module in (dialogues, principles)),
    *((module, "TextPlan", _narrow(module.TextPlan)) for module in (cascade, pictures, unclip)),
    (UNet, "__init__", _half),
]


@contextmanager
def small() -> Iterator[None]:
    """Within: the widest nets are narrow and the longest corpora short, for recipes have no dials for those."""
    usual = opening._drawn
    with ExitStack() as stack:

        def drawn(source: Callable[..., Data], size: int) -> Data:
            return (_drawn if source in (dialogues.dialogues, principles.principles) else usual)(source, size)

        stack.enter_context(mock.patch.object(opening, "_drawn", drawn))
        for place, name, value in _SMALL:
            stack.enter_context(mock.patch.object(place, name, value))
        yield


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
