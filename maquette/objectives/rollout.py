"""What is learnt from what was just written: draw it from a network, and read it again as it was drawn. Knows no loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Reporting, Sampler
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


@torch.no_grad()
def rollout(system: System, sampler: Sampler, start: Code, rng: Streams) -> tuple[Code, Tensor | None]:
    """What a sampler writes behind each start, int64[n,T], by the network "main" as it is now; and at which log-probability it
    drew each symbol, where it says so."""
    net, learning, told = system.nets["main"], system.nets["main"].training, None
    net.eval()
    with torch.autocast(system.device.type, enabled=False):  # a memory would be rounded anew at every symbol
        if isinstance(sampler, Reporting):
            code, told = sampler.reported(system, len(start), start=start, rng=rng)
        else:
            *_, code = sampler.draw(system, len(start), start=start, rng=rng)
    net.train(learning)
    return code, told


def answered(code: Code, start: Code, codec: Any) -> Tensor:
    """Which symbols were written, the one that ends an answer among them and none behind: bool[n,T]."""
    free = start == IGNORE
    ends = (torch.isin(code, torch.tensor(codec.ends, device=code.device)) & free).long()
    return free & ((ends.cumsum(1) - ends) == 0)


def alone(code: Code, codec: Any) -> Tensor | None:
    """Which inputs see each other when what was drawn is read again: all, None; or all but what stands before the first symbol,
    where nothing stood there when it was drawn, int64[n,T]."""
    if codec.begins:
        return None
    return torch.arange(code.shape[1], device=code.device).clamp(max=1).expand_as(code)
