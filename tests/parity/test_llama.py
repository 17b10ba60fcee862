"""The same weights give the same logits, and the same greedy text, as transformers' Llama."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maquette.codecs.text import Bytes
from maquette.networks import presets
from maquette.networks.style import Ends
from maquette.networks.transformer import Transformer
from maquette.objectives.likelihood import NextToken
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

transformers = pytest.importorskip("transformers")


def pair(groups: int, tied: bool):
    """transformers' Llama and ours with its weights."""
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=groups,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=96,
        pad_token_id=96,
    )
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config).eval()
    ours = Transformer(97, 32, 3, 4, style=replace(presets.llama(groups, 48, 10000.0), ends=Ends(tied=tied))).eval()
    ours.load_state_dict(translate(theirs.state_dict(), tied))
    return theirs, ours


def translate(weights: dict[str, torch.Tensor], tied: bool) -> dict[str, torch.Tensor]:
    """Llama's names to ours; queries, keys and values in one matrix, gate and up in one."""
    found = {"embed.weight": weights["model.embed_tokens.weight"], "norm.weight": weights["model.norm.weight"]}
    if not tied:
        found["head.weight"] = weights["lm_head.weight"]
    for i in range(3):
        at, to = f"model.layers.{i}.", f"blocks.{i}."
        found[to + "norm1.weight"] = weights[at + "input_layernorm.weight"]
        found[to + "norm2.weight"] = weights[at + "post_attention_layernorm.weight"]
        found[to + "attention.qkv.weight"] = torch.cat([weights[f"{at}self_attn.{x}_proj.weight"] for x in "qkv"])
        found[to + "attention.out.weight"] = weights[at + "self_attn.o_proj.weight"]
        found[to + "mlp.gate_up.weight"] = torch.cat([weights[f"{at}mlp.{x}_proj.weight"] for x in ("gate", "up")])
        found[to + "mlp.down.weight"] = weights[at + "mlp.down_proj.weight"]
    return found


@pytest.mark.parametrize(("groups", "tied"), [(4, False), (2, True), (1, False)])
def test_logits_are_llamas(groups, tied):
    theirs, ours = pair(groups, tied)
    x = torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=0, atol=1e-5)


def test_greedy_text_is_llamas():
    theirs, ours = pair(2, False)
    codec = Bytes(40)
    codec.bos = 0
    system = System({"main": ours}, NextToken(0), Autoregressive(temperature=0), codec)
    prompt = torch.randint(1, 96, (3, 6), generator=torch.Generator().manual_seed(2))
    begun = torch.cat([torch.zeros(3, 1, dtype=torch.int64), prompt], 1)
    with torch.no_grad():
        seen = torch.ones_like(begun)
        want = theirs.generate(begun, attention_mask=seen, do_sample=False, max_new_tokens=34, eos_token_id=None)
    assert torch.equal(system.sample(3, start=prompt)["code"], want[:, 1:])
