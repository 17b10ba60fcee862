"""GELU as transformers want it: often, and quickly. Tensors in, tensors out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.nn.channels_last import native
from maquette.nn.native import over_rows


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's share below x, by its tanh formula (Hendrycks 2016, eq. 2).

    Native on a CPU, where PyTorch's own takes four times as long.
    """
    if native(x) and x.numel() % 16 == 0:
        return _gelu(x)
    return F.gelu(x, approximate="tanh")


@torch.library.custom_op("maquette::gelu", mutates_args=())
def _gelu(x: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    over_rows("gelu", x.numel() // 16, x, x, y)
    return y


@torch.library.custom_op("maquette::gelu_backward", mutates_args=())
def _gelu_backward(x: Tensor, grad: Tensor) -> Tensor:
    x, grad = x.contiguous(), grad.contiguous()
    dx = torch.empty_like(x)
    over_rows("gelu_back", x.numel() // 16, x, x, grad, dx)
    return dx


@_gelu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_gelu_backward.register_fake
def _(x: Tensor, grad: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _back(ctx: Any, grad: Tensor) -> Tensor:
    return _gelu_backward(*ctx.saved_tensors, grad)


_gelu.register_autograd(_back, setup_context=_keep)
