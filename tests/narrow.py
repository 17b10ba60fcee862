"""Nets and corpora that are small, for recipes have no dials for those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from torch.optim import _muon

from maquette.data import Data, dialogues, opening, principles
from maquette.networks.unet import UNet
from maquette.recipes import cascade, pictures, unclip


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


def _rough(grad: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """A matrix on its way to an orthogonal one: of Muon's five iterations, which are half the time of a tiny net's step, one."""
    return _orthogonal(grad, coefficients, 1, eps)


_orthogonal = _muon._zeropower_via_newtonschulz
_SMALL: list[tuple[Any, str, Any]] = [
    *((module, "ROWS", 800) for module in (dialogues, principles)),
    *((module, "TextPlan", _narrow(module.TextPlan)) for module in (cascade, pictures, unclip)),
    (UNet, "__init__", _half),
    (_muon, "_zeropower_via_newtonschulz", _rough),
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
