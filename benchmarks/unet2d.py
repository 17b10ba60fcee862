"""A training step and a sampling step of one U-Net, ours and diffusers' UNet2DModel: the same weights, batch and arithmetic.

6.5 M parameters, 3 x 32 x 32, batch 32, one thread. Every row is measured in turn, round after round, in CPU-seconds (what a
busy machine takes away is not the network's doing) and in wall seconds; ratios are of minima of CPU-seconds.
Writes benchmarks/DATE-unet2d.md and .json.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from maquette.networks.plans2d import Plan
from maquette.networks.unet2d import UNet2D

CONFIG = {
    "sample_size": 32,
    "block_out_channels": (64, 128, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
BATCH, OURS, THEIRS = 32, "ours", "diffusers"
# (side, arithmetic, compiled): bf16 = autocast; weights = bfloat16 weights
TRAINING = [(THEIRS, "fp32", False), (THEIRS, "bf16", False), (OURS, "fp32", False), (OURS, "bf16", False)]
SAMPLING = [(side, kind, False) for side in (THEIRS, OURS) for kind in ("fp32", "bf16", "weights")]
COMPILED = {
    "training": [(THEIRS, "bf16", True), (OURS, "bf16", True)],
    "sampling": [(THEIRS, "weights", True), (OURS, "weights", True)],
}


def twins() -> tuple[nn.Module, UNet2D]:
    """Theirs and ours with the same weights."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(**CONFIG)
    ours = UNet2D(Plan.of(theirs.config))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def call(side: str, net: nn.Module, x: Tensor, step: Tensor) -> Tensor:
    return net(x, t=(step + 1) / 1000) if side == OURS else net(x, step, return_dict=False)[0]


def batch(index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, steps and noise: any will do, as long as both sides get the same."""
    rng = torch.Generator().manual_seed(index)
    shape = (BATCH, 3, 32, 32)
    return torch.randn(shape, generator=rng), torch.randint(1000, (BATCH,), generator=rng), torch.randn(shape, generator=rng)


def cast(kind: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if kind == "bf16" else nullcontext()


def trainer(side: str, net: nn.Module, kind: str) -> Callable[[], float]:
    """One step of epsilon prediction with AdamW, as either library's users write it; returns the loss."""
    net.train()
    optimizer, count = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True), iter(range(1 << 30))

    def step() -> float:
        x, at, noise = batch(next(count))
        with cast(kind):
            loss = (call(side, net, x, at).float() - noise).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def sampler(side: str, net: nn.Module, kind: str) -> Callable[[], float]:
    """One call of the network, as every step of every sampler makes it; returns the error of estimating `noise`."""
    net.eval().requires_grad_(False)
    x, at, noise = batch(0)
    shown = x.bfloat16() if kind == "weights" else x

    def step() -> float:
        with torch.no_grad(), cast(kind):
            return float((call(side, net, shown, at).float() - noise).square().mean())

    return step


def row(kind_of: str, side: str, kind: str, compiled: bool, pair: tuple[nn.Module, UNet2D]) -> Callable[[], float]:
    net = copy.deepcopy(pair[side == OURS])
    net = net.bfloat16() if kind == "weights" else net
    if compiled:
        net.compile()
    return (trainer if kind_of == "training" else sampler)(side, net, kind)


def measure(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Each row's least CPU and wall seconds over rounds of all rows, and the loss it ended with."""
    found = {name: {"cpu": float("inf"), "wall": float("inf"), "loss": 0.0} for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            loss = step()
            best = found[name]
            best["cpu"] = min(best["cpu"], time.process_time() - cpu)
            best["wall"] = min(best["wall"], time.perf_counter() - wall)
            best["loss"] = loss
    return found


def table(title: str, rows: list[tuple[str, str, bool]], found: dict[str, dict[str, float]]) -> list[str]:
    """Every row beside diffusers' best."""
    names = {label(*one): one for one in rows}
    best = min(found[name]["cpu"] for name, (side, _, _) in names.items() if side == THEIRS)
    lines = [f"| {title} | CPU-s | wall s | loss | times as fast as diffusers' best |", "|---|---|---|---|---|"]
    for name in names:
        one = found[name]
        lines.append(f"| {name} | {one['cpu']:.3f} | {one['wall']:.3f} | {one['loss']:.4f} | {best / one['cpu']:.2f} |")
    return [*lines, ""]


def label(side: str, kind: str, compiled: bool) -> str:
    kinds = {"fp32": "fp32", "bf16": "bf16 autocast", "weights": "bf16 weights"}
    return f"{side}, {kinds[kind]}{', compiled' if compiled else ''}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--rounds", type=int, default=2)
    ask.add_argument("--repeats", type=int, default=2)
    ask.add_argument("--part", choices=("training", "sampling", "both"), default="both")
    ask.add_argument("--compile", action="store_true", help="rows with torch.compile, too: minutes of g++ before the first round")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    pair = twins()
    x, at, _ = batch(0)
    with torch.no_grad():
        far = float((call(THEIRS, pair[0].eval(), x, at) - call(OURS, pair[1].eval(), x, at)).abs().max())
    size = sum(p.numel() for p in pair[1].parameters()) / 1e6
    lines = [f"# A U-Net beside diffusers' UNet2DModel, {date.today()}", ""]
    lines += [
        f"{size:.2f} M parameters, 3 x 32 x 32, batch {BATCH}; {platform.machine()}, 1 thread, torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}. Least of {asked.rounds} rounds of all rows, {asked.repeats} times over.",
        "Loss: after the last step; weights and batches were the same for all rows.",
        "",
        f"Largest difference of the outputs in fp32: {far:.1e} (bar 1e-4).",
        "",
    ]
    kept: dict[str, Any] = {"difference": far, "parameters": size, "torch": torch.__version__, "rows": []}
    for part, rows in (("training", TRAINING), ("sampling", SAMPLING)):
        if asked.part not in (part, "both"):
            continue
        rows = rows + (COMPILED[part] if asked.compile else [])
        steps = {label(*one): row(part, *one, pair) for one in rows}
        measure(steps, 1)  # compiles and allocates
        for repeat in range(asked.repeats):
            found = measure(steps, asked.rounds)
            kept["rows"].append({"part": part, "repeat": repeat, "found": found})
            lines += table(f"{part} step, repeat {repeat + 1}", rows, found)
            print("\n".join(lines[-len(rows) - 3 :]), flush=True)
    path = Path(__file__).parent / f"{date.today()}-unet2d{'' if asked.part == 'both' else '-' + asked.part}.md"
    path.write_text("\n".join(lines))
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    print(f"largest difference {far:.1e}; written to {path}")


if __name__ == "__main__":
    main()
