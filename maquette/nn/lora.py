"""Low-rank changes of a network's weights, learnt while the network itself stays as it is (Hu 2021, arXiv:2106.09685).

Knows modules and their names; no file, no system and no family of networks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from maquette.contracts import Condition, Network

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj", "qkv")  # of attention


@dataclass(frozen=True)
class Low:
    """A change of one weight: scale * up @ down, as files have it.

    Args:
        down: [R,I], or of a convolution [R,I,h,w].
        up: [O,R], or of a convolution [O,R,1,1].
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    def change(self, weight: Tensor) -> Tensor:
        """What is added to a weight [O,I,...]: of its shape and kind."""
        return (self.scale * (self.up.flatten(1) @ self.down.flatten(1))).view(weight.shape).to(weight.dtype)


def matched(net: nn.Module, patterns: Iterable[str] = PROJECTIONS) -> list[str]:
    """Names of the linear layers and convolutions whose name is, or ends in, one of the patterns: "to_q", "attn1.to_out.0".

    Raises:
        ValueError: a pattern that nothing bears when patterns are said, or none of the usual ones.
    """
    wanted = tuple(patterns)
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    found = [name for name in layers if any(f".{name}".endswith(f".{pattern}") for pattern in wanted)]
    if not found:
        some = sorted({name.rpartition(".")[2] for name in layers})
        raise ValueError(f"no layer of {type(net).__name__} is called {', '.join(wanted)}; there are {', '.join(some)}")
    return found


class Adapted(Network):
    """A network whose weights are W + alpha / rank * B A, B and A its own parameters (Hu 2021, eq. 3); the network's it shares.

    The network is no part of it: another role holds it, frozen. So what learns, is averaged and optimised is A and B alone, and
    several adapters may stand on one network. The sum is made anew at every call, of whatever layer, however that uses its
    weight; that costs O I R products a layer and a copy of the adapted weights, which low-rank activations would not.

    Args:
        net: what is adapted.
        names: of its linear layers and convolutions.
        rank: of every change; at most the smaller side of each weight.
        alpha: the change is scaled by alpha / rank; 0 = as the rank.

    Raises:
        ValueError: a rank out of range.
    """

    def __init__(self, net: Network, names: Iterable[str], rank: int = 4, alpha: float = 0.0):
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
            _plant(self.factors, name, _Factors(weight, rank))

    @property
    def net(self) -> Network:
        return self._net[0]

    def change(self, name: str) -> Low:
        """The change of a layer's weight, as it is now."""
        held = cast(_Factors, self.factors.get_submodule(name))
        return Low(held.lora_A.weight, held.lora_B.weight, self.scale)

    def weights(self) -> dict[str, Tensor]:
        """The adapted weights by name."""
        found = {}
        for name in self.names:
            weight = cast(Tensor, self.net.get_submodule(name).weight)
            found[f"{name}.weight"] = weight + self.change(name).change(weight)
        return found

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        return functional_call(self.net, self.weights(), (x,), {"t": t, "cond": cond, "state": state}, tie_weights=False)

    def begin(self, batch: int, length: int) -> Any:
        return self.net.begin(batch, length)

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
    made = copy.deepcopy(net.net)
    merge(made, {name: net.change(name) for name in net.names})
    return made


@torch.no_grad()
def merge(net: nn.Module, changes: Mapping[str, Low], times: float = 1.0) -> None:
    """Add changes to a network's weights, `times` each; with -1 they are taken away again, to the last bits.

    Raises:
        AttributeError, RuntimeError: a layer that is not there, or of another shape.
    """
    for name, low in changes.items():
        weight = cast(Tensor, net.get_submodule(name).weight)
        weight.add_(low.change(weight), alpha=times)


class _Factors(nn.Module):
    """B and A under the names that files have; B A is 0 at first (Hu 2021, sec. 4.1)."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        ones = [1] * (weight.ndim - 2)
        self.lora_A, self.lora_B = _Held(rank, *weight.shape[1:]), _Held(len(weight), rank, *ones)
        bound = 1 / math.sqrt(weight[0].numel())
        nn.init.uniform_(self.lora_A.weight, -bound, bound)


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
