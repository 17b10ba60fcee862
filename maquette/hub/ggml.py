"""Transformers of Llama's kind as one GGUF file, which llama.cpp runs. Knows that format's names; writes, and reads nothing.

Needs the package `gguf`: pip install 'maquette[export]'.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from maquette.codecs.published import Published
from maquette.codecs.text import END
from maquette.data.tokens import Learned
from maquette.hub import families, renaming, written
from maquette.hub.renaming import Table, To
from maquette.nn.lora import whole
from maquette.recipes import UnknownName
from maquette.storage import erase
from maquette.system import System

# architecture there -> whether channel 2 i turns with 2 i + 1, and how its own tokenizers split texts before they merge
ARCHITECTURES = {"llama": (True, "llama-bpe"), "qwen2": (False, "qwen2"), "qwen3": (False, "qwen2")}
_B = "blk.{i}."


def table(pairs: bool) -> Table:
    """What tensors are called there."""
    return {
        "embed": "token_embd",
        "norm": "output_norm",
        "head": "output",
        "blocks.{i}.norm1": _B + "attn_norm",
        "blocks.{i}.norm2": _B + "ffn_norm",
        "blocks.{i}.attention.qkv": To(*(f"{_B}attn_{x}" for x in "qkv"), paired=pairs),
        "blocks.{i}.attention.out": _B + "attn_output",
        "blocks.{i}.attention.norm_q": _B + "attn_q_norm",
        "blocks.{i}.attention.norm_k": _B + "attn_k_norm",
        "blocks.{i}.mlp.gate_up": To(_B + "ffn_gate", _B + "ffn_up"),
        "blocks.{i}.mlp.down": _B + "ffn_down",
    }


def write(system: System, out: Path, source: Path | None = None) -> str:
    """Write a system that writes text as one file, its weights as they are; returns "llama.cpp".

    Symbols are the same there. How a text becomes symbols is the same for bytes and for tokenizers of the published models; of
    pairs that were learned here llama.cpp knows the merges and not what they keep apart, so some words may be cut otherwise.

    Raises:
        FileExistsError: the file is there.
        ValueError: llama.cpp has no architecture for such a system, or the tokenizer is no byte-level BPE.
        ModuleNotFoundError: the package gguf is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        raise ModuleNotFoundError("writing GGUF needs the package gguf: pip install 'maquette[export]'") from None
    if out.exists():
        raise FileExistsError(f"{out} is there already; name another file")
    net = cast(nn.Module, whole(cast(Any, system.steady("main"))))
    said = families.full(written.configuration(net, system.codec, source))
    kind = _architecture(said)
    pairs, split = ARCHITECTURES[kind]
    state = renaming.spell(net, table(pairs))
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".staged-{out.name}-{uuid.uuid4().hex[:8]}")
    try:
        file = gguf.GGUFWriter(str(staged), kind)
        _sizes(file, said)
        _symbols(file, gguf, system.codec, split if source is not None else "gpt-2", int(said["vocab_size"]))
        for name, tensor in state.items():
            flat = tensor.detach().cpu().contiguous()
            if flat.dtype == torch.bfloat16:
                raw = gguf.GGMLQuantizationType.BF16
                file.add_tensor(name, flat.view(torch.uint8).numpy(), raw_dtype=raw)
            else:
                file.add_tensor(name, (flat if flat.ndim > 1 else flat.float()).numpy())
        file.write_header_to_file()
        file.write_kv_data_to_file()
        file.write_tensors_to_file()
        file.close()
        staged.rename(out)
    except BaseException:
        erase(staged)
        raise
    return "llama.cpp"


def _architecture(said: Mapping[str, Any]) -> str:
    """Which one a configuration is of.

    Raises:
        UnknownName: none that is written here.
        ValueError: it is, but for a setting that is not written.
    """
    kind = "llama" if said["model_type"] == "mistral" else said["model_type"]
    if kind not in ARCHITECTURES:
        raise UnknownName("architecture to write as GGUF", said["model_type"], [*ARCHITECTURES, "mistral"])
    window = said.get("sliding_window") if said["model_type"] == "mistral" or said.get("use_sliding_window") else None
    told = said.get("rope_scaling") or said.get("rope_parameters") or {}
    turning = told.get("rope_type") or told.get("type") or "default"
    for name, value, fine in (
        ("sliding_window", window, window is None or window >= said["max_position_embeddings"]),
        ("rope_type", turning, turning in ("default", "linear")),
        ("attention_bias", said.get("attention_bias"), not said.get("attention_bias")),
        ("mlp_bias", said.get("mlp_bias"), not said.get("mlp_bias")),
        ("hidden_act", said["hidden_act"], said["hidden_act"] in ("silu", "swish")),
    ):
        if not fine:
            raise ValueError(f"{name} is {value!r}, which is not written as GGUF")
    return str(kind)


def _sizes(file: Any, said: Mapping[str, Any]) -> None:
    heads = said["num_attention_heads"]
    size = said.get("head_dim") or said["hidden_size"] // heads
    told = said.get("rope_scaling") or said.get("rope_parameters") or {}
    file.add_context_length(said["max_position_embeddings"])
    file.add_embedding_length(said["hidden_size"])
    file.add_block_count(said["num_hidden_layers"])
    file.add_feed_forward_length(said["intermediate_size"])
    file.add_head_count(heads)
    file.add_head_count_kv(said.get("num_key_value_heads") or heads)
    file.add_key_length(size)
    file.add_value_length(size)
    file.add_rope_dimension_count(size)
    file.add_rope_freq_base(float(told.get("rope_theta") or said["rope_theta"]))
    if told.get("factor"):
        file.add_rope_scaling_type(_linear())
        file.add_rope_scaling_factor(float(told["factor"]))
    file.add_layer_norm_rms_eps(said["rms_norm_eps"])
    file.add_vocab_size(said["vocab_size"])


def _linear() -> Any:
    from gguf import RopeScalingType

    return RopeScalingType.LINEAR


def _symbols(file: Any, gguf: Any, codec: Any, split: str, vocab: int) -> None:
    """The symbols, and what they are merged of.

    Raises:
        ValueError: a tokenizer that llama.cpp has not under this name.
    """
    own = not isinstance(codec, Published)
    tokenizer = written.spelt(codec) if own else cast(Learned, codec).tokenizer
    held = json.loads(tokenizer.to_str())
    model = held["model"]
    if model["type"] != "BPE" or "ByteLevel" not in json.dumps(held.get("pre_tokenizer")):
        raise ValueError(f"the tokenizer is a {model['type']} of another kind than byte-level BPE, which is not written as GGUF")
    special = {one["id"]: one["content"] for one in held["added_tokens"]}
    names = {symbol: name for name, symbol in model["vocab"].items()} | special
    kinds = gguf.TokenType
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(split)
    file.add_token_list([names.get(i, f"[PAD{i}]") for i in range(vocab)])
    file.add_token_types([kinds.CONTROL if i in special else kinds.NORMAL if i in names else kinds.UNUSED for i in range(vocab)])
    file.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]] or [_NONE])
    file.add_bos_token_id(codec.bos)
    file.add_eos_token_id(codec.ends[0])
    file.add_add_bos_token(codec.begins)
    if own and codec.converses:
        file.add_eot_token_id(codec.ends[-1])
        file.add_chat_template(written.TEMPLATE)


_NONE = f"{END} {END}"  # the format wants a merge: one that no text can hold
