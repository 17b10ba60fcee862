"""How fast gpt trains and decodes, as shares of what this machine can do. How well it models code: benchmarks/code.py.

Training: the one loop at d384 L6 B16 x T256 in bfloat16, between measurements of the machine's own matrix product (A B A B).
Decoding: batch 1, with the key-value memory and without it, the same network. Writes benchmarks/DATE-language.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch

from maquette.codecs.text import Bytes
from maquette.data.core import Data, Facts, Split
from maquette.distributed import World
from maquette.doctor import gemm
from maquette.experiment import Fit
from maquette.networks.presets import PLAIN_QK
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System
from maquette.train import Progress, ready, take_step

ROUNDS, STEPS, VOCAB, CONTEXT = 5, 2, 4096, 256


def noise(rows: int) -> Data:
    """Random windows: speed does not depend on what they say."""
    facts = Facts("noise", "text", "simulated", "", "", "", {"train": rows, "held": rows})
    code = torch.randint(VOCAB, (rows, CONTEXT), generator=torch.Generator().manual_seed(0))
    return Data(facts, lambda: {"train": Split({"code": code}), "held": Split({"code": code})})


def system_of(width: int, depth: int, heads: int) -> System:
    network = Transformer(VOCAB, width, depth, heads, style=Style(attention=partial(Attention, norm=PLAIN_QK)))
    return System({"main": network}, NextToken(0), Autoregressive(temperature=0), Bytes(CONTEXT))


def seconds(call: Callable[[], object]) -> float:
    """CPU-seconds per thread: what a busy machine takes away is not the network's doing."""
    began = time.process_time()
    call()
    return (time.process_time() - began) / torch.get_num_threads()


def training(width: int = 384, depth: int = 6, batch: int = 16, muon: float = 0.0) -> tuple[float, float, float]:
    """(tokens/s, GFLOP/s, median share of the machine's rate measured right before and after): 6 FLOP per weight and token.

    Attention's own products, the embedding, and Muon's are work too, but are not counted as useful.
    """
    system, data = system_of(width, depth, width // 64), noise(256)
    fit = Fit(steps=1 << 30, batch=batch, lr=1e-4, muon=muon, bf16=True, compile=True)
    ready(system, fit)
    system.train()
    progress, world = Progress(fit), World()
    for _ in range(3):
        take_step(system, data, progress, world)
    edges = ("embed",)
    weights = sum(p.numel() for n, p in system.nets["main"].named_parameters() if p.ndim == 2 and not n.startswith(edges))
    tokens, shares, rates = STEPS * batch * CONTEXT, [], []
    ceiling = gemm(torch.bfloat16, 2048)
    for _ in range(ROUNDS):
        took = seconds(lambda: [take_step(system, data, progress, world) for _ in range(STEPS)])
        after = gemm(torch.bfloat16, 2048)
        rates.append(tokens / took)
        shares.append(6 * weights * tokens / took / 1e9 / ((ceiling + after) / 2))
        ceiling = after
    rate = statistics.median(rates)
    return rate, 6 * weights * rate / 1e9, statistics.median(shares)


@torch.no_grad()
def decoding(width: int = 384, depth: int = 6, length: int = 512) -> tuple[float, float, float]:
    """(tokens/s with memory, tokens/s without, largest difference of logits), greedy, batch 1, fp32."""
    network = system_of(width, depth, width // 64).nets["main"].eval()
    for name, p in network.named_parameters():  # trained weights are not zero where fresh ones are
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(len(name)))

    def remember() -> torch.Tensor:
        x, state, seen = torch.zeros(1, 1, dtype=torch.int64), network.begin(1, length), []
        for _ in range(length):
            seen.append(network(x, state=state))
            x = seen[-1].argmax(-1)
        return torch.cat(seen, 1)

    def forget() -> torch.Tensor:
        line, seen = torch.zeros(1, 1, dtype=torch.int64), []
        for _ in range(length):
            seen.append(network(line)[:, -1:])
            line = torch.cat([line, seen[-1].argmax(-1)], 1)
        return torch.cat(seen, 1)

    logits: list[torch.Tensor] = []
    pairs = [(seconds(lambda: logits.append(remember())), seconds(lambda: logits.append(forget()))) for _ in range(2)]
    fast, slow = (statistics.median(side) for side in zip(*pairs, strict=True))
    return length / fast, length / slow, float((logits[0] - logits[1]).abs().max())


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--threads", type=int, default=1)
    asked = ask.parse_args()
    torch.set_num_threads(asked.threads)
    lines = [f"# Language models, {date.today()}", ""]
    lines += [f"{platform.machine()}, {asked.threads} thread(s), torch {torch.__version__}, seconds are CPU-s per thread.", ""]
    lines += ["| training d384 L6 B16 x T256, bf16, compiled | tokens/s | GFLOP/s | share of the bf16 matrix product | bar |"]
    lines += ["|---|---|---|---|---|"]
    for name, muon in (("AdamW", 0.0), ("Muon (the recipe's)", 0.02)):
        rate, flops, share = training(muon=muon)
        lines.append(f"| {name} | {rate:.0f} | {flops:.0f} | {share:.3f} | >= 0.40 |")
        print(lines[-1], flush=True)
    fast, slow, far = decoding()
    lines += ["", "| decoding d384 L6, batch 1, T = 512, fp32 | tokens/s | ratio | bar |", "|---|---|---|---|"]
    lines += [f"| with memory | {fast:.0f} | {fast / slow:.1f}x; logits differ by {far:.1e} | >= 5x, 1e-4 |"]
    lines += [f"| without | {slow:.0f} | 1 | |", ""]
    print("\n".join(lines[-3:]), flush=True)
    path = Path(__file__).parent / f"{date.today()}-language.md"
    path.write_text("\n".join(lines))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
