"""PixelRNN: recurrences over the rows or the diagonals of an image, so that each pixel sees all of those before it.

Knows grids of levels and a condition vector; nothing of training or sampling. (van den Oord 2016, "Pixel Recurrent Neural
Networks", arXiv:1601.06759: the Row LSTM of section 3.1, the Diagonal BiLSTM of 3.2, the channel masks of 3.4.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.networks.raster import BOOST, PointConv, Raster, channel_mask

SIGHT = 3  # pixels that the first convolution sees up, left and right: a kernel of 7


class PastConv(nn.Conv2d):
    """A convolution over `up` rows above and `side` pixels to either side; of its own row only those to the left, then its own.

    Args:
        kind: whether a channel sees itself in its own pixel: "A" no, "B" yes.
        gates: the output is this many times `outside` features, each in groups of channels.
    """

    mask: Tensor

    def __init__(self, inside: int, outside: int, reach: tuple[int, int], channels: int, kind: str, gates: int = 1):
        up, side = reach
        super().__init__(inside, gates * outside, (up + 1, 2 * side + 1))
        mask = torch.ones(gates * outside, inside, up + 1, 2 * side + 1)
        mask[:, :, up, side + 1 :] = 0
        mask[:, :, up, side] = channel_mask(inside, outside, channels, kind).repeat(gates, 1).float()
        self.register_buffer("mask", mask, persistent=False)
        self.up, self.side = up, side

    def forward(self, x: Tensor) -> Tensor:
        """[B,D,H,W] -> [B,D',H,W]."""
        return self.last(F.pad(x, (self.side, self.side, self.up, 0)))

    def last(self, x: Tensor) -> Tensor:
        """The same of pixels that already have their surroundings: [B,D,H + up,W + 2 side] -> [B,D',H,W]."""
        return F.conv2d(x, self.weight * self.mask, self.bias)


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Output and cell, [B,D,S] each, from the four gates [B,4D,S] and the cell before (van den Oord 2016, eq. 3)."""
    out, forget, take, new = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


@dataclass
class Memory:
    """What a layer remembers of the row it is in and of the row above: features [B,2D,W] and states [B,D,W].

    `before` are its inputs in this row; `out` and `cell` the states of this row; `above` and `held` those of the row above;
    `back` the outputs of the row above by the direction that comes from the right.
    """

    before: Tensor
    out: Tensor
    cell: Tensor
    above: Tensor
    held: Tensor
    back: Tensor


class RowLSTM(nn.Module):
    """All of a row at once, from the row above: a pixel sees a triangle (van den Oord 2016, section 3.1).

    Args:
        width: units D; features in are 2 D.
        channels: of a pixel.
        told: width of the condition vector; 0 = none.
    """

    def __init__(self, width: int, channels: int, told: int):
        super().__init__()
        self.width = width
        self.inward = PastConv(2 * width, width, (0, 1), channels, "B", gates=4)
        self.across = nn.Conv1d(width, 4 * width, 3, padding=1, bias=False)
        self.told = nn.Linear(told, 4 * width, bias=False) if told else None
        remember(self.inward)

    def forward(self, x: Tensor, vector: Tensor | None) -> Tensor:
        """[B,2D,H,W] -> [B,D,H,W]."""
        gates = lean(self.inward(x), self.told, vector)
        out = cell = x.new_zeros(len(x), self.width, x.shape[3])
        rows = []
        for row in gates.unbind(2):
            out, cell = lstm(row + self.across(out), cell)
            rows.append(out)
        return torch.stack(rows, 2)

    def descend(self, memory: Memory, vector: Tensor | None) -> None:
        """Begin a row: what was written is the row above now."""
        memory.above, memory.held = memory.out, memory.cell
        memory.out, memory.cell = torch.zeros_like(memory.out), torch.zeros_like(memory.cell)

    def step(self, memory: Memory, column: int, vector: Tensor | None) -> Tensor:
        """The output [B,D,1] at a pixel of this row, whose input has been written into `before`."""
        near = F.pad(memory.before, (1, 1))[:, :, None, column : column + 3]
        gates = lean(self.inward.last(near), self.told, vector)[:, :, 0]
        above = F.pad(memory.above, (1, 1))[..., column : column + 3]
        here = slice(column, column + 1)
        across = F.conv1d(above, self.across.weight)
        memory.out[..., here], memory.cell[..., here] = lstm(gates + across, memory.held[..., here])
        return memory.out[..., here]


class Diagonal(nn.Module):
    """One direction of a Diagonal BiLSTM: from the left, a pixel sees all above and before it (section 3.2).

    The state comes from the pixel to the left and the one above, which lie in the last column once each row is skewed by one.
    """

    def __init__(self, width: int, channels: int, told: int):
        super().__init__()
        self.width = width
        self.inward = PastConv(2 * width, width, (0, 0), channels, "B", gates=4)
        self.across = nn.Conv1d(width, 4 * width, 2, bias=False)  # of the last column: the row above, the row itself
        self.told = nn.Linear(told, 4 * width, bias=False) if told else None
        remember(self.inward)

    def forward(self, x: Tensor, vector: Tensor | None) -> Tensor:
        """[B,2D,H,W] -> [B,D,H,W]."""
        height, breadth = x.shape[2:]
        gates = skew(lean(self.inward(x), self.told, vector))
        inside = skew(gates.new_ones(1, 1, height, breadth))  # states outside the image are 0
        out = cell = gates.new_zeros(len(x), self.width, height)
        columns = []
        for column, real in zip(gates.unbind(3), inside.unbind(3), strict=True):
            out, cell = lstm(column + self.across(F.pad(out, (1, 0))), cell)
            out, cell = out * real, cell * real
            columns.append(out)
        return unskew(torch.stack(columns, 3), breadth)

    def step(self, x: Tensor, above: Tensor, left: Tensor, cell: Tensor, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output and cell [B,D,1] at a pixel: from its input [B,2D,1], the outputs above and to the left, the left cell."""
        gates = lean(self.inward.last(x[:, :, None]), self.told, vector)[:, :, 0]
        return lstm(gates + F.conv1d(torch.cat([above, left], 2), self.across.weight), cell)


class DiagonalBiLSTM(nn.Module):
    """Both directions; the one from the right is moved down a row, so that it tells only of rows above (section 3.2)."""

    def __init__(self, width: int, channels: int, told: int):
        super().__init__()
        self.width = width
        self.left, self.right = Diagonal(width, channels, told), Diagonal(width, channels, told)

    def forward(self, x: Tensor, vector: Tensor | None) -> Tensor:
        """[B,2D,H,W] -> [B,D,H,W]."""
        back = self.right(x[:, :, :-1].flip(3), vector).flip(3) if x.shape[2] > 1 else x[:, : self.width, :0]
        return self.left(x, vector) + F.pad(back, (0, 0, 1, 0))

    def descend(self, memory: Memory, vector: Tensor | None) -> None:
        """Begin a row: the row above is whole now, so the direction from the right can go through it."""
        none = memory.out.new_zeros(len(memory.out), self.width, 1)
        out = cell = none
        row = []
        for column in reversed(range(memory.out.shape[2])):
            here = slice(column, column + 1)
            out, cell = self.right.step(memory.before[..., here], memory.back[..., here], out, cell, vector)
            row.append(out)
        memory.back, memory.above = torch.cat(row[::-1], 2), memory.out
        memory.out = torch.zeros_like(memory.out)

    def step(self, memory: Memory, column: int, vector: Tensor | None) -> Tensor:
        """The output [B,D,1] at a pixel of this row, whose input has been written into `before`."""
        here, last = slice(column, column + 1), slice(column - 1, column)
        none = memory.out.new_zeros(len(memory.out), self.width, 1)
        left, cell = (memory.out[..., last], memory.cell[..., last]) if column else (none, none)
        found = self.left.step(memory.before[..., here], memory.above[..., here], left, cell, vector)
        memory.out[..., here], memory.cell[..., here] = found
        return memory.out[..., here] + memory.back[..., here]


def lean(gates: Tensor, told: nn.Module | None, vector: Tensor | None) -> Tensor:
    """Gates [B,4D,H,W] with what the condition says to them."""
    return gates if told is None or vector is None else gates + told(vector)[:, :, None, None]


def remember(inward: nn.Conv2d) -> None:
    """Start with the forget gate open: its bias is the second quarter."""
    assert inward.bias is not None
    quarter = len(inward.bias) // 4
    inward.bias.data[quarter : 2 * quarter] += 1


def skew(x: Tensor) -> Tensor:
    """Each row moved right by one pixel more than the one above it: [B,D,H,W] -> [B,D,H,W + H - 1] (figure 3)."""
    height, breadth = x.shape[2:]
    wide = F.pad(x, (0, height)).flatten(2)[..., : height * (breadth + height - 1)]
    return wide.unflatten(2, (height, breadth + height - 1))


def unskew(x: Tensor, breadth: int) -> Tensor:
    """The way back: [B,D,H,W + H - 1] -> [B,D,H,W]."""
    height = x.shape[2]
    return F.pad(x.flatten(2), (0, height)).unflatten(2, (height, breadth + height))[..., :breadth]


@dataclass
class State:
    """Images half written: symbols int64[B,T], of which `at - 1` are known, as features with room around; memory per layer."""

    symbols: Tensor
    seen: Tensor  # [B,D,SIGHT + H,SIGHT + W + SIGHT]
    layers: list[Memory] = field(default_factory=list)
    at: int = 0


class PixelRNN(Raster):
    """int64[B,T] -> logits [B,T,levels], in raster order.

    Args:
        shape: (C, H, W) of the images.
        levels: symbols per channel; `levels` itself begins a sequence.
        layer: what a layer is: RowLSTM or DiagonalBiLSTM.
        width: units per layer, rounded up to a multiple of C.
        depth: layers, each added to the stream (section 3.3).
        told: width of the condition vector that biases every gate; 0 = unconditional.
        dropout: share of the feature maps that training hides from each layer, of its own, and before the head.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        layer: Callable[[int, int, int], nn.Module] = DiagonalBiLSTM,
        width: int = 32,
        depth: int = 2,
        told: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__(shape, levels, told, dropout)
        channels, height, breadth = shape
        width, features = -(-width // channels) * channels, self.embed.embedding_dim
        self.first = PastConv(features * channels, 2 * width, (SIGHT, SIGHT), channels, "A")
        self.layers = nn.ModuleList(layer(width, channels, told) for _ in range(depth))
        self.outs = nn.ModuleList(PointConv(width, 2 * width, channels) for _ in range(depth))
        self.mix = PointConv(2 * width, 2 * width, channels)
        self.head = PointConv(2 * width, levels * channels, channels)
        self.place = nn.Parameter(torch.zeros(2 * width, height, breadth))
        self.bias = nn.Parameter(torch.zeros(levels * channels, height, breadth))
        nn.init.zeros_(self.head.weight)

    def rows(self, symbols: Tensor, vector: Tensor | None) -> Tensor:
        """int64[B,H,W,C] -> [B,C,levels,H,W]."""
        here = slice(0, symbols.shape[1])
        h = self.first(self.see(symbols)) + BOOST * self.place[:, here]
        for layer, out in zip(self.layers, self.outs, strict=True):
            h = h + out(self.hide(layer(self.hide(h), vector)))
        return self.read(h, self.bias[:, here])

    def read(self, h: Tensor, bias: Tensor) -> Tensor:
        """Features as logits: [B,2D,H,W] -> [B,C,levels,H,W]: two masked 1x1 convolutions (table 1)."""
        h = self.hide(F.relu(self.mix(F.relu(h))))
        return (self.head(h) + 2 * BOOST * bias).unflatten(1, (-1, self.levels))

    def hide(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.dropout, self.training)

    def begin(self, batch: int, length: int) -> State:
        """Memory for whole images."""
        symbols, (_, height, breadth) = self.blank(batch, length), self.shape
        new, units = self.place.new_zeros, len(self.place) // 2
        seen = new(batch, self.first.in_channels, SIGHT + height, 2 * SIGHT + breadth)
        blank = lambda: Memory(new(batch, 2 * units, breadth), *(new(batch, units, breadth) for _ in range(5)))  # noqa: E731
        return State(symbols, seen, [blank() for _ in self.layers])

    def next(self, symbol: Tensor, vector: Tensor | None, state: State) -> Tensor:
        """Logits [B,levels] of the next symbol, given the newest one int64[B] (bos before the first)."""
        channels, _, breadth = self.shape
        grid = state.symbols.view(len(symbol), -1, breadth, channels)
        if state.at:
            state.symbols[:, state.at - 1] = symbol
            row, column = divmod((state.at - 1) // channels, breadth)
            state.seen[:, :, SIGHT + row, SIGHT + column] = self.see(grid[:, row : row + 1, column : column + 1])[..., 0, 0]
        pixel, channel = divmod(state.at, channels)
        row, column = divmod(pixel, breadth)
        window = state.seen[:, :, row : row + SIGHT + 1, column : column + 2 * SIGHT + 1]
        here = (slice(None), slice(row, row + 1), slice(column, column + 1))
        h = self.first.last(window) + BOOST * self.place[here]
        for layer, out, memory in zip(cast(Iterable[Any], self.layers), self.outs, state.layers, strict=True):
            if row and column == channel == 0:
                layer.descend(memory, vector)
            memory.before[..., column] = h[..., 0, 0]
            h = h + out(layer.step(memory, column, vector)[:, :, None])
        state.at += 1
        return self.read(h, self.bias[here])[:, channel, :, 0, 0]
