"""How many symbols of conversations a tiny Llama learns from in a second of one core: all its weights, here and by trl.

    python benchmarks/sft_pace.py [--rounds 2] [--steps 8]

The Llama of stories15M (width 288, 6 blocks, 6 heads, 32,000 symbols), random weights; the built-in instructions as rows of
`messages`, which are of unlike lengths. About the same conversations a step on both sides, AdamW, gradients clipped at 1, loss on
answers alone. Rows are packed here, none sees another, and only answers are scored; trl fills rows up to the batch's longest, or
packs them, and then on a CPU its conversations see each other. Each in float32 and under bfloat16 autocast, each in a process of
its own on one thread, rounds alternating; symbols are the conversations' own, without what fills rows up. Losses are
means of the first and of the last step timed. Writes benchmarks/DATE-sft-pace.md and .json.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sft import TEMPLATE

HERE = Path(__file__).parent
TALKS, LENGTH, WARM = 16, 256, 2  # conversations a step, nearly; symbols of a row
WAYS = {
    f"{whose}{', ' * bool(how)}{how}, {kind}": (whose, how == "packed", kind == "bfloat16")
    for whose, how in (("maquette", ""), ("trl", "filled up"), ("trl", "packed"))
    for kind in ("float32", "bfloat16")
}


def model(folder: Path) -> None:
    """Write the model, its tokenizer of bytes and how it writes conversations."""
    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE({one: i for i, one in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=LENGTH, bos_token_id=256, eos_token_id=258, pad_token_id=256,
        tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **marks}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def talks(count: int = 2000) -> list[str]:
    """Lines of a .jsonl of conversations."""
    from maquette.data import open_data
    from maquette.data.conversations import conversations

    return [json.dumps({"messages": turns}) for turns in conversations(open_data("instructions").train)[:count]]


def ours(folder: Path, rows: Path, steps: int, packed: bool, bf16: bool) -> dict[str, Any]:
    from maquette.contracts import IGNORE
    from maquette.runs import build
    from maquette.train import Progress, run

    experiment, _ = build("sft", {"run": str(folder), "data": str(rows), "rank": 0, "context": LENGTH}, 0)
    split: Any = experiment.data.train
    batch = round(TALKS * len(split) / len(split.written))
    seen, take = [], split.rows

    def counted(index: torch.Tensor) -> Any:
        found = take(index)
        seen.append(int((found["code"] != IGNORE).sum()))
        return found

    split.rows = counted
    fit = dataclasses.replace(experiment.fit, steps=steps + WARM, batch=batch, lr=1e-4, bf16=bf16)
    losses, kept = [], 0.0
    for step, logs in enumerate(run(experiment.system, experiment.data, Progress(fit)), 1):
        losses.append(float(logs["predict/loss"]))
        kept = time.process_time() if step == WARM else kept
    return {"symbols": sum(seen[WARM:]), "seconds": time.process_time() - kept, "losses": losses[WARM:]}


def theirs(folder: Path, rows: Path, steps: int, packed: bool, bf16: bool) -> dict[str, Any]:
    import datasets
    import transformers
    import trl

    transformers.utils.logging.disable_progress_bar()
    marks, seen = dict[str, float](), []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == WARM:
                marks["kept"] = time.process_time()

    told = datasets.Dataset.from_list([json.loads(line) for line in rows.read_text().splitlines()])
    batch = TALKS if not packed else max(1, round(TALKS * held_by(rows) / LENGTH))
    args = trl.SFTConfig(
        output_dir=str(folder.parent / "trl"), use_cpu=True, report_to=[], per_device_train_batch_size=batch,
        max_steps=steps + WARM, learning_rate=1e-4, assistant_only_loss=True, max_length=LENGTH, bf16=bf16, logging_steps=1,
        save_strategy="no", disable_tqdm=True, gradient_checkpointing=False, packing=packed, max_grad_norm=1.0,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model=str(folder), args=args, train_dataset=told, callbacks=[Clock()])
    collate = trainer.data_collator

    def counted(examples: list[Any]) -> Any:
        seen.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    trainer.data_collator = counted
    trainer.train()
    used = time.process_time() - marks["kept"]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"symbols": sum(seen[WARM : WARM + steps]), "seconds": used, "losses": losses[WARM:]}


def held_by(rows: Path) -> float:
    """Symbols of a conversation, on average."""
    lengths = [sum(len(turn["content"]) + len(turn["role"]) + 3 for turn in json.loads(row)["messages"]) for row in rows.open()]
    return statistics.mean(lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--way", default="")
    parser.add_argument("--folder", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.way:
        whose, packed, bf16 = WAYS[given.way]
        side = ours if whose == "maquette" else theirs
        found = side(Path(given.folder) / "model", Path(given.folder) / "rows.jsonl", given.steps, packed, bf16)
        print("FOUND" + json.dumps(found))
        return
    told: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as place:
        model(Path(place) / "model")
        Path(place, "rows.jsonl").write_text("\n".join(talks()))
        for _ in range(given.rounds):
            for way in WAYS:
                words = [sys.executable, __file__, "--way", way, "--folder", place, "--steps", str(given.steps)]
                done = subprocess.run(
                    words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
                )
                lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
                if lines:
                    told.setdefault(way, []).append(json.loads(lines[0].removeprefix("FOUND")))
                    print(way, told[way][-1], flush=True)
                else:
                    print(f"{way}: not measured: {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
    report(told, given.steps)


def report(told: dict[str, list[dict[str, Any]]], steps: int) -> None:
    """The table, and the figures it is made of."""
    pace = {way: [each["symbols"] / each["seconds"] for each in found] for way, found in told.items()}
    best = {
        whose: max((w for w in pace if w.startswith(whose)), key=lambda w: statistics.median(pace[w]))
        for whose in ("maquette", "trl")
    }
    lines = [f"# Symbols of conversations a second ({datetime.date.today()})", "", *_doc(), ""]
    lines += ["| way | symbols / CPU-second, each round | a step | loss at first | at last |", "|---|---|---|---|---|"]
    for way, found in told.items():
        paces = " / ".join(f"{one:.0f}" for one in pace[way])
        first, last = (statistics.mean(each["losses"][i] for each in found) for i in (0, -1))
        lines.append(f"| {way} | {paces} | {found[0]['symbols'] / steps:.0f} | {first:.3f} | {last:.3f} |")
    ratios = [mine / other for mine, other in zip(pace[best["maquette"]], pace[best["trl"]], strict=True)]
    shown = " / ".join(f"**{one:.2f}**" for one in ratios)
    lines += ["", f"Best against best, {best['maquette']} over {best['trl']}: {shown}; the bar is 1.5."]
    lines += [f"{steps} steps a round; torch {torch.__version__}."]
    stem = HERE / f"{datetime.date.today()}-sft-pace"
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    stem.with_suffix(".json").write_text(json.dumps({"steps": steps, "found": told, "ratios": ratios}, indent=1) + "\n")
    print("\n".join(lines))


def _doc() -> list[str]:
    return [line for line in (__doc__ or "").strip().splitlines()[4:]]


if __name__ == "__main__":
    main()
