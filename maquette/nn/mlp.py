"""Feed-forward layers of transformers. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.channels_last import geglu
from maquette.nn.gelu import gelu
from maquette.nn.rows import BELL, SILU, acted, fit

Activation = Callable[[Tensor], Tensor]


class Gated(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer 2020, eq. 6), gate and up in one matrix product; with SiLU, SwiGLU.

    Args:
        width: channels in and out.
        hidden: channels within; 0 = 8/3 of the width, rounded up to a multiple of 32.
    """

    def __init__(self, width: int, hidden: int = 0, act: Activation = F.silu, bias: bool = False):
        super().__init__()
        hidden = hidden or -(-8 * width // 96) * 32
        self.act = act
        self.gate_up = nn.Linear(width, 2 * hidden, bias)
        self.down = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        both = self.gate_up(x)
        if self.act in (F.silu, gelu) and fit(both, 32):
            return self.down(acted(both, BELL if self.act is gelu else SILU, gated=True))
        gate, up = both.chunk(2, -1)
        return self.down(self.act(gate) * up)


class Plain(nn.Module):
    """down(act(up(x))) (Vaswani 2017, eq. 2).

    Args:
        width: channels in and out.
        hidden: channels within; 0 = four times the width.
    """

    def __init__(self, width: int, hidden: int = 0, act: Activation = F.gelu, bias: bool = True):
        super().__init__()
        self.act = act
        self.up = nn.Linear(width, hidden or 4 * width, bias)
        self.down = nn.Linear(hidden or 4 * width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down(self.act(self.up(x)))


class GEGLU(nn.Module):
    """value(x) * GELU(gate(x)) (Shazeer 2020, eq. 6), value and gate in one matrix product.

    Args:
        width: channels in.
        hidden: channels out.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., hidden]."""
        return geglu(self.proj(x))


class Rise(nn.Module):
    """act(proj(x)), four times as wide: [..., D] -> [..., 4D]."""

    def __init__(self, width: int, act: Activation):
        super().__init__()
        self.act, self.proj = act, nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.proj(x))


class FeedForward(nn.Module):
    """What makes four times as wide, and the way back, with diffusers' names: [..., D] -> [..., D].

    Args:
        width: channels in and out.
        rise: makes four times as many; None = a projection and GELU by its tanh formula.
    """

    def __init__(self, width: int, rise: nn.Module | None = None):
        super().__init__()
        self.net = nn.ModuleList([rise or Rise(width, gelu), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))
