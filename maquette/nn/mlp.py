"""Feed-forward layers of transformers. Tensors in, tensors out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.channels_last import geglu


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6), gate and up in one matrix product.

    Args:
        width: channels in and out.
        hidden: channels within.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


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
