"""The space of styles, looked into: a picture's own style, directions that nobody labelled, one picture's coarse styles with
another's fine ones. Knows a mapping and a synthesis network by what they are called with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.contracts import Code
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


def project(
    system: System, code: Code, *, steps: int = 200, rate: float = 0.05, each: bool = False, tries: int = 256
) -> tuple[Tensor, Tensor]:
    """The styles whose images come closest to `code` [B,C,H,W] (Karras 2020, sec. 5): styles [B,L,W], and distances [B].

    Each row begins at the nearest of `tries` styles drawn from the mapping network and descends from there by Adam. Closeness is
    the mean squared difference of the pictures, of their halves and of their quarters in size, in the code's own units; noise is
    left out, so that no detail hides in it.

    Args:
        rate: Adam's, in standard deviations of the styles drawn; it falls to 0.
        each: a style per layer (W+ of Abdal 2019: closer, and less of a style) instead of one for all (W).

    Raises:
        ValueError: steps or tries below 1, or pictures of another shape than the system's.
    """
    for name, value in (("steps", steps), ("tries", tries)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    synthesis = system.steady("synthesis")
    drawn = styles(system, Streams.of(0, tries, device=code.device))
    with torch.no_grad():
        known = torch.cat([synthesis(part) for part in drawn.split(64)])
        if known.shape[1:] != code.shape[1:]:
            raise ValueError(f"pictures are of shape {tuple(code.shape[1:])}, this system's of {tuple(known.shape[1:])}")
        nearest = torch.cdist(_seen(code), _seen(known)).argmin(1)
    count = synthesis.styles if each else 1
    unit = drawn.std(0).mean()
    moved = torch.zeros(len(code), count, drawn.shape[1], device=code.device)
    best, found = torch.full((len(code),), torch.inf, device=code.device), drawn[nearest][:, None] + moved
    with torch.enable_grad():
        moved.requires_grad_(True)
        optimizer = torch.optim.Adam([moved], lr=rate)
        for step in range(steps + 1):
            w = (drawn[nearest][:, None] + unit * moved).expand(-1, synthesis.styles, -1)
            away = (_seen(synthesis(w)) - _seen(code)).square().sum(1)
            better = away.detach() < best
            best = torch.where(better, away.detach(), best)
            found = torch.where(better[:, None, None], w.detach(), found)
            if step == steps:
                break
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            (moved.grad,) = torch.autograd.grad(away.sum(), moved)
            optimizer.step()
    return found, best


def _seen(x: Tensor) -> Tensor:
    """A picture at three sizes as one vector, whose squared length is the sum of three mean squares: [B,C,H,W] -> [B,N]."""
    found = []
    for _ in range(3):
        found.append(x.flatten(1) / x[0].numel() ** 0.5)
        if min(x.shape[2:]) < 4:
            break
        x = F.avg_pool2d(x, 2)
    return torch.cat(found, 1)


@torch.no_grad()
def styles(system: System, rng: Streams) -> Tensor:
    """Styles drawn as in sampling, of conditions drawn from training: [B,W]."""
    mapping: Any = system.steady("mapping")
    about = system.conditioner.guess(rng.fork(1)) if system.conditioner is not None else {}
    return mapping(rng.normal(mapping.latent), cond=system.condition(about) if about else None)


def directions(synthesis: Any, count: int = 6, layers: slice = slice(None)) -> Tensor:
    """Unit vectors [count,W] along which styles change what layers do the most, largest first (Shen 2021, SeFa, eq. 5).

    The leading eigenvectors of A'A, where A holds the weights from style to scale of all chosen layers: no data, no labels.

    Raises:
        ValueError: count outside 1 .. W.
    """
    weights = torch.cat([weight / weight.norm(dim=1, keepdim=True) for weight in synthesis.scales()[layers]]).detach().double()
    if not 1 <= count <= weights.shape[1]:
        raise ValueError(f"count is {count}; a style of {weights.shape[1]} numbers has 1 to {weights.shape[1]} directions")
    _, vectors = torch.linalg.eigh(weights.T @ weights)
    return vectors.flip(1)[:, :count].T.float()


def mixed(coarse: Tensor, fine: Tensor, count: int, cut: int) -> Tensor:
    """Row i's style below layer `cut`, column j's from it on: [R,W], [C,W] -> [R,C,count,W] (Karras 2019, sec. 3.1).

    Raises:
        ValueError: a cut outside 1 .. count - 1, which would mix nothing.
    """
    if not 1 <= cut < count:
        raise ValueError(f"cut is {cut}; with {count} layers it must lie in 1..{count - 1}, the first layer of the fine styles")
    second = (torch.arange(count, device=coarse.device) >= cut)[:, None]
    return torch.where(second, fine[None, :, None], coarse[:, None, None])
