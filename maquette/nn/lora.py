"""Low-rank changes of a network's weights, learnt while the network itself stays as it is (Hu 2021, arXiv:2106.09685).

With a magnitude of its own for each row (Liu 2024, arXiv:2402.09353), and of matrices that lie in few bits (Dettmers 2023,
arXiv:2305.14314). Knows modules and their names; no file, no system and no family of networks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from maquette.contracts import Around, Condition, Network
from maquette.nn.packed import Packed

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj", "qkv")  # of attention


@dataclass(frozen=True)
class Low:
    """A change of one weight: scale * up @ down, as files have it.

    Args:
        down: [R,I], or of a convolution [R,I,h,w].
        up: [O,R], or of a convolution [O,R,1,1].
        size: the norms [O] of the changed rows, learnt apart from where these point (Liu 2024, eq. 5); None = as they come.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    size: Tensor | None = None

    def change(self, weight: Tensor) -> Tensor:
        """What is added to a weight [O,I,...] before its rows are brought to their size: of its shape and kind."""
        return (self.scale * (self.up.flatten(1) @ self.down.flatten(1))).view(weight.shape).to(weight.dtype)

    def ratio(self, weight: Tensor) -> Tensor | None:
        """By what a weight's rows, with what is added, are multiplied: [O]; their norms are taken for constants (sec. 4.3)."""
        if self.size is None:
            return None
        with torch.no_grad():
            norms = (weight + self.change(weight)).flatten(1).float().norm(dim=1)
        return self.size / norms

    def changed(self, weight: Tensor) -> Tensor:
        """A weight [O,I,...] with its change."""
        made, ratio = weight + self.change(weight), self.ratio(weight)
        return made if ratio is None else made * ratio.to(made.dtype).view(-1, *[1] * (made.ndim - 1))


def matched(net: nn.Module, patterns: Iterable[str] = PROJECTIONS) -> list[str]:
    """Names of the linear layers and convolutions whose name is, or ends in, one of the patterns: "to_q", "attn1.to_out.0".

    Raises:
        ValueError: a pattern that nothing bears when patterns are said, or none of the usual ones.
    """
    wanted = tuple(patterns)
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d | Packed)]
    found = [name for name in layers if any(f".{name}".endswith(f".{pattern}") for pattern in wanted)]
    if not found:
        some = sorted({name.rpartition(".")[2] for name in layers})
        raise ValueError(f"no layer of {type(net).__name__} is called {', '.join(wanted)}; there are {', '.join(some)}")
    return found


class Adapted(Around):
    """A network whose weights are W + alpha / rank * B A, B and A its own parameters (Hu 2021, eq. 3); the network's it shares.

    The network is no part of it: another role holds it, frozen. So what learns, is averaged and optimised is A and B alone, and
    several adapters may stand on one network. The sum is made anew at every call, of whatever layer, however that uses its
    weight; that costs O I R products a layer and a copy of the adapted weights, which low-rank activations would not. Those are
    what a layer that lies in few bits has added to what it gives, and its matrix is never whole but for a moment.

    Args:
        net: what is adapted.
        names: of its linear layers and convolutions.
        rank: of every change; at most the smaller side of each weight.
        alpha: the change is scaled by alpha / rank; 0 = as the rank.
        sizes: the norm of each row of a changed weight is learnt by itself (Liu 2024: DoRA).
        fresh: name of a matrix -> how many of its last rows learn whole: those of new symbols.

    Raises:
        ValueError: a rank out of range.
    """

    def __init__(
        self,
        net: Network,
        names: Iterable[str],
        rank: int = 4,
        alpha: float = 0.0,
        *,
        sizes: bool = False,
        fresh: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self._net = (net,)  # a tuple hides it from PyTorch: its weights are not this module's
        self.scale = (alpha or rank) / rank if rank else 0.0
        self.names = tuple(names)
        self.factors = nn.Module()
        for name in self.names:
            weight = cast(Tensor, net.get_submodule(name).weight)
            most = min(weight.shape[0], weight[0].numel())
            if not 1 <= rank <= most:
                shape, near = tuple(weight.shape), min(max(1, rank), most)
                raise ValueError(f"rank is {rank}; for {name}, {shape}, it must lie in 1 .. {most}, nearest is {near}")
            _plant(self.factors, name, _Factors(weight, rank, sizes))
        self.fresh = dict(fresh or {})
        for name, rows in self.fresh.items():
            weight = cast(Tensor, net.get_submodule(name).weight)
            _plant(self.factors, name, _Held(rows, weight.shape[1]))

    @property
    def net(self) -> Network:  # type: ignore[override]
        return self._net[0]

    def change(self, name: str) -> Low:
        """The change of a layer's weight, as it is now."""
        held = cast(_Factors, self.factors.get_submodule(name))
        return Low(held.lora_A.weight, held.lora_B.weight, self.scale, held.lora_magnitude_vector)

    def weights(self) -> dict[str, Tensor]:
        """The adapted weights by name, but for those that lie in few bits."""
        found = {}
        for name in self.names:
            layer = self.net.get_submodule(name)
            if not isinstance(layer, Packed):
                found[f"{name}.weight"] = self.change(name).changed(cast(Tensor, layer.weight))
        for name, rows in self.fresh.items():
            weight, more = cast(Tensor, self.net.get_submodule(name).weight), cast(_Held, self.factors.get_submodule(name))
            found[f"{name}.weight"] = torch.cat([weight[:-rows], weight[-rows:] + more.weight.to(weight.dtype)])
        return found

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: Any = None,
        only: Tensor | None = None,
    ) -> Tensor:
        told = {"t": t, "cond": cond, "state": state, **({} if only is None else {"only": only})}
        with self._added():
            return functional_call(self.net, self.weights(), (x,), told, tie_weights=False)

    @contextmanager
    def _added(self) -> Iterator[None]:
        """Within: layers that lie in few bits give what they would with their changes."""
        layers = [(name, self.net.get_submodule(name)) for name in self.names]
        packed = [(name, layer) for name, layer in layers if isinstance(layer, Packed)]
        hooks = [layer.register_forward_hook(partial(_along, self.change(name))) for name, layer in packed]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapted:
        """Another adapter, as this one is now, on the same network."""
        memo[id(self._net)] = self._net
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def whole(net: Network) -> Network:
    """A network that stands by itself: of an adapted one a copy with its changes merged in, else itself."""
    if not isinstance(net, Adapted):
        return net
    made = plain(net.net)
    merge(made, {name: net.change(name) for name in net.names})
    kept = dict(made.named_parameters())
    with torch.no_grad():
        for name, weight in net.weights().items():
            if name.removesuffix(".weight") in net.fresh:
                kept[name].copy_(weight)
    return made


def plain(net: Network) -> Network:
    """A copy of a network whose matrices lie in as many bits as it computes in."""
    made = copy.deepcopy(net)
    packed = [(path, module) for path, module in made.named_modules() if isinstance(module, Packed)]
    for path, module in packed:
        _plant(made, path, unpacked(module))
    return made.float() if packed else made


def unpacked(layer: Packed) -> nn.Linear:
    """A layer as it was before it was put into few bits, but for what that lost."""
    made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device=layer.codes.device)
    with torch.no_grad():
        made.weight.copy_(layer.weight)
        if layer.bias is not None:
            made.bias.copy_(layer.bias)
    return made


@torch.no_grad()
def merge(net: nn.Module, changes: Mapping[str, Low], times: float = 1.0) -> dict[str, Tensor]:
    """Add changes to a network's weights, `times` each; with -1 they are taken away again, to the last bits.

    Returns:
        By what rows were multiplied, where a change says their sizes, [O] by name: what `parted` needs to take it away again.

    Raises:
        AttributeError, RuntimeError: a layer that is not there, or of another shape.
        ValueError: a part of a change, `times` other than 1, that says the sizes of rows.
    """
    ratios: dict[str, Tensor] = {}
    for name, low in changes.items():
        weight = cast(Tensor, net.get_submodule(name).weight)
        ratio = low.ratio(weight)
        if ratio is not None and times != 1:
            raise ValueError(f"{name} is changed in size as well: it is added whole, times 1, not {times}")
        weight.add_(low.change(weight), alpha=times)
        if ratio is not None:
            weight.mul_(ratio.view(-1, *[1] * (weight.ndim - 1)))
            ratios[name] = ratio
    return ratios


@torch.no_grad()
def parted(net: nn.Module, changes: Mapping[str, Low], ratios: Mapping[str, Tensor]) -> None:
    """Take changes away that `merge` added and returned the ratios of."""
    for name, low in changes.items():
        weight = cast(Tensor, net.get_submodule(name).weight)
        if name in ratios:
            weight.div_(ratios[name].view(-1, *[1] * (weight.ndim - 1)))
        weight.sub_(low.change(weight))


def _along(low: Low, layer: Packed, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """What a layer gives with its change, whose matrix is not made."""
    x, linear = given[0], nn.functional.linear
    more = low.scale * linear(linear(x, low.down.to(x.dtype)), low.up.to(x.dtype)).to(out.dtype)
    if low.size is None:
        return out + more
    ratio, bias = low.ratio(layer.weight), 0 if layer.bias is None else layer.bias.to(out.dtype)
    assert ratio is not None
    return (out - bias + more) * ratio.to(out.dtype) + bias


class _Factors(nn.Module):
    """B and A under the names that files have, and the rows' norms; B A is 0 at first (Hu 2021, sec. 4.1)."""

    lora_magnitude_vector: Tensor | None

    def __init__(self, weight: Tensor, rank: int, sizes: bool):
        super().__init__()
        ones = [1] * (weight.ndim - 2)
        self.lora_A, self.lora_B = _Held(rank, *weight.shape[1:]), _Held(len(weight), rank, *ones)
        bound = 1 / math.sqrt(weight[0].numel())
        nn.init.uniform_(self.lora_A.weight, -bound, bound)
        norms = nn.Parameter(weight.detach().flatten(1).float().norm(dim=1)) if sizes else None
        self.register_parameter("lora_magnitude_vector", norms)


class _Held(nn.Module):
    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def _plant(root: nn.Module, name: str, leaf: nn.Module) -> None:
    """Put a module at the end of a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, leaf)
