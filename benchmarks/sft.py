"""What fine-tuning takes: memory beyond the model's own process, and tokens a second, of all weights and of adapters; beside trl.

A Qwen 3 of random weights and its chat template, on rows of one length, each way in a process of its own, one thread. Memory is
the most that the process held while it learnt, less what it held before there was any model; time is the process's own, without
the first two steps. trl is asked where it is installed. Writes benchmarks/DATE-sft.md and .json.

    python benchmarks/sft.py
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {"rank": 0},
    "LoRA, rank 8": {"rank": 8},
    "DoRA, rank 8": {"rank": 8, "dora": True},
    "LoRA on 8 bits": {"rank": 8, "bits": 8},
    "LoRA on 4 bits": {"rank": 8, "bits": 4},
}
BATCH, LENGTH, WARM = 2, 128, 2
TEMPLATE = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}{% if message.role == 'assistant' %}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{% else %}
{{- message.content + '<|im_end|>' }}{% endif %}{% endfor %}"""


def model(folder: Path, width: int, depth: int) -> None:
    """Write the model and its tokenizer of bytes."""
    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE({one: i for i, one in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    config = transformers.Qwen3Config(
        vocab_size=1024, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=depth, num_attention_heads=width // 64,
        num_key_value_heads=width // 128, head_dim=64, max_position_embeddings=LENGTH, bos_token_id=256, eos_token_id=258,
        pad_token_id=256, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **marks}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def talks(count: int = 64) -> list[dict[str, Any]]:
    """Conversations of LENGTH symbols each, nearly."""
    asked = [{"role": "user", "content": f"{i:03d} " + "what is it? " * 3} for i in range(count)]
    return [{"messages": [one, {"role": "assistant", "content": "it is that. " * 4 + one["content"][:3]}]} for one in asked]


def held() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def figures(peak: int, pace: float, losses: list[float]) -> dict[str, float]:
    return {"MB": peak / 1e6, "tokens/s": BATCH * LENGTH * pace, "first loss": losses[0], "last loss": losses[-1]}


def ours(folder: Path, rows: Path, steps: int, way: dict[str, Any]) -> dict[str, float]:
    import torch._dynamo  # the first optimizer imports it, and theirs has by then

    from maquette.recipes.instruction import sft  # what any run imports is nobody's own
    from maquette.runs import build
    from maquette.train import Progress, run

    assert sft and torch._dynamo

    before, kept, losses = held(), 0.0, []
    experiment, _ = build("sft", {"run": str(folder), "data": str(rows), "packed": False, "context": LENGTH, **way}, 0)
    experiment.data.train.rows(torch.arange(2))
    fit = dataclasses.replace(experiment.fit, steps=steps, batch=BATCH, lr=1e-4)
    for step, logs in enumerate(run(experiment.system, experiment.data, Progress(fit)), 1):
        losses.append(float(logs["predict/loss"]))
        kept = time.process_time() if step == WARM else kept
    used = time.process_time() - kept
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return figures(peak, (steps - WARM) / used, losses)


def theirs(folder: Path, rows: Path, steps: int, rank: int) -> dict[str, float]:
    import datasets
    import peft
    import transformers
    import trl

    transformers.utils.logging.disable_progress_bar()
    before, marks = held(), dict[str, float]()

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == WARM:
                marks["kept"] = time.process_time()

    args = trl.SFTConfig(
        output_dir=str(folder.parent / "trl"), use_cpu=True, report_to=[], per_device_train_batch_size=BATCH, max_steps=steps,
        learning_rate=1e-4, assistant_only_loss=True, max_length=LENGTH, bf16=False, logging_steps=1, save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False, pad_to_multiple_of=LENGTH,
    )  # fmt: skip
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]) if rank else None
    told = datasets.Dataset.from_list([json.loads(line) for line in rows.read_text().splitlines()])
    trainer = trl.SFTTrainer(model=str(folder), args=args, train_dataset=told, peft_config=config, callbacks=[Clock()])
    trainer.train()
    used = time.process_time() - marks["kept"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return figures(peak, (steps - WARM) / used, losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("--width", 512), ("--depth", 6), ("--steps", 6)):
        parser.add_argument(name, type=int, default=usual)
    parser.add_argument("--way", default="")
    parser.add_argument("--folder", default="")
    said = parser.parse_args()
    torch.set_num_threads(1)
    if said.way:
        folder, rows = Path(said.folder) / "model", Path(said.folder) / "rows.jsonl"
        if said.way.startswith("trl"):
            found = theirs(folder, rows, said.steps, 8 if "LoRA" in said.way else 0)
        else:
            found = ours(folder, rows, said.steps, WAYS[said.way])
        print("FOUND" + json.dumps(found))
        return
    told: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        model(Path(place) / "model", said.width, said.depth)
        Path(place, "rows.jsonl").write_text("\n".join(map(json.dumps, talks())))
        for way in [*WAYS, "trl, all weights", "trl, LoRA, rank 8"]:
            words = [sys.executable, __file__, "--way", way, "--folder", place, "--steps", str(said.steps)]
            done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
            lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
            if lines:
                told[way] = json.loads(lines[0].removeprefix("FOUND"))
                print(way, told[way], flush=True)
            else:
                print(f"{way}: not measured: {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
    report(told, vars(said))


def report(told: dict[str, dict[str, float]], said: dict[str, Any]) -> None:
    """The table, and the figures it is made of."""
    whole = told["all weights"]["MB"]
    columns = ("way", "peak MB", "of all weights'", "tokens / CPU-second", "loss at first", "at last")
    lines = [f"# Fine-tuning: what it takes ({datetime.date.today()})", "", *_doc(), ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for way, found in told.items():
        share = f"{found['MB'] / whole:.2f}"
        losses = f"{found['first loss']:.3f} | {found['last loss']:.3f}"
        lines.append(f"| {way} | {found['MB']:.0f} | {share} | {found['tokens/s']:.0f} | {losses} |")
    lines += ["", f"Width {said['width']}, {said['depth']} blocks, {said['steps']} steps of {BATCH} rows of {LENGTH} symbols; "
              f"torch {torch.__version__}, one thread."]  # fmt: skip
    stem = HERE / f"{datetime.date.today()}-sft"
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    stem.with_suffix(".json").write_text(json.dumps({"asked": said, "found": told}, indent=1) + "\n")
    print("\n".join(lines))


def _doc() -> list[str]:
    return [line for line in (__doc__ or "").strip().splitlines()[2:7] if line]


if __name__ == "__main__":
    main()
