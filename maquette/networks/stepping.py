"""A decoder whose newest symbol goes through all its layers in one native call. A network wrapper: what it cannot step, it asks.

Knows how a transformer is put together and what `decode.cpp` is told of that. A step gives what the transformer gives, up to
rounding: sums and the stream are float32, whatever the weights are.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor, nn

from maquette.contracts import Condition, Network
from maquette.networks.transformer import State, Transformer
from maquette.nn import native
from maquette.nn.norm import RMSNorm
from maquette.nn.packed import FEW, Matrix, Packed, matrix, quantised
from maquette.nn.rope import turns


def _fields(kind: type, *names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names]


class _Norm(ctypes.Structure):
    _fields_ = [*_fields(ctypes.c_void_p, "weight", "bias"), ("eps", ctypes.c_float), ("kind", ctypes.c_int32)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *_fields(Matrix, "qkv", "out", "up", "down"),
        ("before", _Norm * 2),
        ("after", _Norm * 2),
        *_fields(_Norm, "q", "k"),
        *_fields(ctypes.c_void_p, "keys", "values"),
        ("window", ctypes.c_int64),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.c_void_p),
        ("head", Matrix),
        ("last", _Norm),
        *_fields(ctypes.c_int64, "depth", "width", "heads", "groups", "size", "turned", "neighbours"),
        *_fields(ctypes.c_int64, "hidden", "act", "gated", "beside", "bits"),
        *_fields(ctypes.c_float, "scale", "cap"),
    ]


class Stepping(Network):
    """A causal transformer, stepped natively wherever one symbol of a few rows is new.

    Args:
        net: it is taken as it is; its weights must not change any more.
    """

    def __init__(self, net: Transformer):
        super().__init__()
        self.net, self.edges = net, net.edges
        self.train(net.training)
        self._told: tuple[_Decoder, Any, list[Tensor]] | None = None
        self._turns: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: State | None = None) -> Tensor:
        """int64[B,T] -> [B,T,V]; the logits of a step are float32."""
        if cond is not None:
            dtype = self.net.embed.weight.dtype
            cond = cond.map(lambda slot: slot.to(dtype) if slot.is_floating_point() else slot)
        if state is None or not self.steps(x, state):
            return self.net(x, cond=cond, state=state)
        return self.step(x, cond, state)

    def begin(self, batch: int, length: int) -> State | None:
        return self.net.begin(batch, length)

    def steps(self, x: Tensor, state: State) -> bool:
        """Whether this is a step: one symbol of at most eight rows, with room in memory, on a machine that has built it."""
        before = self.net.heard.length if self.net.heard is not None else 0
        room = before <= state.at < state.layers[0].keys.shape[2]
        few = x.shape[1] == 1 and len(x) <= FEW and x.device.type == "cpu" and not torch.is_grad_enabled()
        return room and few and not self.training and native.built()

    def step(self, x: Tensor, cond: Condition | None, state: State) -> Tensor:
        """int64[B,1] -> float32[B,1,V]."""
        decoder, layers, _ = self.told
        before = self.net.heard.length if self.net.heard is not None else 0
        h = self.net.enter(x, state.at - before, cond, state).float().contiguous()
        for layer, memory in zip(layers, state.layers, strict=True):
            layer.keys, layer.values = memory.keys.data_ptr(), memory.values.data_ptr()
        length = state.layers[0].keys.shape[2]
        cos, sin = self.turned(length)
        y = torch.empty(len(x), 1, self.net.out)
        counts = (ctypes.c_int64(n) for n in (torch.get_num_threads(), len(x), state.at, length))
        tensors = (ctypes.c_void_p(a.data_ptr()) for a in (cos[state.at], sin[state.at], h, y))
        library = native.library()
        assert library is not None, "asked before"
        library.step(ctypes.byref(decoder), *counts, *tensors)
        for memory in state.layers:
            memory.at += 1
        return y

    def turned(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin of every place so far asked for, [length, size]."""
        if self._turns is None or len(self._turns[0]) < length:
            self._turns = turns(0, length, self.net.size, self.net.style.theta)
        return self._turns

    @property
    def told(self) -> tuple[_Decoder, Any, list[Tensor]]:
        """What `decode.cpp` is told, its layers, and the tensors that this points to."""
        if self._told is None:
            self._told = told(self.net)
        return self._told


def told(net: Transformer) -> tuple[_Decoder, Any, list[Tensor]]:
    """A description of the network, the layers in it, and tensors that must live as long."""
    held: list[Tensor] = []

    def norm(layer: nn.Module | None) -> _Norm:
        if layer is None:
            return _Norm()
        assert isinstance(layer, RMSNorm)
        made = _Norm(eps=layer.eps, kind=1)
        if layer.weight is not None:
            held.append(layer.weight.detach().float())
            made.weight = held[-1].data_ptr()
        return made

    layers = (_Layer * len(net.blocks))()
    for layer, block in zip(layers, net.blocks, strict=True):
        each = (block.attention.qkv, block.attention.out, block.mlp.gate_up, block.mlp.down)
        layer.qkv, layer.out, layer.up, layer.down = (matrix(part, held) for part in each)
        layer.before[0], layer.before[1] = norm(block.norm1), norm(block.norm2)
        layer.q = layer.k = norm(block.attention.norm)
    head = net.head if net.head is not None else net.embed.weight[: net.out]
    decoder = _Decoder(ctypes.addressof(layers), matrix(head, held), norm(net.norm), len(net.blocks), net.embed.embedding_dim)
    first = net.blocks[0]
    decoder.heads, decoder.groups, decoder.size = first.attention.heads, net.groups, net.size
    decoder.turned = net.size if net.places is None else 0
    decoder.hidden, decoder.gated = first.mlp.down.in_features, 1
    decoder.scale, decoder.bits = 1 / math.sqrt(net.size), 32 if net.embed.weight.dtype == torch.float32 else 16
    return decoder, layers, held


def stepping(net: nn.Module, bits: int = 0, group: int = 32) -> nn.Module:
    """A network with its matrices in 16, 8 or 4 bits, 0 = as they are, stepped natively if it is a causal transformer.

    Raises:
        ValueError: bits or a group that is not to be had.
    """
    made = quantised(net, bits, group) if bits else net
    return Stepping(made) if isinstance(made, Transformer) and made.causal else made


_ = Packed
