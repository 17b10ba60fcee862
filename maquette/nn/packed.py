"""Linear layers whose matrices lie in 8 or 4 bits, and the few rows of a step times them. Tensors in, tensors out.

A group of weights, neighbours in a row, shares a scale. Knows how numbers lie in memory (`matrices.cpp` reads them so); where
nothing native is built, or many rows come at once, the matrix is unpacked and multiplied as any other.
"""

from __future__ import annotations

import copy
import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn import native

BITS, GROUPS = (32, 16, 8, 4), (32, 64, 128)
BLOCK = 16  # outputs that lie side by side
WHOLE = {torch.float32: 32, torch.bfloat16: 16}  # of a matrix that is not packed
FEW = 8  # rows that one native product takes
# the 16 numbers that stand closest to normal ones in groups of 32, each group scaled so that its largest is an end of the table:
# found by Lloyd's iteration (1982), in 127ths
TABLE = (-127, -103, -83, -65, -49, -35, -23, -10, 1, 13, 26, 39, 53, 70, 90, 120)
SHRINK = (0.9, 1.0, 1.1)  # how far from there the scale is looked for


class Matrix(ctypes.Structure):
    """What `matrices.cpp` is told of a matrix."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "scales", "table", "bias")] + [
        (name, ctypes.c_int64) for name in ("outputs", "inputs", "kept", "group", "bits")
    ]


class Packed(nn.Module):
    """A linear layer in 8 bits (255 even steps) or 4 (16 numbers of a table), a scale for each group of inputs.

    Args:
        inputs, outputs: channels in and out.
        bits: 8 or 4.
        group: inputs that share a scale.
        bias: there is one.

    Raises:
        ValueError: bits or a group that is not to be had.
    """

    codes: Tensor
    scales: Tensor
    table: Tensor
    bias: Tensor | None

    def __init__(self, inputs: int, outputs: int, bits: int = 8, group: int = 32, bias: bool = False):
        super().__init__()
        if bits not in (8, 4) or group not in GROUPS:
            near = f"{min((8, 4), key=lambda b: abs(b - bits))} by {min(GROUPS, key=lambda g: abs(g - group))}"
            raise ValueError(f"{bits} bits in groups of {group}; allowed are 8 or 4 by 32, 64 or 128, nearest is {near}")
        self.in_features, self.out_features, self.bits, self.group = inputs, outputs, bits, group
        blocks, groups = -(-outputs // BLOCK), -(-inputs // group)
        each = {8: (torch.int8, group // 2), 4: (torch.int16, group // 8)}[bits]
        self.register_buffer("codes", torch.zeros(blocks, groups * each[1], BLOCK, 2, dtype=each[0]))
        self.register_buffer("scales", torch.zeros(blocks, groups, BLOCK, dtype=torch.bfloat16))
        self.register_buffer("bias", torch.zeros(outputs) if bias else None)
        self.register_buffer("table", torch.tensor(TABLE + TABLE, dtype=torch.int16), persistent=False)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None, bits: int = 8, group: int = 32) -> Packed:
        """A matrix [out,in], and a bias [out], packed."""
        made = cls(weight.shape[1], weight.shape[0], bits, group, bias is not None)
        made.pack(weight.detach().float())
        if bias is not None:
            made.bias = bias.detach().float().clone()
        return made

    @torch.no_grad()
    def pack(self, weight: Tensor) -> None:
        """Take the numbers of a matrix float32[out,in].

        Raises:
            ValueError: some are not finite, which few bits cannot say.
        """
        if not bool(weight.isfinite().all()):
            raise ValueError(f"a matrix of {self.out_features} x {self.in_features} holds numbers that are not finite")
        blocks, groups, _ = self.scales.shape
        weight = F.pad(weight, (0, groups * self.group - weight.shape[1], 0, blocks * BLOCK - weight.shape[0]))
        chosen, scales = (rounded if self.bits == 8 else looked_up)(weight.reshape(-1, self.group))
        self.scales.copy_(scales.view(blocks, BLOCK, groups).transpose(1, 2))
        if self.bits == 8:
            self.codes.copy_(chosen.view(blocks, BLOCK, -1, 2).transpose(1, 2))
            return
        lying = chosen.int().view(blocks, BLOCK, -1, 4, 2).permute(3, 0, 2, 1, 4)
        word = lying[0] | lying[1] << 4 | lying[2] << 8 | lying[3] << 12
        self.codes.copy_(torch.where(word > 32767, word - 65536, word))

    @property
    def weight(self) -> Tensor:
        """The matrix float32[out,in] that the codes stand for."""
        blocks, groups, _ = self.scales.shape
        if self.bits == 8:
            numbers = self.codes.transpose(1, 2).float()
        else:
            four = torch.stack([self.codes.int() >> 4 * k & 15 for k in range(4)], 3)  # [blocks, eights, 16, 4, 2]
            numbers = self.table.float()[four].transpose(1, 2)
        grouped = numbers.reshape(blocks, BLOCK, groups, self.group) * self.scales.float().transpose(1, 2)[..., None]
        return grouped.reshape(blocks * BLOCK, -1)[: self.out_features, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in x's precision."""
        rows = x.numel() // self.in_features
        if 0 < rows <= FEW and not torch.is_grad_enabled() and x.device.type == "cpu" and native.built():
            held: list[Tensor] = []
            return product(matrix(self, held), x)
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _Times.apply(x, self)  # type: ignore[no-untyped-call]
            return y if self.bias is None else y + self.bias.to(y.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if x.device.type == "cpu" and x.dtype in native.TYPES and native.built():
            return F.linear(x, self.unpacked(x.dtype).T[: self.out_features, : self.in_features], bias)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """What `weight` is, [in,out], and what pads it; natively."""
        by = matrix(self, [])
        made = torch.empty(by.inputs, by.outputs, dtype=dtype)
        native.over_rows("unpack", by.outputs // BLOCK, made, ctypes.addressof(by), made)
        return made

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group={self.group}, bias={self.bias is not None}"


class _Times(torch.autograd.Function):
    """x times a packed matrix, unpacked again for the gradient of x: nothing whole is kept between. It learns nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed) -> Tensor:
        ctx.layer, ctx.kind = layer, x.dtype
        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        return F.linear(x.to(kind), layer.weight.to(kind))

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        return (above[0] @ ctx.layer.weight.to(above[0].dtype)).to(ctx.kind), None


def rounded(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Groups [N,G] as whole numbers -127 .. 127 of a scale, bfloat16[N], that reaches their largest."""
    scales = (groups.abs().amax(1) / 127).bfloat16()
    by = scales.float().clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return (groups / by).round().clamp(-127, 127), scales


def looked_up(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Groups [N,G] as places in the table, of the scale, bfloat16[N], with the least squared error of those tried.

    The table has a longer side: a group's largest number may stand at either end. From there, and somewhat less and more, the
    scale goes to where it fits the numbers best that were chosen with it. `look_up` of decode.cpp does the same.
    """
    table = torch.tensor(TABLE, dtype=torch.float32)
    middles, tiny = (table[1:] + table[:-1]) / 2, torch.finfo(torch.float32).tiny
    if native.built() and groups.device.type == "cpu":
        places, found = torch.empty(groups.shape, dtype=torch.int8), torch.empty(len(groups), dtype=torch.bfloat16)
        sizes, tried = (len(groups), groups, groups.shape[1]), torch.tensor(SHRINK)
        native.over_rows("look_up", *sizes, groups.contiguous(), table, middles, tried, len(tried), places, found)
        return places.long(), found
    largest = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    least = torch.full_like(largest, torch.inf)
    best, scales = torch.zeros_like(groups, dtype=torch.int64), torch.zeros_like(largest)
    for end in (table[0], table[-1]):
        for factor in SHRINK:
            scale = largest / end * factor
            numbers = table[torch.bucketize(groups / _off_zero(scale, tiny), middles)]
            scale = ((groups * numbers).sum(1, keepdim=True) / numbers.square().sum(1, keepdim=True)).bfloat16().float()
            places = torch.bucketize(groups / _off_zero(scale, tiny), middles)
            error = (groups - table[places] * scale).square().sum(1, keepdim=True)
            better = error < least
            least, scales = torch.where(better, error, least), torch.where(better, scale, scales)
            best = torch.where(better, places, best)
    return best, scales[:, 0].bfloat16()


def _off_zero(scale: Tensor, tiny: float) -> Tensor:
    return torch.where(scale == 0, tiny, scale)


def quantised(network: nn.Module, bits: int = 8, group: int = 32) -> nn.Module:
    """A copy of a network with its linear layers packed, and everything else in bfloat16; with 32 or 16 bits, all in that.

    A layer's `whole` names those of its own whose matrices it reads itself: they are not packed.

    Raises:
        ValueError: bits or a group that is not to be had.
    """
    if bits not in BITS:
        near = min(BITS, key=lambda b: abs(b - bits))
        raise ValueError(f"bits are {bits}; allowed are {', '.join(map(str, BITS))}, nearest is {near}")
    made = copy.deepcopy(network).to(torch.float32 if bits == 32 else torch.bfloat16)
    if bits > 8:
        return made
    exact = dict(network.named_modules())
    for name, module in list(made.named_modules()):
        for child, layer in list(module.named_children()):
            if type(layer) is nn.Linear and child not in getattr(module, "whole", ()):
                own = exact[f"{name}.{child}" if name else child]
                setattr(module, child, Packed.of(own.weight, own.bias, bits, group))
    return made


def matrix(layer: nn.Linear | Packed | Tensor, held: list[Tensor]) -> Matrix:
    """What the native products are told of a layer, or of a matrix [out,in] of a type in WHOLE. Its tensors must outlive it.

    Args:
        held: takes those that were made for this.
    """
    made = Matrix()
    bias = None if isinstance(layer, Tensor) else layer.bias
    if bias is not None:
        held.append(bias := bias.detach().float().contiguous())
        made.bias = bias.data_ptr()
    if isinstance(layer, Packed):
        made.weight, made.scales, made.table = (x.data_ptr() for x in (layer.codes, layer.scales, layer.table))
        made.outputs, made.inputs = layer.scales.shape[0] * BLOCK, layer.scales.shape[1] * layer.group
        made.kept, made.group, made.bits = layer.out_features, layer.group, layer.bits
        return made
    held.append(weight := (layer if isinstance(layer, Tensor) else layer.weight).detach().contiguous())
    made.weight, (made.outputs, made.inputs) = weight.data_ptr(), weight.shape
    made.kept, made.bits = made.outputs, WHOLE[weight.dtype]
    return made


def product(by: Matrix, x: Tensor) -> Tensor:
    """At most eight rows [..., in] times a matrix -> [..., out], in x's precision."""
    rows: Any = x.detach().reshape(-1, x.shape[-1]).float().contiguous()
    y = torch.empty(len(rows), by.kept)
    library = native.library()
    assert library is not None, "asked before"
    counts = (ctypes.c_int64(n) for n in (torch.get_num_threads(), len(rows)))
    library.multiply_rows(ctypes.byref(by), *counts, address(rows), ctypes.c_int64(rows.shape[1]), address(y))
    return y.view(*x.shape[:-1], by.kept).to(x.dtype)


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor lies; nowhere of none."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
