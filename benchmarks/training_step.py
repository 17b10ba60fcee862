"""A training step of a language model beside transformers': the same shape, batch, numbers of steps, optimizer and precision.

    python benchmarks/training_step.py [--threads 2] [--rounds 4] [--shapes llama,gpt2] [--compiled]

Llama 134M (d768 L12 H12, vocabulary 32,000, hidden 2,048) and GPT-2 124M, random weights, rows of 256 symbols, 4 a step,
bfloat16 autocast, AdamW. Ours is the one loop as `maquette train` runs it (torch.compile included); theirs LlamaForCausalLM or
GPT2LMHeadModel with its own loss, stepped by hand, eager as most run it, and, asked for, under torch.compile too. Rounds
alternate; medians of seconds. Losses included. Writes benchmarks/DATE-training-step.md and .json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maquette.codecs.text import Bytes
from maquette.data.core import Data, Facts, Split
from maquette.distributed import World
from maquette.doctor import gemm
from maquette.experiment import Fit
from maquette.networks import presets
from maquette.networks.style import Ends
from maquette.networks.transformer import Transformer
from maquette.nn.mlp import Gated
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System
from maquette.train import Progress, ready, take_step

BATCH, LENGTH, WIDTH, DEPTH, HEADS = 4, 256, 768, 12, 12
HERE = Path(__file__).parent
Step = Callable[[], object]


def ours(shape: str, code: torch.Tensor, vocab: int) -> tuple[Step, int]:
    """The one loop's step, and how many weights matrix products have."""
    style = presets.gpt2(LENGTH) if shape == "gpt2" else replace(presets.llama(), feed=partial(Gated, hidden=2048), ends=Ends())
    net = Transformer(vocab, WIDTH, DEPTH, HEADS, style=style)
    system = System({"main": net}, NextToken(0), Autoregressive(), Bytes(LENGTH))
    facts = Facts("noise", "text", "simulated", "", "", "", {"train": len(code), "held": len(code)})
    data = Data(facts, lambda: {"train": Split({"code": code}), "held": Split({"code": code})})
    fit = Fit(steps=1 << 30, batch=BATCH, lr=1e-4, bf16=True, compile=True)
    ready(system, fit)
    system.train()
    progress, world = Progress(fit), World()
    inside = sum(p.numel() for name, p in net.named_parameters() if p.ndim == 2 and not name.startswith(("embed", "places")))
    return lambda: take_step(system, data, progress, world), inside + (vocab * WIDTH if shape == "gpt2" else 0)


def theirs(shape: str, code: torch.Tensor, vocab: int, compiled: bool) -> Step:
    """transformers' model, stepped by hand."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    size: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "vocab_size": vocab}
    made: Any = (
        GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=LENGTH))
        if shape == "gpt2"
        else LlamaForCausalLM(LlamaConfig(**size, intermediate_size=2048, num_key_value_heads=HEADS))
    )
    made.train()
    if compiled:
        made.compile()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-4, fused=True)
    rows = code[:BATCH]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = made(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())

    return step


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--threads", type=int, default=2)
    asked.add_argument("--rounds", type=int, default=4)
    asked.add_argument("--shapes", default="llama,gpt2")
    asked.add_argument("--compiled", action="store_true")
    given = asked.parse_args()
    torch.set_num_threads(given.threads)
    lines = [
        f"# A training step, {date.today()}",
        "",
        f"{platform.machine()}, {given.threads} threads, torch {torch.__version__}; {BATCH} rows of {LENGTH} symbols, bfloat16 "
        "autocast, AdamW, gradients clipped.",
        f"Medians of {given.rounds} alternating rounds; the bar is 2.2 times theirs, eager.",
        "Made by `python benchmarks/training_step.py`.",
        "",
        "| shape | whose | seconds | CPU-s | symbols/s | GFLOP/s | share of the bf16 matrix product | ours over it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    told: dict[str, Any] = {}
    for shape in given.shapes.split(","):
        vocab = 50257 if shape == "gpt2" else 32000
        code = torch.randint(vocab, (64, LENGTH), generator=torch.Generator().manual_seed(0))
        mine, weights = ours(shape, code, vocab)
        sides: dict[str, Step] = {"maquette": mine, "transformers": theirs(shape, code, vocab, False)}
        if given.compiled:
            sides["transformers, compiled"] = theirs(shape, code, vocab, True)
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for step in sides.values():
            for _ in range(2):
                step()
        ceiling = []
        for _ in range(given.rounds):
            ceiling.append(gemm(torch.bfloat16, 2048))
            for name, step in sides.items():
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                took[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        best = statistics.median(ceiling)
        own = statistics.median(wall for wall, _ in took["maquette"])
        for name, each in took.items():
            wall, cpu = (statistics.median(column) for column in zip(*each, strict=True))
            flops = 6 * weights * BATCH * LENGTH / wall / 1e9
            ratio = statistics.median(a[0] / b[0] for a, b in zip(each, took["maquette"], strict=True))
            cells = [
                shape,
                name,
                f"{wall:.2f}",
                f"{cpu:.2f}",
                f"{BATCH * LENGTH / wall:.0f}",
                f"{flops:.0f}",
                f"{flops / best:.2f}",
            ]
            lines.append("| " + " | ".join([*cells, f"**{ratio:.2f}x**" if name != "maquette" else "1"]) + " |")
            told.setdefault(shape, {})[name] = {"seconds": wall, "cpu": cpu, "GFLOP/s": flops, "ours over it": ratio}
            print(lines[-1], flush=True)
        told[shape]["gemm"], told[shape]["own"] = best, own
    path = HERE / f"{date.today()}-training-step.md"
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
