"""Systems that write text as folders that transformers opens without code of anybody's: configuration, weights, tokenizer.

Knows which of their classes a transformer is, by building that class's and comparing; nothing of how one is trained.
"""

from __future__ import annotations

import dataclasses
import difflib
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

from maquette.codecs.text import END, Bytes, Text
from maquette.conditioners.reader import Reader
from maquette.data.tokens import Learned
from maquette.hub import families, lora, renaming, weights
from maquette.hub.export import staged
from maquette.hub.language import GENERATION
from maquette.hub.lora import PEFT
from maquette.networks.own_mask import OwnMask
from maquette.networks.transformer import Transformer
from maquette.nn.experts import Experts
from maquette.nn.lora import Adapted, Low, plain, whole
from maquette.nn.positions import Linear, Llama3, Stretch, YaRN
from maquette.samplers.autoregressive import Autoregressive
from maquette.storage import dump, write_durably
from maquette.system import System

BESIDE = (
    GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
TEMPLATE = (  # of a run's conversations, as its codec writes them
    "{{ bos_token }}{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('a turn is of role ' + message['role'] + '; allowed are system, user, assistant, tool') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|over|>"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|over|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
AHEAD = "ahead."  # guesses that transformers' classes do not make; what they write does not depend on them
ACTS = {name: families.ACTS[name] for name in ("silu", "gelu", "gelu_new", "relu")}  # by the names that all of theirs know


def write(system: System, out: Path, source: Path | None = None, bare: bool = True) -> str:
    """Write a system that writes text to a folder that transformers' Auto classes open; of an adapter that learnt, that alone
    where it lies on a published model as that is, else merged with what it lies on.

    Args:
        source: the folder that it was opened from, where it was: its configuration and tokenizer are kept.
        bare: an adapter lies on what is in that folder, and on nothing else.

    Returns:
        The class of theirs that opens it.

    Raises:
        FileExistsError: the folder is there and is not empty.
        ValueError: transformers has no class for such a system, and what is nearest.
    """
    net = cast(nn.Module, system.steady("main"))
    if isinstance(net, Adapted) and source is not None and bare:
        return adapter(net, source, out)
    net = cast(nn.Module, whole(cast(Any, net)))
    made = net.net if isinstance(net, OwnMask) else net
    if isinstance(system.conditioner, Reader):
        made = nn.ModuleDict({"encoder": system.conditioner.encoder, "decoder": net})
    said = configuration(net, system.codec, source)
    family = families.family_of(said)
    state = renaming.spell(made, family.table(families.full(said)), left=(AHEAD,))
    said = {**said, "architectures": [family.name], **_kind(said, state)}
    with staged(out) as folder:
        weights.write(state, folder)
        write_durably(folder / "config.json", dump(said))
        if source is not None:
            for name in BESIDE:
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
        else:
            _tokenizer(system.codec, folder)
            write_durably(folder / GENERATION, dump(_generation(system)))
    return family.name


def _kind(said: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, str]:
    """How precise the weights are, under the name that the configuration has for it."""
    kind = str(next(iter(state.values())).dtype).removeprefix("torch.")
    return {"torch_dtype" if "torch_dtype" in said else "dtype": kind}


def _generation(system: System) -> dict[str, Any]:
    """What is said of sampling: the run's own dials, and what ends a text."""
    bos, ends = int(system.codec.bos), [int(end) for end in system.codec.ends]
    said: dict[str, Any] = {"bos_token_id": bos, "eos_token_id": ends if len(ends) > 1 else bos, "pad_token_id": bos}
    said |= {"max_length": system.codec.length}
    drawn = system.sampler
    if isinstance(drawn, Autoregressive) and drawn.temperature:
        said |= {"do_sample": True, "temperature": drawn.temperature, "top_k": drawn.top_k, "top_p": drawn.top_p}
        said |= {"min_p": drawn.min_p} if drawn.min_p else {}
    return said


def adapter(net: Adapted, source: Path, out: Path) -> str:
    """Write what was learnt beside a published model, as peft loads it onto that.

    One change of joined matrices is one of each of them: the first factor is the same, the second has their rows.

    Raises:
        FileExistsError: the folder is there and is not empty.
    """
    said = families.full(weights.config(source))
    rows = {row.name: row for row in renaming.rows(plain(net.net), families.family_of(said).table(said))}
    held: dict[str, Tensor] = {}
    names, flipped = [], False
    for name in net.names:
        low, parts = net.change(name), rows[f"{name}.weight"].parts
        counts = [part.rows for part in parts]
        sizes = [None] * len(parts) if low.size is None else low.size.detach().split(counts)
        for part, up, size in zip(parts, low.up.detach().split(counts), sizes, strict=True):
            layer = part.name.removesuffix(".weight")
            held[f"base_model.model.{layer}.lora_A.weight"] = low.down.detach().clone()
            held[f"base_model.model.{layer}.lora_B.weight"] = part.rowwise(up).contiguous()
            if size is not None:
                held[f"base_model.model.{layer}.lora_magnitude_vector"] = part.rowwise(size[:, None])[:, 0].contiguous()
            names.append(".".join(layer.split(".")[-2:]))
            flipped |= part.flipped
    rank = len(net.change(net.names[0]).down)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(source), "r": rank,
        "lora_alpha": net.scale * rank, "lora_dropout": 0.0, "bias": "none", "target_modules": sorted(set(names)),
        "fan_in_fan_out": flipped, "inference_mode": True, "use_dora": net.change(net.names[0]).size is not None,
    }  # fmt: skip
    with staged(out) as folder:
        weights.write(held, folder, PEFT.partition(".")[0])
        write_durably(folder / "adapter_config.json", dump(config))
    return "PeftModel.from_pretrained"


@torch.no_grad()
def onto(net: nn.Module, source: Path, path: Path) -> int:
    """Merge an adapter that peft wrote into a published model's network; returns how many of its layers changed.

    Args:
        source: the folder that the network was opened from.
        path: the adapter's folder, or its file.

    Raises:
        Unfit: it has layers that the model lacks, or of another shape: it is for another base, which it names where it can.
        FileNotFoundError, Unsafe, Damaged: as `lora.read`.
    """
    said, changes = families.full(weights.config(source)), lora.read(path)
    places: dict[str, tuple[Tensor, renaming.Part]] = {}
    held = net.state_dict(keep_vars=True)
    for row in renaming.rows(net, families.family_of(said).table(said)):
        if held[row.name].ndim == 2:
            for part, some in zip(row.parts, held[row.name].data.split([part.rows for part in row.parts]), strict=True):
                places[part.name.removesuffix(".weight")] = some, part
    wrong = []
    for layer, low in changes.items():
        shape, like = (len(low.up), low.down.shape[1]), places[layer][0].shape if layer in places else None
        if like is None:
            near = next(iter(difflib.get_close_matches(layer, places, 1, 0.7)), "")
            wrong.append(f"it has no layer {layer}{f'; nearest is {near}' if near else ''}")
        elif like != shape:
            wrong.append(f"{layer} is {tuple(like)} there, and the adapter's is {shape}")
    if wrong:
        base = lora.base_of(path)
        whose = f"an adapter for {base}, and not for" if base and base != str(source) else "an adapter for another base than"
        raise weights.Unfit(f"{path} is {whose} {source}:\n  " + "\n  ".join(wrong[:8]))
    for layer, low in changes.items():
        weight, part = places[layer]
        order = list(part.order) or slice(None)
        size = None if low.size is None else low.size[order]
        weight.copy_(Low(low.down, low.up[order], low.scale, size).changed(weight))
    return len(changes)


# -- which class a network is --------------------------------------------------------------------------------------------


def configuration(net: nn.Module, codec: Any, source: Path | None = None) -> dict[str, Any]:
    """A network's configuration: its source's where that computes the same, which a student's of another model does not.

    Raises:
        ValueError: as `described`.
    """
    if source is None:
        return described(net, codec)
    said = weights.config(source)
    with weights.hollow():
        like = families.build(said)
    other = isinstance(net, Transformer) and isinstance(like, Transformer) and any(_apart(net, like))
    return described(net, codec) if other else said


def described(net: nn.Module, codec: Any) -> dict[str, Any]:
    """A network as the configuration of the class of theirs that computes the same.

    Raises:
        ValueError: there is none; what sets it apart from the nearest is named.
    """
    if not isinstance(net, Transformer) or not isinstance(codec, Text):
        raise ValueError(
            f"transformers has no class for a {type(net).__name__} over {type(codec).__name__}; language models are written"
        )
    apart: dict[str, list[str]] = {}
    for kind, guess in _GUESSES.items():
        try:
            said = {
                "model_type": kind,
                **guess(net),
                "vocab_size": net.embed.num_embeddings,
                "tie_word_embeddings": net.head is None,
            }
            said |= {"n_positions" if kind == "gpt2" else "max_position_embeddings": codec.length}
            said |= {"bos_token_id": codec.bos, "eos_token_id": codec.bos}
            with weights.hollow():
                like = families.build(said)
        except (AttributeError, TypeError, ValueError, IndexError, StopIteration):
            continue  # it lacks what makes this family
        apart[kind] = list(_apart(net, cast(Transformer, like)))
        if not apart[kind]:
            return said
    near = min(apart, key=lambda kind: len(apart[kind]), default="")
    why = f"; nearest is {near}, but {', '.join(apart[near][:4])}" if near else ""
    raise ValueError(
        f"transformers has no class that computes what this network does{why}. Published families do: "
        "`maquette train gpt --family llama` (or gpt2, mistral, qwen, gemma) makes a run that can be written"
    )


def _apart(net: Transformer, like: Transformer) -> Iterator[str]:
    """What two transformers differ in, in words."""
    ours, other = (dict(_switches(each)) for each in (net, like))
    for key in [*ours, *(key for key in other if key not in ours)]:
        if ours.get(key) != other.get(key):
            yield f"{key} is {_shown(ours.get(key))} and not {_shown(other.get(key))}"


def _shown(value: Any) -> str:
    return "not there" if value is None else str(value)


def _switches(net: Transformer) -> Iterator[tuple[str, Any]]:
    """All that says what a transformer makes of one text, but its weights: by module and attribute."""
    near, ends = net.style.near, net.style.ends
    yield "near layers", (net.is_near, near.window if near else 0) if any(net.is_near) else None
    for field in dataclasses.fields(ends):
        yield f"ends.{field.name}", _plain(getattr(ends, field.name))
    for name, tensor in net.state_dict().items():
        if not name.startswith(AHEAD):
            yield name, tuple(tensor.shape)
    for name, module in net.named_modules():
        if isinstance(module, nn.Dropout) or f"{name}.".startswith(AHEAD):
            continue
        for key, value in vars(module).items():
            if key.startswith("_") or key in ("training", "style", "balance", "is_near"):
                continue
            value = module.size**-0.5 if key == "scale" and value is None else value  # type: ignore[operator]
            yield f"{name}.{key}".lstrip("."), _plain(value)


def _plain(value: Any) -> Any:
    """A value that equals another's where they mean the same."""
    if isinstance(value, partial):
        return value.func, value.args, tuple(sorted(value.keywords.items()))
    return round(value, 9) if isinstance(value, float) else value


def _act(act: Callable[[Tensor], Tensor]) -> str:
    return next(name for name, known in ACTS.items() if _plain(known) == _plain(act))


def _core(net: Transformer) -> dict[str, Any]:
    """What Llama's relatives say alike."""
    block: Any = net.blocks[0]
    attention, places = block.attention, cast(Any, net.places)
    return {
        "hidden_size": net.width,
        "intermediate_size": block.mlp.down.in_features,
        "num_hidden_layers": len(net.blocks),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.groups,
        "head_dim": attention.size,
        "rms_norm_eps": block.norm1.eps,
        "hidden_act": _act(block.mlp.act),
        "attention_bias": attention.qkv.bias is not None,
        **_turning(places.theta, places.stretch),
    }


def _turning(theta: float, stretch: Stretch | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if isinstance(stretch, Linear):
        told = {"rope_type": "linear", "factor": stretch.factor}
    if isinstance(stretch, YaRN):
        told = {"rope_type": "yarn", "factor": stretch.factor, "original_max_position_embeddings": stretch.original}
        told |= {"beta_fast": stretch.fast, "beta_slow": stretch.slow, "attention_factor": stretch.gain}
    if isinstance(stretch, Llama3):
        told = {"rope_type": "llama3", "factor": stretch.factor, "original_max_position_embeddings": stretch.original}
        told |= {"low_freq_factor": stretch.low, "high_freq_factor": stretch.high}
    return {"rope_theta": theta, **({"rope_scaling": told} if told else {})}


def _gpt2(net: Transformer) -> dict[str, Any]:
    block: Any = net.blocks[0]
    return {
        "n_embd": net.width,
        "n_layer": len(net.blocks),
        "n_head": block.attention.heads,
        "n_inner": block.mlp.up.out_features,
        "activation_function": _act(block.mlp.act),
        "layer_norm_epsilon": block.norm1.eps,
    }


def _llama(net: Transformer) -> dict[str, Any]:
    return {**_core(net), "mlp_bias": cast(Any, net.blocks[0]).mlp.down.bias is not None}


def _mistral(net: Transformer) -> dict[str, Any]:
    near = net.style.near
    return {**_core(net), "sliding_window": near.window if near and all(net.is_near) else None}


def _gemma(net: Transformer) -> dict[str, Any]:
    attention: Any = net.blocks[0].attention
    core, near, ends = _core(net), net.style.near, net.style.ends
    return {
        **core,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(1 / attention.scale**2) if attention.scale else attention.size,
        "attn_logit_softcapping": attention.cap or None,
        "final_logit_softcapping": ends.cap or None,
        "sliding_window": near.window if near else None,
        "layer_types": ["sliding_attention" if each else "full_attention" for each in net.is_near],
    }


def _deepseek(net: Transformer) -> dict[str, Any]:
    blocks: Any = net.blocks
    attention, places = blocks[0].attention, cast(Any, net.places)
    dense = next((i for i, block in enumerate(blocks) if isinstance(block.mlp, Experts)), len(blocks))
    mixed = blocks[dense].mlp
    hidden = mixed.experts[0].down.in_features
    return {
        "hidden_size": net.width,
        "intermediate_size": blocks[0].mlp.down.in_features if dense else hidden,
        "moe_intermediate_size": hidden,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.heads,
        "first_k_dense_replace": dense,
        "n_routed_experts": len(mixed.experts),
        "n_shared_experts": mixed.shared.down.in_features // hidden if mixed.shared is not None else 0,
        "num_experts_per_tok": mixed.top,
        "n_group": mixed.groups,
        "topk_group": mixed.top_groups,
        "norm_topk_prob": mixed.norm,
        "routed_scaling_factor": mixed.scale,
        "kv_lora_rank": attention.kept,
        "q_lora_rank": attention.q_down.out_features if attention.q_down is not None else None,
        "qk_rope_head_dim": attention.turned,
        "qk_nope_head_dim": attention.still,
        "v_head_dim": attention.value,
        "rms_norm_eps": blocks[0].norm1.eps,
        "rope_interleave": False,  # as channels lie here
        "num_nextn_predict_layers": 0,
        **_turning(places.theta, places.stretch),
    }


_GUESSES: dict[str, Callable[[Transformer], dict[str, Any]]] = {
    "llama": _llama, "gpt2": _gpt2, "mistral": _mistral, "qwen3": _core, "gemma2": _gemma, "deepseek_v3": _deepseek,
}  # fmt: skip


# -- tokenizers ----------------------------------------------------------------------------------------------------------


def _tokenizer(codec: Any, folder: Path) -> None:
    """A run's symbols as a tokenizer that puts the beginning before every text, as the run has it."""
    made = spelt(codec)
    end = made.id_to_token(codec.bos)
    made.post_processor = processors.TemplateProcessing(single=f"{end} $A", special_tokens=[(end, codec.bos)])
    made.encode_special_tokens = False
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "model_max_length": codec.length,
        "clean_up_tokenization_spaces": False,
    }
    write_durably(folder / "tokenizer.json", made.to_str().encode())
    write_durably(folder / "tokenizer_config.json", dump(said))
    if codec.converses:
        write_durably(folder / "chat_template.jinja", TEMPLATE.encode())


def spelt(codec: Text) -> Tokenizer:
    """A run's symbols as a tokenizer of the library's, the special ones by their names at their places."""
    made = bytewise(codec) if isinstance(codec, Bytes) else Tokenizer.from_str(cast(Learned, codec).tokenizer.to_str())
    named = [name for name in codec.special if name != END]
    # fewer pieces may have been found than there was room for
    unused = range(made.get_vocab_size(), codec.plain) if named else ()
    made.add_special_tokens([AddedToken(name, special=True) for name in (*(f"<|unused{i}|>" for i in unused), *named)])
    assert all(made.token_to_id(name) == codec.special[name] for name in named)
    return made


def bytewise(codec: Bytes) -> Tokenizer:
    """Bytes by number, and the symbol that ends a text, as pairs of which none are merged."""
    spelt = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made = Tokenizer(models.BPE({_spelling(byte): byte for byte in range(256)}, []))
    made.pre_tokenizer, made.decoder = spelt, decoders.ByteLevel()
    made.add_special_tokens([AddedToken(END, special=True)])
    assert made.token_to_id(END) == codec.bos
    return made


def _spelling(byte: int) -> str:
    """The character that stands for a byte in byte-level tokenizers: itself where it is seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte if byte in seen else 256 + [each for each in range(256) if each not in seen].index(byte))
