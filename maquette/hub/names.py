"""What published families of language models call the tensors of the one transformer: a table each. Knows names alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maquette.hub.renaming import Table, To

Said = Mapping[str, Any]

_H, _L = "transformer.h.{i}.", "model.layers.{i}."
GPT2: Table = {
    "embed": "transformer.wte",
    "places.table": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "blocks.{i}.norm1": _H + "ln_1",
    "blocks.{i}.norm2": _H + "ln_2",
    "blocks.{i}.attention.qkv": To(_H + "attn.c_attn", flipped=True),
    "blocks.{i}.attention.out": To(_H + "attn.c_proj", flipped=True),
    "blocks.{i}.mlp.up": To(_H + "mlp.c_fc", flipped=True),
    "blocks.{i}.mlp.down": To(_H + "mlp.c_proj", flipped=True),
}
LLAMA: Table = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "blocks.{i}.norm1": _L + "input_layernorm",
    "blocks.{i}.norm2": _L + "post_attention_layernorm",
    "blocks.{i}.attention.qkv": To(*(f"{_L}self_attn.{x}_proj" for x in "qkv")),
    "blocks.{i}.attention.out": _L + "self_attn.o_proj",
    "blocks.{i}.attention.norm_q": _L + "self_attn.q_norm",
    "blocks.{i}.attention.norm_k": _L + "self_attn.k_norm",
    "blocks.{i}.mlp.gate_up": To(*(f"{_L}mlp.{x}_proj" for x in ("gate", "up"))),
    "blocks.{i}.mlp.down": _L + "mlp.down_proj",
}
MIXED: Table = {
    **LLAMA,
    "blocks.{i}.mlp.router": _L + "mlp.gate",
    "blocks.{i}.mlp.bias": To(),
    "blocks.{i}.mlp.load": To(),
    "blocks.{i}.mlp.gate": _L + "mlp.shared_expert_gate",
    "blocks.{i}.mlp.shared.gate_up": To(*(f"{_L}mlp.shared_expert.{x}_proj" for x in ("gate", "up"))),
    "blocks.{i}.mlp.shared.down": _L + "mlp.shared_expert.down_proj",
    "blocks.{i}.mlp.experts.{j}.gate_up": To(*(f"{_L}mlp.experts.{{j}}.{x}_proj" for x in ("gate", "up"))),
    "blocks.{i}.mlp.experts.{j}.down": _L + "mlp.experts.{j}.down_proj",
}
GEMMA: Table = {
    **LLAMA,
    "blocks.{i}.after1": _L + "post_attention_layernorm",
    "blocks.{i}.norm2": _L + "pre_feedforward_layernorm",
    "blocks.{i}.after2": _L + "post_feedforward_layernorm",
}


def deepseek(said: Said) -> Table:
    pairs = bool(said["rope_interleave"])
    return {
        **MIXED,
        "blocks.{i}.attention.q": To(_L + f"self_attn.{'q_b_proj' if said.get('q_lora_rank') else 'q_proj'}", paired=pairs),
        "blocks.{i}.attention.q_down": _L + "self_attn.q_a_proj",
        "blocks.{i}.attention.q_norm": _L + "self_attn.q_a_layernorm",
        "blocks.{i}.attention.kv_down": To(_L + "self_attn.kv_a_proj_with_mqa", paired=pairs),
        "blocks.{i}.attention.kv_norm": _L + "self_attn.kv_a_layernorm",
        "blocks.{i}.attention.kv": _L + "self_attn.kv_b_proj",
        "blocks.{i}.mlp.bias": To(_L + "mlp.gate.e_score_correction_bias"),
        "blocks.{i}.mlp.shared.gate_up": To(*(f"{_L}mlp.shared_experts.{x}_proj" for x in ("gate", "up"))),
        "blocks.{i}.mlp.shared.down": _L + "mlp.shared_experts.down_proj",
    }


def t5(said: Said) -> Table:
    found: dict[str, str | To] = {"encoder.embed": "shared", "decoder.head": "lm_head"}
    for part, feed in (("encoder", 1), ("decoder", 2)):
        ours, layer = f"{part}.blocks.{{i}}.", f"{part}.block.{{i}}.layer."
        inward = ("wi_0", "wi_1") if said["feed_forward_proj"].startswith("gated-") else ("wi",)
        found |= {
            f"{part}.norm": f"{part}.final_layer_norm",
            f"{part}.places.scores": f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias",
            ours + "norm1": layer + "0.layer_norm",
            ours + "norm3": layer + "1.layer_norm",
            ours + "norm2": layer + f"{feed}.layer_norm",
            ours + "attention.qkv": To(*(f"{layer}0.SelfAttention.{x}" for x in "qkv")),
            ours + "attention.out": layer + "0.SelfAttention.o",
            ours + "cross.q": layer + "1.EncDecAttention.q",
            ours + "cross.kv": To(*(f"{layer}1.EncDecAttention.{x}" for x in "kv")),
            ours + "cross.out": layer + "1.EncDecAttention.o",
            ours + ("mlp.gate_up" if len(inward) > 1 else "mlp.up"): To(*(f"{layer}{feed}.DenseReluDense.{x}" for x in inward)),
            ours + "mlp.down": layer + f"{feed}.DenseReluDense.wo",
        }
    return found


_B, _C = "bert.encoder.layer.{i}.", "cls.predictions."
BERT: Table = {
    "embed": "bert.embeddings.word_embeddings",
    "kinds": "bert.embeddings.token_type_embeddings",
    "places.table": "bert.embeddings.position_embeddings",
    "norm_in": "bert.embeddings.LayerNorm",
    "blocks.{i}.attention.qkv": To(*(f"{_B}attention.self.{x}" for x in ("query", "key", "value"))),
    "blocks.{i}.attention.out": _B + "attention.output.dense",
    "blocks.{i}.total1": _B + "attention.output.LayerNorm",
    "blocks.{i}.mlp.up": _B + "intermediate.dense",
    "blocks.{i}.mlp.down": _B + "output.dense",
    "blocks.{i}.total2": _B + "output.LayerNorm",
    "shape_head": _C + "transform.dense",
    "norm_head": _C + "transform.LayerNorm",
    "head": _C + "decoder",
    "head_bias": To(_C + "bias"),
}
