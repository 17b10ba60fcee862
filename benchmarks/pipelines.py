"""A picture from a prompt, whole: text encoder, 20 guided steps of DDIM, decoder; ours and diffusers' from one saved folder.

A small pipeline in Stable Diffusion's layout, 34 M parameters in its U-Net, 4 x 32 x 32 latents, one thread. Every row is
measured in turn, round after round, in CPU-seconds and in wall seconds (what a busy machine takes away is in the second alone);
ratios are of minima of CPU-seconds, each side in its faster arithmetic. Writes benchmarks/DATE-pipelines.md and .json.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from maquette.data.tokens import Tokens
from maquette.hub import pipelines
from maquette.samplers.solvers import Solver
from maquette.streams import Streams

OURS, THEIRS = "ours", "diffusers"
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS, GUIDANCE, SHAPE, VOCAB = 20, 7.5, (4, 32, 32), 600
CAPTION, NEGATIVE = "a small red circle on grey", "blurred"
UNET = {
    "sample_size": 32,
    "block_out_channels": (64, 128, 256, 256),
    "cross_attention_dim": 128,
    "attention_head_dim": 8,
}
CODEC = {
    "block_out_channels": (32, 64),
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 2,
}
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "bos_token_id": VOCAB - 2,
    "eos_token_id": VOCAB - 1,
}


def saved(folder: Path) -> Path:
    """The pipeline, as diffusers saves it; weights as its classes begin."""
    torch.manual_seed(0)
    tokens = Tokens()
    tokens.learn([CAPTION, NEGATIVE] * 3, VOCAB)
    model = json.loads(tokens.tokenizer.to_str())["model"]
    words = folder / "words"
    words.mkdir()
    (words / "vocab.json").write_text(json.dumps(model["vocab"]))
    (words / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (words / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "pad_token": "<|endoftext|>"}))
    pipe = diffusers.StableDiffusionPipeline(
        diffusers.AutoencoderKL(**CODEC),
        transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)),
        transformers.CLIPTokenizer.from_pretrained(words),
        diffusers.UNet2DConditionModel(**UNET),
        diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
            steps_offset=1,
        ),
        None,
        None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def ours(folder: Path, kind: str) -> Callable[[int], Tensor]:
    system = pipelines.read(folder, dtype=KINDS[kind]).system
    assert isinstance(system.sampler, Solver)
    solver = replace(system.sampler, steps=STEPS, guidance=GUIDANCE)

    def sample(n: int) -> Tensor:
        return system.sample(n, about={"text": [CAPTION] * n, "negative": [NEGATIVE] * n}, sampler=solver)["image"]

    return sample


def theirs(folder: Path, kind: str) -> Callable[[int], Tensor]:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=KINDS[kind])
    pipe.set_progress_bar_config(disable=True)

    def sample(n: int) -> Tensor:
        noise = Streams.of(0, n).fork(1).normal(*SHAPE).to(KINDS[kind])
        told = {"prompt": [CAPTION] * n, "negative_prompt": [NEGATIVE] * n}
        return pipe(num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise, output_type="pt", **told).images

    return sample


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    """Seconds of every row, and how far the pictures of both sides lie apart: of all so far, after each batch."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = saved(Path(folder))
        made = {(side, kind): make(pipe, kind) for kind in KINDS for side, make in ((OURS, ours), (THEIRS, theirs))}
        rows: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
        apart: dict[str, float] = {}
        for _ in range(rounds):
            for n in (1, 4):
                pictures: dict[tuple[str, str], Tensor] = {}
                for who, sample in made.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    pictures[who] = sample(n).float()
                    rows.setdefault((*who, n), []).append((time.process_time() - cpu, time.perf_counter() - wall))
                    print(*who, n, *rows[*who, n][-1], flush=True)
                for kind in KINDS:
                    far = float((pictures[OURS, kind] - pictures[THEIRS, kind]).abs().max())
                    apart[kind] = max(far, apart.get(kind, 0.0))
                yield {"largest difference": apart, **summed(rows)}


def summed(rows: dict[tuple[str, str, int], list[tuple[float, float]]]) -> dict[str, Any]:
    """Minima and medians of each row, and the sides' ratios."""
    found = [
        {
            "side": side,
            "arithmetic": kind,
            "batch": n,
            "cpu_seconds": min(cpu for cpu, _ in each),
            "wall_seconds": min(wall for _, wall in each),
            "median_cpu_seconds": statistics.median(cpu for cpu, _ in each),
            "rounds": [[round(cpu, 4), round(wall, 4)] for cpu, wall in each],
        }
        for (side, kind, n), each in rows.items()
    ]
    ratios = {}
    for n in sorted({n for _, _, n in rows}):
        best = {side: min(r["cpu_seconds"] for r in found if r["side"] == side and r["batch"] == n) for side in (OURS, THEIRS)}
        ratios[f"batch {n}"] = best[THEIRS] / best[OURS]
    return {"rows": found, "diffusers over ours": ratios}


def report(told: dict[str, Any]) -> str:
    lines = [
        f"# A picture from a prompt, {told['date']}",
        "",
        f"A Stable Diffusion layout (U-Net {UNET['block_out_channels']}, CLIP text of {TEXT['num_hidden_layers']} layers, "
        f"AutoencoderKL {CODEC['block_out_channels']}, latents {'x'.join(map(str, SHAPE))}), {STEPS} steps of DDIM, guidance "
        f"{GUIDANCE}, a negative prompt. {told['machine']}, one thread, torch {told['torch']}, diffusers {told['diffusers']}; "
        f"minima of {told['rounds']} rounds in turn.",
        "",
        "| batch | side | arithmetic | CPU-seconds | wall seconds | median CPU-seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(told["rows"], key=lambda row: (row["batch"], row["side"], row["arithmetic"])):
        lines.append(
            f"| {row['batch']} | {row['side']} | {row['arithmetic']} | {row['cpu_seconds']:.3f} | {row['wall_seconds']:.3f} | "
            f"{row['median_cpu_seconds']:.3f} |"
        )
    said = "; ".join(f"{name}: {ratio:.2f}" for name, ratio in told["diffusers over ours"].items())
    apart = "; ".join(f"{kind}: {value:.1e}" for kind, value in told["largest difference"].items())
    lines += [
        "",
        f"diffusers over ours, each in its faster arithmetic, CPU-seconds: {said}.",
        f"Largest difference of the pictures in 0..1, ours rounded to 256 levels as decoding does: {apart}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    about = {"date": date.today().isoformat(), "machine": platform.processor() or platform.machine()}
    about |= {"torch": torch.__version__, "diffusers": diffusers.__version__}
    for found in measure(given.rounds):
        told = {**about, "rounds": max(len(row["rounds"]) for row in found["rows"]), **found}
        stem = f"{told['date']}-pipelines"
        (given.out / f"{stem}.json").write_text(json.dumps(told, indent=1) + "\n")
        (given.out / f"{stem}.md").write_text(report(told))
        print(report(told), flush=True)


if __name__ == "__main__":
    main()
