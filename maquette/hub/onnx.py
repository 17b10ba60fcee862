"""A network of symbols as an ONNX graph: int64[B,T] -> logits float32[B,T,V], any batch, any length up to the codec's.

Needs the packages onnx and onnxscript: pip install 'maquette[export]'. Writes, and reads nothing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from maquette.networks.own_mask import OwnMask
from maquette.networks.transformer import Transformer
from maquette.nn.experts import Experts
from maquette.nn.lora import whole
from maquette.system import System


class _Scores(nn.Module):
    """What the graph computes."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, symbols: Tensor) -> Tensor:
        return self.net(symbols).float()


def write(system: System, out: Path) -> str:
    """Write the network of a system that writes text, without memory or sampler, to a file; returns "onnxruntime".

    Raises:
        FileExistsError: the file is there.
        ValueError: it is no lone transformer, or has experts, whose symbols no graph can count beforehand.
        ModuleNotFoundError: a package is missing.
    """
    net = whole(cast(Any, system.steady("main")))
    inner = net.net if isinstance(net, OwnMask) else net
    if not isinstance(inner, Transformer) or system.conditioner is not None:
        kind = type(inner).__name__
        raise ValueError(
            f"written as ONNX are transformers of symbols that are told nothing; this system's is a {kind}, or is told"
        )
    if any(isinstance(part, Experts) for part in inner.modules()):
        raise ValueError("experts are not written as ONNX: which symbols go through which is not known before they are there")
    if out.exists():
        raise FileExistsError(f"{out} is there already; name another file")
    try:
        import onnxscript  # noqa: F401, what torch writes by
    except ModuleNotFoundError:
        raise ModuleNotFoundError("writing ONNX needs the packages onnx and onnxscript: pip install 'maquette[export]'") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    length = min(8, int(system.codec.length))
    example = torch.zeros(2, length, dtype=torch.int64)
    sizes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length", min=2, max=max(2, int(system.codec.length)))}
    large = sum(p.numel() * p.element_size() for p in net.parameters()) > 1 << 30
    with _silence():
        torch.onnx.export(
            _Scores(net).eval(),
            (example,),
            str(out),
            dynamo=True,
            input_names=["symbols"],
            output_names=["logits"],
            dynamic_shapes=(sizes,),
            verbose=False,
            external_data=large,
        )
    return "onnxruntime"


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's own warnings: of libraries that are not there, of what it will call otherwise one day."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
