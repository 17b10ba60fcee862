"""How fast language models decode on this CPU beside transformers and llama.cpp: the same random weights, the same greedy text.

    python benchmarks/decode.py [--out benchmarks/YYYY-MM-DD-decode] [--rounds 5] [--tokens 48]

Each round goes through all of them in turn; figures are medians over rounds, ratios medians of ratios within a round. Text is
checked against what float32 says after the same symbols, and how far below its choice a symbol's score lies at most, in standard
deviations. A line whose library is not importable says so. Writes .md and .json, with the load of a machine that is shared.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.networks import presets
from maquette.networks.stepping import stepping
from maquette.networks.transformer import Transformer

WIDTH, DEPTH, HEADS, PROMPT = 768, 12, 12, 32
LONG = 512  # symbols of the prompt whose reading is timed
ROWS = 8  # of the batch that is decoded besides
SHAPES: dict[str, tuple[int, Callable[[], Any]]] = {
    "llama 134M": (32000, lambda: presets.llama(hidden=2048, theta=10000.0)),
    "gpt2 124M": (50257, presets.gpt2),
}
Next = Callable[[list[list[int]]], list[int]]  # each row's newest symbols -> the likeliest that follows all so far


@dataclass
class Line:
    """One way to decode, and what was measured of it."""

    name: str
    begin: Callable[[int], Next] | None
    why: str = ""  # it is missing
    alone: bool = False  # it takes one row at a time
    tokens: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)

    def decode(self, prompts: list[list[int]], count: int) -> None:
        if self.begin is None or (self.alone and len(prompts) > 1):
            return
        follow = self.begin(len(prompts))
        found = [follow(prompts)]
        began, cpu = time.perf_counter(), time.process_time()
        while len(found) < count:
            found.append(follow([[token] for token in found[-1]]))
        rate = len(prompts) * (count - 1) / (time.perf_counter() - began)
        if len(prompts) > 1:
            self.together.append(rate)
            return
        self.rates.append(rate)
        self.cpu.append((time.process_time() - cpu) / (count - 1) * 1e3)
        self.tokens = [row[0] for row in found]

    def read(self, prompt: list[int]) -> None:
        assert self.begin is not None
        follow = self.begin(1)
        began = time.perf_counter()
        follow([prompt])
        self.reads.append(len(prompt) / (time.perf_counter() - began))


# -- ours ------------------------------------------------------------------------------------------------------------------


def network(shape: str) -> Transformer:
    vocab, style = SHAPES[shape]
    torch.manual_seed(0)
    net = Transformer(vocab, WIDTH, DEPTH, HEADS, style=style())
    for p in net.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.05)
    return net.eval()


def ours(net: Any, length: int) -> Callable[[int], Next]:
    def begin(rows: int) -> Next:
        state = net.begin(rows, length)

        def follow(new: list[list[int]]) -> list[int]:
            x = torch.tensor(new)
            chosen = {"only": torch.full((rows, 1), x.shape[1] - 1)} if x.shape[1] > 1 else {}
            return net(x, state=state, **chosen)[:, -1].argmax(-1).tolist()

        return torch.no_grad()(follow)

    return begin


# -- transformers ----------------------------------------------------------------------------------------------------------


def their_weights(weights: dict[str, Tensor], gpt2: bool) -> dict[str, Tensor]:
    """Our names to transformers'."""
    if gpt2:
        top = {"transformer.wte": "embed", "lm_head": "embed", "transformer.wpe": "places.table", "transformer.ln_f": "norm"}
        each = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out"}
        each |= {"mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
        at = "transformer.h."
    else:
        top = {"model.embed_tokens": "embed", "model.norm": "norm", "lm_head": "head"}
        each = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2", "self_attn.o_proj": "attention.out"}
        each |= {"mlp.down_proj": "mlp.down"}
        at = "model.layers."
    names = top | {f"{at}{i}.{a}": f"blocks.{i}.{b}" for i in range(DEPTH) for a, b in each.items()}
    found = {
        f"{a}.{kind}": weights[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias") if f"{b}.{kind}" in weights
    }
    if gpt2:
        return {name: x.T.contiguous() if ".c_" in name and x.dim() == 2 else x for name, x in found.items()}
    for i in range(DEPTH):
        own = zip("qkv", weights[f"blocks.{i}.attention.qkv.weight"].chunk(3), strict=True)
        found |= {f"{at}{i}.self_attn.{x}_proj.weight": part for x, part in own}
        both = zip(("gate", "up"), weights[f"blocks.{i}.mlp.gate_up.weight"].chunk(2), strict=True)
        found |= {f"{at}{i}.mlp.{x}_proj.weight": part for x, part in both}
    return found


def their_network(net: Transformer, gpt2: bool) -> Any:
    import transformers

    if gpt2:
        config: Any = transformers.GPT2Config(vocab_size=net.out, n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS)
        made: Any = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=net.out, hidden_size=WIDTH, intermediate_size=2048, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
            rms_norm_eps=1e-5, tie_word_embeddings=False, max_position_embeddings=2048,
        )  # fmt: skip
        made = transformers.LlamaForCausalLM(config)
    made.load_state_dict(their_weights(dict(net.state_dict()), gpt2))
    return made.eval().bfloat16()


def theirs(net: Any, length: int, static: bool = False) -> Callable[[int], Next]:
    from transformers import DynamicCache, StaticCache

    def begin(rows: int) -> Next:
        cache = StaticCache(config=net.config, max_cache_len=length) if static else DynamicCache(config=net.config)
        seen = 0

        def follow(new: list[list[int]]) -> list[int]:
            nonlocal seen
            place = torch.arange(seen, seen + len(new[0]))
            seen += len(new[0])
            told = {"cache_position": place, "position_ids": place[None]} if static else {}
            out = net(torch.tensor(new), past_key_values=cache, use_cache=True, logits_to_keep=1, **told)
            return out.logits[:, -1].argmax(-1).tolist()

        return torch.no_grad()(follow)

    return begin


# -- llama.cpp -------------------------------------------------------------------------------------------------------------


def write_gguf(net: Transformer, path: Path, gpt2: bool) -> None:
    """Weights in bfloat16, vectors in float32. Their Llama turns neighbouring channels: queries and keys are reordered."""
    import gguf

    kind = "gpt2" if gpt2 else "llama"
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(2048 if not gpt2 else 1024)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(DEPTH)
    writer.add_feed_forward_length(4 * WIDTH if gpt2 else 2048)
    writer.add_head_count(HEADS)
    writer.add_vocab_size(int(net.out or 0))
    writer.add_tokenizer_model("no_vocab")
    if gpt2:
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(WIDTH // HEADS)
    weights = {name: x.detach().float().numpy() for name, x in net.state_dict().items()}

    def put(name: str, x: np.ndarray) -> None:
        if x.ndim == 1:
            writer.add_tensor(name, x)
            return
        wide = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(x), wide), raw_dtype=wide)

    def turned(x: np.ndarray) -> np.ndarray:
        return x.reshape(HEADS, 2, -1, WIDTH).swapaxes(1, 2).reshape(WIDTH, WIDTH)

    names = {"embed": "token_embd", "norm": "output_norm", "head": "output", "places.table": "position_embd"}
    for i in range(DEPTH):
        own = {
            "norm1": "attn_norm",
            "norm2": "ffn_norm",
            "attention.out": "attn_output",
            "mlp.down": "ffn_down",
            "mlp.up": "ffn_up",
        }
        own |= {"attention.qkv": "attn_qkv"} if gpt2 else {}
        names |= {f"blocks.{i}.{a}": f"blk.{i}.{b}" for a, b in own.items()}
        if not gpt2:
            q, k, v = np.split(weights[f"blocks.{i}.attention.qkv.weight"], 3)
            for x, part in (("q", turned(q)), ("k", turned(k)), ("v", v)):
                put(f"blk.{i}.attn_{x}.weight", part)
            for x, part in zip(("gate", "up"), np.split(weights[f"blocks.{i}.mlp.gate_up.weight"], 2), strict=True):
                put(f"blk.{i}.ffn_{x}.weight", part)
    for a, b in names.items():
        for kind in ("weight", "bias"):
            if f"{a}.{kind}" in weights:
                put(f"{b}.{kind}", weights[f"{a}.{kind}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def lines_of_llama_cpp(net: Transformer, gpt2: bool, folder: Path, length: int) -> list[Line]:
    if importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("gguf") is None:
        return [Line("llama.cpp", None, why="llama-cpp-python or gguf is not importable here")]
    import llama_cpp as cpp

    cpp.llama_log_set(_silent, None)
    plain = folder / "bf16.gguf"
    write_gguf(net, plain, gpt2)
    found = []
    for name, kind in (("bf16", None), ("Q8_0", cpp.LLAMA_FTYPE_MOSTLY_Q8_0), ("Q4_K_M", cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M)):
        path = plain
        if kind is not None:
            path, how = folder / f"{name}.gguf", cpp.llama_model_quantize_default_params()
            how.ftype = kind
            if cpp.llama_model_quantize(str(plain).encode(), str(path).encode(), how):
                found.append(Line(f"llama.cpp {name}", None, why="llama.cpp would not quantise the file"))
                continue
        found.append(Line(f"llama.cpp {name}", _by_llama_cpp(cpp, path, length, int(net.out or 0)), alone=True))
    return found


def _by_llama_cpp(cpp: Any, path: Path, length: int, vocab: int) -> Callable[[int], Next]:
    model = cpp.llama_model_load_from_file(str(path).encode(), cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp does not open {path}")
    how = cpp.llama_context_default_params()
    how.n_ctx, how.n_batch, how.n_ubatch, how.n_threads, how.n_threads_batch = (
        length,
        length,
        length,
        *[torch.get_num_threads()] * 2,
    )
    context = cpp.llama_init_from_model(model, how)

    def begin(rows: int) -> Next:
        cpp.llama_memory_clear(cpp.llama_get_memory(context), True)

        def follow(new: list[list[int]]) -> list[int]:
            tokens = (cpp.llama_token * len(new[0]))(*new[0])
            if cpp.llama_decode(context, cpp.llama_batch_get_one(tokens, len(new[0]))):
                raise RuntimeError("llama.cpp failed to decode")
            return [int(np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, -1), (vocab,)).argmax())]

        return follow

    return begin


def _log(level: int, text: bytes, data: Any) -> None:
    pass


if importlib.util.find_spec("llama_cpp") is not None:
    import llama_cpp

    _silent = llama_cpp.llama_log_callback(_log)


# -- the table -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def agreement(net: Transformer, prompt: list[int], tokens: list[int]) -> dict[str, Any]:
    """Of a greedy text, how many symbols float32 would have chosen in the same place, and how close it was where it would not."""
    logits = net(torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1]
    best, chosen = logits.max(-1).values, logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    short = ((best - chosen) / logits.std(-1))[best > chosen]
    return {"agree": int((best == chosen).sum()), "of": len(tokens), "furthest": float(short.max()) if len(short) else 0.0}


def measure(shape: str, rounds: int, count: int, compiled: bool) -> dict[str, Any]:
    gpt2, net, length = shape.startswith("gpt2"), network(shape), LONG + 128
    prompt = torch.randint(net.embed.num_embeddings, (LONG,), generator=torch.Generator().manual_seed(1)).tolist()
    lines = [Line(f"maquette {bits} bits", ours(stepping(net, bits), length)) for bits in (16, 8, 4)]
    lines.append(Line("maquette 16 bits, no native library", ours(stepping(net, 16).net, length)))  # type: ignore[union-attr]
    if importlib.util.find_spec("transformers") is None:
        lines.append(Line("transformers bf16", None, why="transformers is not importable here"))
    else:
        other = their_network(net, gpt2)
        lines.append(Line("transformers bf16", theirs(other, length)))
        if compiled:
            other = their_network(net, gpt2)
            other.forward = torch.compile(other.forward)
            lines.append(Line("transformers bf16, static cache, compiled", theirs(other, length, static=True), alone=True))
    with tempfile.TemporaryDirectory() as folder:
        lines += lines_of_llama_cpp(net, gpt2, Path(folder), length)
        rows = [prompt[i : i + PROMPT] for i in range(ROWS)]
        for line in lines:
            _try(line, lambda line: line.decode(rows[:1], 4))
        for _ in range(rounds):
            for line in lines:
                _try(line, lambda line: line.decode(rows[:1], count))
        for _ in range(max(3, rounds // 2)):
            for line in lines:
                _try(line, lambda line: line.decode(rows, count // 4))
            for line in lines:
                _try(line, lambda line: line.read(prompt))
    for line in lines:
        line.rates, line.cpu = line.rates[1:], line.cpu[1:]
    told = {line.name: row(line, lines, net, prompt[:PROMPT]) for line in lines}
    gc.collect()
    return told


def _try(line: Line, work: Callable[[Line], None]) -> None:
    if line.begin is None:
        return
    try:
        work(line)
    except Exception as error:  # a library that fails is a line of the table
        line.begin, line.why = None, f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"


def row(line: Line, lines: list[Line], net: Transformer, prompt: list[int]) -> dict[str, Any]:
    if line.begin is None:
        return {"missing": line.why}
    told: dict[str, Any] = {
        "tok/s": statistics.median(line.rates),
        "best": max(line.rates),
        "cpu ms": statistics.median(line.cpu),
        "prefill tok/s": statistics.median(line.reads),
        **({"batch 8 tok/s": statistics.median(line.together)} if line.together else {}),
        **agreement(net, prompt, line.tokens),
    }
    same = {"16 bits": "bf16", "8 bits": "Q8_0", "4 bits": "Q4_K_M", "Q8_0": "Q8_0", "Q4_K_M": "Q4_K_M"}
    kind = next((kind for end, kind in same.items() if line.name.endswith(end)), "bf16")
    for short, name in (("transformers", "transformers bf16"), ("llama.cpp", f"llama.cpp {kind}")):
        other = next((other for other in lines if other.name == name and other.begin is not None), None)
        if other is not None:
            told[f"x {short}"] = statistics.median(a / b for a, b in zip(line.rates, other.rates, strict=True))
            if line.together and other.together:
                told[f"batch 8 x {short}"] = statistics.median(a / b for a, b in zip(line.together, other.together, strict=True))
            told[f"prefill x {short}"] = statistics.median(a / b for a, b in zip(line.reads, other.reads, strict=True))
    return told


def bandwidth() -> float:
    """GB/s that a sum over a large tensor reads."""
    x, best = torch.zeros(1 << 25, dtype=torch.int64), 1e9
    for _ in range(5):
        began = time.perf_counter()
        x.sum()
        best = min(best, time.perf_counter() - began)
    return x.numel() * 8 / best / 1e9


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    columns = [
        "tok/s",
        "best",
        "cpu ms",
        "x transformers",
        "x llama.cpp",
        "prefill tok/s",
        "prefill x transformers",
        "prefill x llama.cpp",
    ]
    columns += ["batch 8 tok/s", "batch 8 x transformers"]
    text = [f"| | {' | '.join(columns)} | as float32 |", "|---" * (len(columns) + 2) + "|"]
    for name, told in found.items():
        if "missing" in told:
            text.append(f"| {name} | missing: {told['missing']} |" + " |" * len(columns))
            continue
        cells = [f"{told[c]:.2f}" if c in told and " x " in f" {c}" else f"{told[c]:.1f}" if c in told else "-" for c in columns]
        text.append(f"| {name} | {' | '.join(cells)} | {told['agree']} of {told['of']}, off by {told['furthest']:.3f} |")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=f"benchmarks/{datetime.date.today()}-decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument(
        "--compiled", action="store_true", help="transformers with a static cache and torch.compile, too (minutes)"
    )
    asked = parser.parse_args()
    found = {shape: measure(shape, asked.rounds, asked.tokens, asked.compiled) for shape in asked.shapes.split(",")}
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "read GB/s": round(bandwidth(), 1)}
    about |= {"load": round(os.getloadavg()[0], 1)}
    about |= {name: _version(name) for name in ("transformers", "llama-cpp-python", "gguf")} | {"processor": platform.processor()}
    text = [f"# Decoding, {datetime.date.today()}", "", (__doc__ or "").split("\n\n")[2].strip(), ""]
    text += [", ".join(f"{k} {v}" for k, v in about.items() if v) + ".", ""]
    for shape, told in found.items():
        text += [f"## {shape}, width {WIDTH}, {DEPTH} layers, batch 1, prompt {PROMPT} (prefill: {LONG})", "", *table(told), ""]
    Path(f"{asked.out}.md").write_text("\n".join(text))
    Path(f"{asked.out}.json").write_text(json.dumps({"about": about, "found": found}, indent=1) + "\n")
    print("\n".join(text))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
