"""Published families of language models: what a config.json asks of the one transformer.

Knows transformers' names of switches; no tensor, no file, no tokenizer. What a configuration asks for that is not built here is
refused by name and value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.hub import names
from maquette.hub.renaming import Table
from maquette.networks.style import Around, Ends, Feed, Near, Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention, Cross, Latent
from maquette.nn.experts import Experts, softmax
from maquette.nn.gelu import gelu
from maquette.nn.mlp import Gated, Plain
from maquette.nn.norm import RMSNorm
from maquette.nn.positions import Learned, Linear, Llama3, Positions, Relative, Rotary, Stretch, YaRN, warmth
from maquette.recipes import UnknownName

Said = Mapping[str, Any]
ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu, "swish": F.silu, "gelu": F.gelu, "gelu_new": gelu, "gelu_pytorch_tanh": gelu, "relu": F.relu,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One of transformers' model types.

    Args:
        name: the class of theirs that has the weights.
        build: its configuration -> the network, or the encoder and decoder.
        table: what tensors are called there.
        usual: what transformers takes where a configuration is silent.
        refused: settings that change what is computed and are not built: name -> the values that are.
        harmless: patterns of names that files may have beyond the table's.
        outer: what stands before names, where older files leave it out.
    """

    name: str
    build: Callable[[Said], nn.Module]
    table: Callable[[Said], Table]
    usual: Said
    refused: Mapping[str, tuple[Any, ...]]
    harmless: tuple[str, ...] = ()
    outer: str = ""

    def spelt(self, name: str) -> str:
        """A name in a file, as the table has it: a prefix that was left out, norms' tensors by their first names."""
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            name = name.removesuffix(old) + new if name.endswith(old) else name
        inner = self.outer and not name.startswith((self.outer, "lm_head.", "cls."))
        return self.outer + name if inner else name


# -- what configurations say ---------------------------------------------------------------------------------------------


def _act(said: Said, key: str) -> Callable[[Tensor], Tensor]:
    if said[key] not in ACTS:
        raise UnknownName(f"{key} in config.json", said[key], list(ACTS))
    return ACTS[said[key]]


def _rope(said: Said, part: str = "", theta: float = 10000.0) -> Callable[..., Positions]:
    """Rotary positions as `rope_scaling` and `rope_theta`, or the later `rope_parameters`, say; `part` of the layers."""
    told = said.get("rope_scaling") or said.get("rope_parameters") or {}
    told = (told.get(part) or {}) if part and any(isinstance(value, Mapping) for value in told.values()) else told
    kind = str(told.get("rope_type") or told.get("type") or "default")
    if kind not in _STRETCHES:
        raise UnknownName("rope_type in config.json", kind, list(_STRETCHES))
    if (share := told.get("partial_rotary_factor") or said.get("partial_rotary_factor") or 1) != 1:
        raise ValueError(f"partial_rotary_factor is {share} in config.json; only 1, all channels of a head turn, is built")
    return partial(Rotary, theta=float(told.get("rope_theta") or theta), stretch=_STRETCHES[kind](told, said))


def _yarn(told: Said, said: Said) -> Stretch:
    original = int(told.get("original_max_position_embeddings") or said["max_position_embeddings"])
    factor = float(told.get("factor") or said["max_position_embeddings"] / original)
    if told.get("truncate", True) is not True:
        raise ValueError(f"truncate of rope_type yarn is {told['truncate']} in config.json; only true is built")
    gain, up, down = told.get("attention_factor"), told.get("mscale"), told.get("mscale_all_dim")
    if gain is None:
        gain = warmth(factor, up) / warmth(factor, down) if up and down else warmth(factor)
    return YaRN(factor, original, told.get("beta_fast") or 32.0, told.get("beta_slow") or 1.0, gain)


def _llama3(told: Said, said: Said) -> Stretch:
    original = int(told.get("original_max_position_embeddings") or said["max_position_embeddings"])
    return Llama3(float(told["factor"]), original, float(told["low_freq_factor"]), float(told["high_freq_factor"]))


_STRETCHES: dict[str, Callable[[Said, Said], Stretch | None]] = {
    "default": lambda told, said: None,
    "linear": lambda told, said: Linear(float(told["factor"])),
    "yarn": _yarn,
    "llama3": _llama3,
}


def _near(said: Said, turns: tuple[bool, ...], positions: Callable[..., Positions] | None = None) -> Near | None:
    """The layers that see a window: as `layer_types` says, else as `turns`."""
    kinds = said.get("layer_types")
    for kind in kinds or ():
        if kind not in ("sliding_attention", "full_attention"):
            raise UnknownName("layer_types in config.json", kind, ["sliding_attention", "full_attention"])
    turns = tuple(kind == "sliding_attention" for kind in kinds) if kinds else turns
    return Near(int(said["sliding_window"]), turns, positions) if any(turns) and said.get("sliding_window") else None


def _groups(said: Said) -> int:
    return int(said.get("num_key_value_heads") or said["num_attention_heads"])


def _network(said: Said, style: Style) -> Transformer:
    size = (said["vocab_size"], said["hidden_size"], said["num_hidden_layers"], said["num_attention_heads"])
    return Transformer(*size, style=style)


# -- families ------------------------------------------------------------------------------------------------------------


def _gpt2(said: Said) -> nn.Module:
    style = Style(
        attention=partial(Attention, bias=True, bias_out=True, scale=None if said["scale_attn_weights"] else 1.0),
        feed=partial(Plain, hidden=said.get("n_inner") or 0, act=_act(said, "activation_function")),
        norm=partial(nn.LayerNorm, eps=said["layer_norm_epsilon"]),
        positions=partial(Learned, count=said["n_positions"]),
        ends=Ends(tied=said["tie_word_embeddings"]),
    )
    return Transformer(said["vocab_size"], said["n_embd"], said["n_layer"], said["n_head"], style=style)


def _llama(
    said: Said, near: Near | None = None, norm: Callable[[int], nn.Module] | None = None, qkv: bool | None = None
) -> Style:
    """What Llama, Mistral and Qwen share."""
    eps, bias = said["rms_norm_eps"], said.get("attention_bias", False)
    attention = partial(
        Attention,
        groups=_groups(said),
        size=said.get("head_dim") or 0,
        norm=norm,
        bias=bias if qkv is None else qkv,
        bias_out=bias if qkv is None else False,
    )
    return Style(
        attention=attention,
        feed=_gated(said, "intermediate_size"),
        norm=partial(RMSNorm, eps=eps),
        positions=_rope(said, theta=said["rope_theta"]),
        near=near,
        ends=Ends(tied=said["tie_word_embeddings"]),
    )


def _gated(said: Said, key: str) -> Feed:
    return partial(Gated, hidden=said[key], act=_act(said, "hidden_act"), bias=said.get("mlp_bias", False))


def _mistral(said: Said) -> nn.Module:
    return _network(said, _llama(said, _near(said, (True,))))


def _qwen_near(said: Said, turns: tuple[bool, ...]) -> Near | None:
    return _near(said, turns) if said["use_sliding_window"] else None


def _qwen2(said: Said) -> nn.Module:
    turns = tuple(i >= said["max_window_layers"] for i in range(said["num_hidden_layers"]))
    return _network(said, _llama(said, _qwen_near(said, turns), qkv=True))


def _qwen3(said: Said) -> nn.Module:
    turns = tuple(i >= said["max_window_layers"] for i in range(said["num_hidden_layers"]))
    return _network(said, _llama(said, _qwen_near(said, turns), partial(RMSNorm, eps=said["rms_norm_eps"])))


def _mixed(said: Said, style: Style, shared: int = 0) -> Transformer:
    """The same with experts, but for the layers that a configuration leaves dense."""
    experts = partial(
        Experts,
        count=said.get("num_local_experts") or said["num_experts"],
        top=said["num_experts_per_tok"],
        hidden=said["moe_intermediate_size"],
        feed=partial(Gated, act=_act(said, "hidden_act")),
        shared=shared,
        shared_gate=bool(shared),
        score=softmax,
        norm=said["norm_topk_prob"],
        balance=0.0,
    )
    every, plain = said["decoder_sparse_step"], said.get("mlp_only_layers") or ()
    dense = {i: style.feed for i in range(said["num_hidden_layers"]) if i in plain or (i + 1) % every}
    return _network(said, Style(**{**vars(style), "feed": experts, "instead": dense}))


def _qwen2_moe(said: Said) -> nn.Module:
    turns = tuple(i % 2 == 0 and i < said["max_window_layers"] for i in range(said["num_hidden_layers"]))
    style = _llama(said, _qwen_near(said, turns), qkv=said["qkv_bias"])
    return _mixed(said, style, said["shared_expert_intermediate_size"])


def _qwen3_moe(said: Said) -> nn.Module:
    return _mixed(said, _llama(said, _qwen_near(said, (True,)), partial(RMSNorm, eps=said["rms_norm_eps"])))


def _gemma(said: Said, third: bool) -> nn.Module:
    norm = partial(RMSNorm, eps=said["rms_norm_eps"], one=True)
    every = said.get("sliding_window_pattern") or said.get("_sliding_window_pattern") or 6
    turns = tuple(bool((i + 1) % (every if third else 2)) for i in range(said["num_hidden_layers"]))
    slow = _rope(
        {"rope_parameters": said.get("rope_parameters"), **_none(said)}, "sliding_attention", said["rope_local_base_freq"]
    )
    bias = said["attention_bias"]
    attention = partial(
        Attention,
        groups=_groups(said),
        size=said["head_dim"],
        norm=norm if third else None,
        bias=bias,
        bias_out=bias,
        scale=said["query_pre_attn_scalar"] ** -0.5,
        cap=said.get("attn_logit_softcapping") or 0.0,
    )
    style = Style(
        attention=attention,
        feed=partial(Gated, hidden=said["intermediate_size"], act=_act(said, "hidden_activation")),
        norm=norm,
        around=Around(after=True),
        positions=_rope(said, "full_attention", said["rope_theta"]),
        near=_near(said, turns, slow if third else None),
        ends=Ends(
            tied=said["tie_word_embeddings"], scale=said["hidden_size"] ** 0.5, cap=said.get("final_logit_softcapping") or 0.0
        ),
    )
    return _network(said, style)


def _none(said: Said) -> dict[str, Any]:
    """What layers that see a window need of a configuration; older ones stretch the others' positions alone."""
    return {"max_position_embeddings": said["max_position_embeddings"]}


def _deepseek(said: Said) -> nn.Module:
    told = said.get("rope_scaling") or said.get("rope_parameters") or {}
    still, turned = said["qk_nope_head_dim"], said["qk_rope_head_dim"]
    sharper = warmth(float(told.get("factor") or 1), told["mscale_all_dim"]) if told.get("mscale_all_dim") else 1.0
    attention = partial(
        Latent,
        kept=said["kv_lora_rank"],
        turned=turned,
        still=still,
        value=said["v_head_dim"],
        query=said.get("q_lora_rank") or 0,
        scale=(still + turned) ** -0.5 * sharper**2,
        bias=said["attention_bias"],
    )
    act = partial(Gated, act=_act(said, "hidden_act"))
    experts = partial(
        Experts,
        count=said.get("num_local_experts") or said["n_routed_experts"],
        top=said["num_experts_per_tok"],
        hidden=said["moe_intermediate_size"],
        feed=act,
        shared=said["moe_intermediate_size"] * (said.get("n_shared_experts") or 0),
        score=torch.sigmoid,
        norm=said["norm_topk_prob"],
        scale=said["routed_scaling_factor"],
        groups=said["n_group"],
        top_groups=said["topk_group"],
    )
    style = Style(
        attention=attention,
        feed=experts,
        norm=partial(RMSNorm, eps=said["rms_norm_eps"]),
        positions=_rope(said, theta=said["rope_theta"]),
        instead={i: partial(act, hidden=said["intermediate_size"]) for i in range(said["first_k_dense_replace"])},
        ends=Ends(tied=said["tie_word_embeddings"]),
    )
    return _network(said, style)


def _t5(said: Said) -> nn.Module:
    """The encoder and the decoder, which have one table of symbols."""
    width, heads, size = said["d_model"], said["num_heads"], said["d_kv"]
    kind = said["feed_forward_proj"]
    if kind not in _T5_FEEDS:
        raise UnknownName("feed_forward_proj in config.json", kind, list(_T5_FEEDS))
    feed = partial(_T5_FEEDS[kind], hidden=said["d_ff"], bias=False)
    scaled = said.get("scale_decoder_outputs", said["tie_word_embeddings"])

    def style(both: bool) -> Style:
        counted = (said["relative_attention_num_buckets"], said["relative_attention_max_distance"])
        return Style(
            attention=partial(Attention, size=size, scale=1.0),
            feed=feed,
            norm=partial(RMSNorm, eps=said["layer_norm_epsilon"]),
            positions=partial(Relative, count=counted[0], furthest=counted[1], both=both),
            ends=Ends(tied=said["tie_word_embeddings"], out_scale=width**-0.5 if scaled else 1.0),
        )

    layers = said["num_layers"], said.get("num_decoder_layers") or said["num_layers"]
    encoder = Transformer(said["vocab_size"], width, layers[0], heads, out=None, causal=False, style=style(True))
    cross = partial(Cross, size=size, scale=1.0)
    decoder = Transformer(said["vocab_size"], width, layers[1], heads, style=style(False), cross=cross)
    decoder.embed.weight = encoder.embed.weight
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})


_T5_FEEDS: dict[str, Callable[..., nn.Module]] = {
    "relu": partial(Plain, act=F.relu),
    "gated-gelu": partial(Gated, act=gelu),
    "gated-silu": partial(Gated, act=F.silu),
}


def _bert(said: Said) -> nn.Module:
    act = _act(said, "hidden_act")
    style = Style(
        attention=partial(Attention, bias=True, bias_out=True),
        feed=partial(Plain, hidden=said["intermediate_size"], act=act),
        norm=partial(nn.LayerNorm, eps=said["layer_norm_eps"]),
        around=Around(before=False, total=True),
        positions=partial(Learned, count=said["max_position_embeddings"]),
        ends=Ends(tied=said["tie_word_embeddings"], norm=True, kinds=said["type_vocab_size"], last=False, act=act, bias=True),
    )
    size = (said["vocab_size"], said["hidden_size"], said["num_hidden_layers"], said["num_attention_heads"])
    return Transformer(*size, causal=False, style=style)


# -- all of them ---------------------------------------------------------------------------------------------------------

_USUAL: Said = {
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False,
}  # fmt: skip
_QWEN: Said = {**_USUAL, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_SPARSE: Said = {**_QWEN, "decoder_sparse_step": 1, "norm_topk_prob": False, "qkv_bias": True}
_GEMMAS: Said = {
    **_USUAL, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "sliding_window": 4096,
    "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000.0,
}  # fmt: skip
_DEEPSEEK: Said = {
    **_USUAL, "rope_interleave": True, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4,
    "n_shared_experts": 1, "first_k_dense_replace": 3,
}  # fmt: skip
_GPT: Said = {
    "n_positions": 1024, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
    "tie_word_embeddings": True,
}  # fmt: skip
_T5: Said = {
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu", "tie_word_embeddings": True,
}  # fmt: skip
_BERTS: Said = {
    "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
}  # fmt: skip
_NO = (None, False)
_WHOLE = {"quantization_config": (None,), "is_decoder": _NO, "add_cross_attention": _NO}
_SPUN = ("*.rotary_emb.inv_freq",)


def _just(table: Table) -> Callable[[Said], Table]:
    return lambda said: table


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel", _gpt2, _just(names.GPT2), _GPT, {**_WHOLE, "scale_attn_by_inverse_layer_idx": _NO},
        ("*.attn.bias", "*.attn.masked_bias"), "transformer.",
    ),
    "llama": Family("LlamaForCausalLM", lambda said: _network(said, _llama(said)), _just(names.LLAMA), _USUAL, _WHOLE, _SPUN),
    "mistral": Family("MistralForCausalLM", _mistral, _just(names.LLAMA), {**_USUAL, "sliding_window": 4096}, _WHOLE, _SPUN),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, _just(names.LLAMA), _QWEN, _WHOLE, _SPUN),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, _just(names.LLAMA), {**_QWEN, "head_dim": 128}, _WHOLE, _SPUN),
    "qwen2_moe": Family("Qwen2MoeForCausalLM", _qwen2_moe, _just(names.MIXED), _SPARSE, _WHOLE, _SPUN),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", _qwen3_moe, _just(names.MIXED), _SPARSE, _WHOLE, _SPUN),
    "gemma2": Family(
        "Gemma2ForCausalLM", lambda said: _gemma(said, False), _just(names.GEMMA),
        {**_GEMMAS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        {**_WHOLE, "use_bidirectional_attention": _NO}, _SPUN,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", lambda said: _gemma(said, True), _just(names.GEMMA), {**_GEMMAS, "rope_theta": 1e6},
        {**_WHOLE, "use_bidirectional_attention": _NO}, _SPUN,
    ),
    "deepseek_v3": Family("DeepseekV3ForCausalLM", _deepseek, names.deepseek, _DEEPSEEK, _WHOLE, _SPUN),
    "t5": Family("T5ForConditionalGeneration", _t5, names.t5, _T5, _WHOLE),
    "mt5": Family(
        "MT5ForConditionalGeneration", _t5, names.t5, {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        _WHOLE,
    ),
    "bert": Family(
        "BertForMaskedLM", _bert, _just(names.BERT), _BERTS, {**_WHOLE, "position_embedding_type": (None, "absolute")},
        ("bert.pooler.*", "cls.seq_relationship.*", "bert.embeddings.position_ids"), "bert.",
    ),
}  # fmt: skip


def family_of(said: Said) -> Family:
    """Which family a configuration is of.

    Raises:
        UnknownName: none that is built here.
    """
    if said.get("model_type") not in FAMILIES:
        raise UnknownName("model_type in config.json", said.get("model_type"), list(FAMILIES))
    return FAMILIES[said["model_type"]]


def full(said: Said) -> dict[str, Any]:
    """A configuration with what transformers takes for granted said as well.

    Raises:
        UnknownName: a family that is not built here.
        ValueError: it asks for what is not built, by name and value, or says another class of the family.
    """
    family = family_of(said)
    for key, built in family.refused.items():
        if said.get(key) not in built:
            raise ValueError(f"{key} is {said[key]!r} in config.json; only {' or '.join(map(repr, built))} is built here")
    classes = said.get("architectures") or [family.name]
    if family.name not in classes:
        raise UnknownName("class of a language model (architectures in config.json)", classes[0], [family.name])
    return {**family.usual, **{key: value for key, value in said.items() if value is not None or key in _MAY_BE_NULL}}


_MAY_BE_NULL = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "q_lora_rank")


def build(said: Said) -> nn.Module:
    """The network of a configuration: a transformer, or T5's encoder and decoder.

    Raises:
        UnknownName, ValueError: as `full`; a size that is missing is named.
    """
    family = family_of(said)
    try:
        return family.build(full(said))
    except KeyError as error:
        raise ValueError(f"config.json does not say {error.args[0]}, which {family.name} needs") from None
    except (RuntimeError, ZeroDivisionError) as error:  # of tensors whose sides are none
        raise ValueError(f"config.json has a size that makes no {family.name}: {error}") from None
