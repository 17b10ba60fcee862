"""Configurations as they were published give networks of the published sizes, whose every tensor has a name there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.hub import families, renaming

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# as the hub's config.json files say what matters -> parameters
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2": (
        {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
        124_439_808,
    ),
    "Llama-2-7b": (
        {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_scaling": None},
        6_738_415_616,
    ),
    "Llama-3.1-8B": (
        {"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 500000.0,
         "rope_scaling": {**LLAMA3, "rope_type": "llama3"}},
        8_030_261_248,
    ),
    "Mistral-7B-v0.1": (
        {"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": 4096},
        7_241_732_096,
    ),
    "Qwen2.5-7B": (
        {"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4, "rope_theta": 1e6, "use_sliding_window": False},
        7_615_616_512,
    ),
    "Qwen3-8B": (
        {"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6},
        8_190_735_360,
    ),
    "Qwen1.5-MoE-A2.7B": (
        {"model_type": "qwen2_moe", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
         "num_attention_heads": 16, "num_key_value_heads": 16, "moe_intermediate_size": 1408, "num_experts": 60,
         "num_experts_per_tok": 4, "shared_expert_intermediate_size": 5632, "rope_theta": 1e6},
        14_315_784_192,
    ),
    "Qwen3-30B-A3B": (
        {"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
         "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "moe_intermediate_size": 768, "num_experts": 128,
         "num_experts_per_tok": 8, "norm_topk_prob": True, "rope_theta": 1e6},
        30_532_122_624,
    ),
    "gemma-2-2b": (
        {"model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192},
        2_614_341_888,
    ),
    "gemma-3-1b": (
        {"model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912,
         "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
         "sliding_window_pattern": 6, "max_position_embeddings": 32768, "rope_theta": 1e6, "rope_local_base_freq": 10000},
        999_885_952,
    ),
    "DeepSeek-V3": (
        {"model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
         "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
         "n_routed_experts": 256, "num_experts_per_tok": 8, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
         "v_head_dim": 128, "qk_nope_head_dim": 128, "max_position_embeddings": 163840,
         "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1,
                          "original_max_position_embeddings": 4096}},
        671_026_404_352,  # without the balance of its experts, which is no parameter
    ),
    "t5-small": (
        {"model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
        60_506_624,
    ),
    "t5-v1_1-base": (
        {"model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12,
         "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        247_577_856,
    ),
    "bert-base-uncased": (
        {"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
         "num_attention_heads": 12},
        109_514_298,
    ),
}  # fmt: skip
MANY = ("Qwen1.5-MoE-A2.7B", "Qwen3-30B-A3B", "DeepSeek-V3")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in MANY else ()) for name in PUBLISHED])
def test_published_configurations_have_the_published_sizes(name: str) -> None:
    said, size = PUBLISHED[name]
    with torch.device("meta"):
        made = families.build(said)
    assert sum(parameter.numel() for parameter in made.parameters()) == size
    state = made.state_dict(keep_vars=True)
    rows = renaming.rows(made, families.family_of(said).table(families.full(said)))
    names = [part.name for row in rows for part in row.parts]
    assert len(names) == len(set(names)) and len(rows) == len({id(tensor) for tensor in state.values()})
    for row in rows:
        assert sum(part.rows for part in row.parts) in (0, max(1, (*state[row.name].shape, 1)[0]))
