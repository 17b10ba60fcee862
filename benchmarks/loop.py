"""What the loop costs: the same network, loss and optimizer stepped by hand beside it, A B A B in one process.

By hand means what a careful script would write: index the rows, the loss, backward, clip, the same optimizers, the
moving average.
Writes benchmarks/DATE-loop.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from maquette.distributed import World
from maquette.doctor import gemm
from maquette.runs import build
from maquette.streams import Streams
from maquette.train import Progress, build_optimizers, take_step

ROUNDS, STEPS = 15, 8


def by_hand(recipe: str, **arguments: object) -> Callable[[], None]:
    """A plain PyTorch step of the recipe's own network and loss."""
    experiment, _ = build(recipe, arguments, 0)
    system, fit = experiment.system, experiment.fit
    system.train()
    phase = system.objective.phases()[0]
    parameters = system.turn(phase)
    optimizers = build_optimizers(system.learners(phase), fit)
    rows = len(experiment.data.train)
    pairs = [(follower, leader) for follower, (leader, _) in system.follow.items()]
    step = 0

    def go() -> None:
        nonlocal step
        batch = experiment.data.train.rows(torch.randint(rows, (fit.batch,)))
        with torch.autocast("cpu", torch.bfloat16, enabled=fit.bf16):
            loss, _ = phase.move(system, batch, Streams.of(step, fit.batch), step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, fit.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for follower, leader in pairs:
                old, new = (list(system.roles()[name].parameters()) for name in (follower, leader))
                torch._foreach_lerp_(old, new, 0.01)
        step += 1

    return go


def by_loop(recipe: str, **arguments: object) -> Callable[[], None]:
    """The same step, taken by the loop."""
    experiment, _ = build(recipe, arguments, 0)
    experiment.system.train()
    progress = Progress(experiment.fit, 0)

    def go() -> None:
        take_step(experiment.system, experiment.data, progress, World())

    return go


def compare(recipe: str, **arguments: object) -> tuple[float, float, float]:
    """Median CPU-milliseconds of a step by hand and by the loop, and the median of the paired ratios."""
    ways = [by_hand(recipe, **arguments), by_loop(recipe, **arguments)]
    for go in ways:
        for _ in range(3):
            go()
    seconds: list[list[float]] = [[], []]
    for round_ in range(ROUNDS):
        for index in (0, 1) if round_ % 2 else (1, 0):
            began = time.process_time()
            for _ in range(STEPS):
                ways[index]()
            seconds[index].append((time.process_time() - began) / STEPS)
    ratios = [loop / hand for hand, loop in zip(*seconds, strict=True)]
    return statistics.median(seconds[0]) * 1e3, statistics.median(seconds[1]) * 1e3, statistics.median(ratios)


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        f"# The loop's own cost, {date.today()}",
        "",
        f"One thread, CPU-milliseconds per step, median of {ROUNDS} interleaved rounds of {STEPS} steps;",
        f"torch {torch.__version__}; matrix product {gemm(torch.float32):.0f} GFLOP/s fp32, {gemm(torch.bfloat16):.0f} bf16.",
        "Bar: at most 3 %.",
        "",
        "| recipe | by hand | by the loop | over |",
        "|---|---|---|---|",
    ]
    for recipe in ("flow", "vae", "pixelcnn", "maskgit"):
        hand, loop, ratio = compare(recipe, compile=False)
        lines.append(f"| `{recipe}` on digits | {hand:.2f} | {loop:.2f} | {100 * (ratio - 1):+.1f} % |")
        print(lines[-1], flush=True)
    path = Path(__file__).parent / f"{date.today()}-loop.md"
    path.write_text("\n".join(lines) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
