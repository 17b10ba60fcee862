"""Gated PixelCNN: masked convolutions that score every pixel given those before it in raster order, channel by channel.

Knows grids of levels and a condition vector; nothing of training or sampling. (van den Oord 2016, "Conditional Image
Generation with PixelCNN Decoders": a vertical and a horizontal stack, so that no pixel above or to the left is unseen.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.networks.raster import BOOST, PointConv, Raster, channel_mask
from maquette.nn.densities import Categorical, LogisticMixture


class RightConv(nn.Conv2d):
    """A row convolution over `reach` pixels to the left and the pixel itself, whose own tap is masked `kind`."""

    mask: Tensor

    def __init__(self, inside: int, outside: int, channels: int, reach: int, kind: str):
        super().__init__(inside, 2 * outside, (1, reach + 1))
        mask = torch.ones(2 * outside, inside, 1, reach + 1)
        mask[:, :, 0, -1] = channel_mask(inside, outside, channels, kind).repeat(2, 1).float()
        self.register_buffer("mask", mask, persistent=False)
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pad(x, (self.reach, 0)))

    def last(self, x: Tensor) -> Tensor:
        """The same of pixels that already have `reach` more to their left: [B,D,H,W + reach] -> [B,2D',H,W]."""
        return F.conv2d(x, self.weight * self.mask, self.bias)


class DownConv(nn.Conv2d):
    """A convolution over the rows above; `own` adds the row itself, which in later layers knows only rows above."""

    def __init__(self, inside: int, outside: int, reach: int, own: bool):
        super().__init__(inside, 2 * outside, (reach + own, 2 * reach + 1))
        self.reach, self.own = reach, own

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pad(x, (0, 0, self.reach, 0)))

    def last(self, x: Tensor) -> Tensor:
        """The same of rows that already have `reach` more above them: [B,D,H + reach,W] -> [B,2D',H,W]."""
        rows = x if self.own else x[:, :, :-1]
        return F.conv2d(F.pad(rows, (self.reach, self.reach)), self.weight, self.bias)


def gate(x: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) of the two halves of the channels: [B,2D,H,W] -> [B,D,H,W] (van den Oord 2016b, eq. 2)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks: (down, right) [B,D,H,W] each -> the same (van den Oord 2016b, figure 2).

    Args:
        inside: features in, of the layer below or of the pixels themselves (`first`).
        width: features out of each stack.
        channels: of a pixel.
        reach: pixels each convolution sees beyond its own.
        told: width of the condition vector; 0 = none.
        dropout: share of gated features hidden in training, a whole map at a time.
    """

    def __init__(self, inside: int, width: int, channels: int, reach: int, told: int, first: bool, dropout: float):
        super().__init__()
        self.down = DownConv(inside, width, reach, own=not first)
        self.right = RightConv(inside, width, channels, reach, "A" if first else "B")
        self.cross = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = PointConv(width, width, channels)
        self.told = nn.Linear(told, 4 * width, bias=False) if told else None
        self.first, self.dropout = first, dropout

    def lean(self, place: Tensor, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the condition, and in the first layer the place, adds within the gates of the two stacks (eq. 4 and 5)."""
        total = BOOST * place if self.first else place.new_zeros(())
        if self.told is not None and vector is not None:
            total = total + self.told(vector)[:, :, None, None]
        down, right = total.chunk(2, -3) if total.dim() else (total, total)
        return down, right

    def forward(self, down: Tensor, right: Tensor, place: Tensor, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        lean_down, lean_right = self.lean(place, vector)
        below = self.down(down) + lean_down
        across = self.right(right) + self.cross(below) + lean_right
        return self.hide(gate(below)), self.step(across, right)

    def step(self, across: Tensor, right: Tensor) -> Tensor:
        """The horizontal stack's output from its gate's input; a residual, but not over the pixels themselves."""
        moved = self.out(self.hide(gate(across)))
        return moved if self.first else right + moved

    def hide(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.dropout, self.training)


@dataclass
class State:
    """What a PixelCNN remembers of images half written, so that a symbol costs one pixel's work (Ramachandran 2017).

    `symbols` int64[B,T], of which the first `at - 1` are known. For each layer: `down`, its vertical input with `reach`
    empty rows above [B,D,reach + H,W]; `right`, its horizontal input in this row [B,D,1,reach + W]; `base`, what the
    vertical stack and the condition say to this row [B,2D,1,W].
    """

    symbols: Tensor
    down: list[Tensor]
    right: list[Tensor]
    base: list[Tensor]
    at: int = 0


class PixelCNN(Raster):
    """int64[B,T] -> logits [B,T,levels], in raster order.

    Args:
        shape: (C, H, W) of the images.
        levels: symbols per channel; `levels` itself begins a sequence.
        width: features per stack, rounded up to a multiple of C.
        depth: gated layers.
        told: width of the condition vector that biases every gate; 0 = unconditional.
        reach: pixels a convolution sees in every direction it may look in: of the first layer, of the others.
        dropout: share of the feature maps that training hides.
        parts: logistics in a mixture over the levels (Salimans 2017, "PixelCNN++"), whose later channels lean on the earlier
            ones by the mixture's own means and not through masks; 0 = a softmax over the levels.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        width: int = 48,
        depth: int = 6,
        told: int = 0,
        reach: tuple[int, int] = (2, 1),
        dropout: float = 0.0,
        parts: int = 0,
    ):
        super().__init__(shape, levels, told, dropout)
        channels, height, breadth = shape
        groups = 1 if parts else channels  # of features that may not see each other
        width, features = -(-width // groups) * groups, self.embed.embedding_dim
        mixture = LogisticMixture(levels, parts) if parts else None
        self.likelihood = mixture or Categorical(levels)
        outside = self.likelihood.width(channels)
        self.place = nn.Parameter(torch.zeros(4 * width, height, breadth))
        inside = [features * channels] + [width] * depth
        self.layers = nn.ModuleList(
            GatedLayer(inside[i], width, groups, reach[i > 0], told, i == 0, dropout) for i in range(depth)
        )
        self.mix = PointConv(width, width, groups)
        self.head = PointConv(width, outside, groups)
        self.bias = nn.Parameter(torch.zeros(outside, height, breadth))
        nn.init.zeros_(self.head.weight)
        if mixture:
            self.bias.data += mixture.spread(channels)[:, None, None] / (2 * BOOST)

    def rows(self, symbols: Tensor, vector: Tensor | None) -> Tensor:
        """int64[B,H,W,C] -> [B,C,levels,H,W]."""
        here = slice(0, symbols.shape[1])
        down = right = self.see(symbols)
        for layer in self.gates():
            down, right = layer(down, right, self.place[:, here], vector)
        return self.read(right, self.bias[:, here], symbols)

    def gates(self) -> list[GatedLayer]:
        """The layers, first to last."""
        return list(cast(Iterable[GatedLayer], self.layers))

    def read(self, right: Tensor, bias: Tensor, symbols: Tensor) -> Tensor:
        """Features as logits: [B,D,H,W] -> [B,C,levels,H,W]; of the symbols int64[B,H,W,C] each channel sees those before it."""
        h = F.dropout2d(F.relu(self.mix(F.relu(right))), self.dropout, self.training)
        pixels = symbols.clamp(0, self.levels - 1).permute(0, 3, 1, 2) * (2 / (self.levels - 1)) - 1
        return self.likelihood.each(pixels, self.head(h) + 2 * BOOST * bias)

    def begin(self, batch: int, length: int) -> State:
        """Memory for whole images."""
        symbols, (_, height, breadth) = self.blank(batch, length), self.shape
        new = self.place.new_zeros
        down, right, base = [], [], []
        for layer in self.gates():
            inside, outside, reach = layer.down.in_channels, layer.down.out_channels, layer.down.reach
            down.append(new(batch, inside, reach + height, breadth))
            right.append(new(batch, inside, 1, reach + breadth))
            base.append(new(batch, outside, 1, breadth))
        return State(symbols, down, right, base)

    def next(self, symbol: Tensor, vector: Tensor | None, state: State) -> Tensor:
        """Logits [B,levels] of the next symbol, given the newest one int64[B] (bos before the first)."""
        channels, _, breadth = self.shape
        if state.at:
            state.symbols[:, state.at - 1] = symbol
        pixel, channel = divmod(state.at, channels)
        row, column = divmod(pixel, breadth)
        if column == channel == 0:
            self.descend(row, vector, state)
        grid, layers = state.symbols.view(len(symbol), -1, breadth, channels), self.gates()
        reach = layers[0].right.reach
        left = max(0, column - reach)
        state.right[0][..., reach + left : reach + column + 1] = self.see(grid[:, row : row + 1, left : column + 1])
        for i, layer in enumerate(layers):
            window = state.right[i][..., column : column + layer.right.reach + 1]
            h = layer.step(layer.right.last(window) + state.base[i][..., column : column + 1], window[..., -1:])
            if i + 1 < len(layers):
                state.right[i + 1][..., layers[i + 1].right.reach + column] = h[..., 0]
        state.at += 1
        bias, own = self.bias[:, row : row + 1, column : column + 1], grid[:, row : row + 1, column : column + 1]
        return self.read(h, bias, own)[:, channel, :, 0, 0]

    def descend(self, row: int, vector: Tensor | None, state: State) -> None:
        """Begin a row: the vertical stack, which needs the rows above alone, says all it has to say to it."""
        grid, layers = state.symbols.view(len(state.symbols), -1, self.shape[2], self.shape[0]), self.gates()
        if row:
            reach = layers[0].down.reach
            state.down[0][:, :, reach + row - 1] = self.see(grid[:, row - 1 : row])[:, :, 0]
        for i, layer in enumerate(layers):
            lean_down, lean_right = layer.lean(self.place[:, row : row + 1], vector)
            below = layer.down.last(state.down[i][:, :, row : row + layer.down.reach + 1]) + lean_down
            state.base[i] = layer.cross(below) + lean_right
            state.right[i].zero_()
            if i + 1 < len(layers):
                state.down[i + 1][:, :, layers[i + 1].down.reach + row] = gate(below)[:, :, 0]
