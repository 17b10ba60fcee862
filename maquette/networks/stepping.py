"""A decoder whose newest symbols go through all its layers in one native call. A network wrapper: what it cannot step, it asks.

Knows how a transformer is put together and what `decode.cpp` is told of that. A step gives what the transformer gives, up to
rounding: sums and the stream are float32, whatever the weights are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Around, Condition
from maquette.networks.transformer import Block, State, Transformer
from maquette.nn import native
from maquette.nn.attention import Attention
from maquette.nn.mlp import Gated, Plain
from maquette.nn.norm import RMSNorm
from maquette.nn.packed import FEW, WHOLE, Matrix, Packed, address, matrix, quantised

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (  # in the order of `decode.cpp`
    F.silu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.gelu,
    F.relu,
    lambda x: F.relu(x).square(),
)


class Unknown(Exception):
    """A part that `decode.cpp` does not have."""


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class _Norm(ctypes.Structure):
    _fields_ = [*_fields(ctypes.c_void_p, "weight bias"), ("eps", ctypes.c_float), ("kind", ctypes.c_int32)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *_fields(Matrix, "qkv out up down"),
        *_fields(_Norm * 2, "before after total"),
        *_fields(_Norm, "q k"),
        *_fields(ctypes.c_void_p, "cos sin keys values"),
        ("window", ctypes.c_int64),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.c_void_p),
        ("head", Matrix),
        ("last", _Norm),
        *_fields(ctypes.c_int64, "depth width heads groups size turned hidden act gated bits"),
        *_fields(ctypes.c_float, "scale cap"),
    ]


class Stepping(Around):
    """A causal transformer, stepped natively wherever few symbols are new: eight rows and places together.

    Args:
        net: it is taken as it is; its weights must not change any more.
    """

    net: Transformer

    def __init__(self, net: Transformer):
        super().__init__()
        self.net = net
        self._told: Told | str | None = "not asked"
        self.train(net.training)

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: State | None = None,
        only: Tensor | None = None,
        whole: bool = False,
    ) -> Any:
        """int64[B,T] -> [B,T,V], what the transformer gives; the logits of a step are float32."""
        cond = self._heard(cond)
        told = self.told() if state is not None and not whole and self.steps(x, state) else None
        if state is None or told is None:
            return self.net(x, cond=cond, state=state, only=only, whole=whole)
        y = self.ends(told.step(self.enter(x, cond, state), state))
        return y if only is None else y.gather(1, only[..., None].expand(-1, -1, y.shape[2]))

    def _heard(self, cond: Condition | None) -> Condition | None:
        dtype = self.net.embed.weight.dtype
        return None if cond is None else cond.map(lambda slot: slot.to(dtype) if slot.is_floating_point() else slot)

    def read(self, x: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """What the transformer reads."""
        return self.net.read(x, cond)

    def steps(self, x: Tensor, state: State) -> bool:
        """Whether these are few symbols, there is room for them, nobody listens, and the machine has built what steps them."""
        room = state.before <= state.at <= state.before + state.symbols.shape[1] - x.shape[1]
        few = x.numel() <= FEW and x.device.type == "cpu" and not torch.is_grad_enabled()
        heard = self.net.norm is not None and self.net.norm._forward_hooks  # by one who wants what a native step does not show
        return room and few and not heard and not self.net.training and native.built()

    def enter(self, x: Tensor, cond: Condition | None, state: State) -> Tensor:
        """What goes into the first layer: int64[B,T] -> float32[B,T,D]."""
        first = state.at - state.before
        state.symbols[:, first : first + x.shape[1]] = x
        return self.net.enter(x, first, cond, state).float().contiguous()

    def ends(self, y: Tensor) -> Tensor:
        """Scores as the transformer gives them, from the head's products: float32[B,T,V]."""
        ends = self.net.style.ends
        if ends.out_scale != 1:
            y = y * ends.out_scale
        if self.net.head_bias is not None:
            y = y + self.net.head_bias
        return ends.cap * (y / ends.cap).tanh() if ends.cap else y

    def told(self) -> Told | None:
        """What `decode.cpp` is told; None of a transformer with a part that it does not have."""
        if isinstance(self._told, str):
            try:
                self._told = Told(self.net)
            except Unknown:
                self._told = None
        return self._told

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # tensors move
        self._told = "not asked"
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:  # addresses are no other's
        return {**self.__dict__, "_told": "not asked"}


class Told:
    """A transformer in the words of `decode.cpp`, and the tensors that these point to.

    Raises:
        Unknown: a part of it that is not there.
    """

    def __init__(self, net: Transformer):
        self.net, self.held = net, cast("list[Tensor]", [])
        odd = (net.out is None, net.shape_head is not None, bool(net.ahead), net.style.apart is not None, not len(net.blocks))
        if any(odd) or not net.causal:
            raise Unknown
        blocks = [cast(Block, block) for block in net.blocks]
        self.layers = (_Layer * len(blocks))()
        shapes = {self._layer(layer, block) for layer, block in zip(self.layers, blocks, strict=True)}
        if len(shapes) != 1:
            raise Unknown
        heads, groups, size, hidden, act, gated, scale, cap = shapes.pop()
        head = net.head if net.head is not None else net.embed.weight[: net.out]
        counts = (len(blocks), net.width, heads, groups, size, blocks[0].attention.turned, hidden, act, gated)
        bits = WHOLE.get(net.embed.weight.dtype)
        if bits is None:
            raise Unknown
        self.decoder = _Decoder(
            ctypes.addressof(self.layers), self._matrix(head), self._norm(net.norm), *counts, bits, scale, cap
        )
        for i, layer in enumerate(self.layers):
            layer.window = net.style.near.window if net.style.near is not None and net.is_near[i] else 0

    def _layer(self, layer: _Layer, block: Block) -> tuple[Any, ...]:
        attention, feed = block.attention, block.mlp
        if type(attention) is not Attention or not isinstance(feed, Gated | Plain) or block.cross is not None:
            raise Unknown
        into = feed.gate_up if isinstance(feed, Gated) else feed.up
        layer.qkv, layer.out, layer.up, layer.down = map(self._matrix, (attention.qkv, attention.out, into, feed.down))
        for i, around in enumerate(
            ((block.norm1, block.after1, block.total1), (block.norm2, block.after2, block.total2)),
        ):
            layer.before[i], layer.after[i], layer.total[i] = map(self._norm, around)
        layer.q, layer.k = self._norm(attention.norm_q), self._norm(attention.norm_k)
        scale = attention.size**-0.5 if attention.scale is None else attention.scale
        own = (feed.down.in_features, _place(feed.act), int(isinstance(feed, Gated)))
        return (attention.heads, attention.groups, attention.size, *own, scale, attention.cap)

    def _matrix(self, layer: nn.Module | Tensor) -> Matrix:
        if not isinstance(layer, Packed | Tensor) and type(layer) is not nn.Linear:
            raise Unknown
        if not isinstance(layer, Packed) and (layer if isinstance(layer, Tensor) else layer.weight).dtype not in WHOLE:
            raise Unknown
        return matrix(layer, self.held)

    def _norm(self, layer: nn.Module | None) -> _Norm:
        if layer is None or isinstance(layer, nn.Identity):
            return _Norm()
        if type(layer) not in (RMSNorm, nn.LayerNorm):
            raise Unknown
        made = _Norm(eps=cast(Any, layer).eps, kind=1 if isinstance(layer, RMSNorm) else 2)
        for name in ("weight", "bias"):
            if (own := getattr(layer, name, None)) is not None:
                one = isinstance(layer, RMSNorm) and layer.one
                self.held.append(own.detach().float() + 1 if one else own.detach().float())
                setattr(made, name, self.held[-1].data_ptr())
        return made

    def step(self, h: Tensor, state: State) -> Tensor:
        """float32[B,T,D], the newest -> their products with the head, float32[B,T,V]."""
        net, at, (batch, new) = self.net, state.at, h.shape[:2]
        far, near = state.turns if net.places_near is not None else (state.turns[0],) * 2
        turns = [None if turn is None else tuple(part[at:].data_ptr() for part in turn) for turn in (far, near)]
        layers, decoder = type(self.layers).from_buffer_copy(self.layers), _Decoder.from_buffer_copy(self.decoder)
        decoder.layers = ctypes.addressof(layers)  # of this call alone: another thread may step the same network
        for layer, memory, is_near in zip(layers, state.layers, net.is_near, strict=True):
            layer.keys, layer.values = (kept.data_ptr() for kept in memory.kept)
            layer.cos, layer.sin = turns[is_near] or (None, None)
        bias = net.places.bias(new, at + new, h.device) if net.places is not None else None
        if bias is not None:
            bias = bias.float().contiguous()
        y = torch.empty(batch, new, cast(int, net.out))
        sizes = (torch.get_num_threads(), batch, new, at, state.layers[0].kept[0].shape[2])
        library = native.library()
        assert library is not None, "asked before"
        library.step(ctypes.byref(decoder), *map(ctypes.c_int64, sizes), *map(address, (bias, h, y)))
        for memory in state.layers:
            memory.at += new
        return y


def _place(act: Callable[[Tensor], Tensor]) -> int:
    """Which of the activations this is: that which gives the same."""
    probe = torch.linspace(-4, 4, 33)
    for i, known in enumerate(ACTIVATIONS):
        if torch.equal(act(probe), known(probe)):
            return i
    raise Unknown


def stepping(net: nn.Module, bits: int = 0, group: int = 32) -> nn.Module:
    """A network with its matrices in 32, 16, 8 or 4 bits, 0 = as they are, stepped natively if it is a causal transformer.

    Raises:
        ValueError: bits or a group that is not to be had.
    """
    made = quantised(net, bits, group) if bits else net
    if not isinstance(made, Transformer):
        return made
    if (
        bits in (8, 4) and made.head is None and made.out is not None
    ):  # rows are looked up in the one, and all scored by the other
        cast(Any, made).head = Packed.of(cast(Transformer, net).embed.weight[: made.out], None, bits, group)
    return Stepping(made) if made.causal else made
