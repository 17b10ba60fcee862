"""The same weights, under the same names, give the same vectors and gradients as diffusers' PriorTransformer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.contracts import Condition
from maquette.networks.prior_transformer import PriorPlan, PriorTransformer

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' PriorTransformer")
STEPS = torch.tensor([0, 437, 999])
KARLO = {"embedding_dim": 24, "num_embeddings": 7}  # Karlo 1.0's and Kandinsky 2.1's, small
KANDINSKY = {"embedding_dim": 40, "num_embeddings": 9, "clip_embed_dim": None, "time_embed_dim": None, "num_layers": 3}  # 2.2's


def pair(config: dict[str, Any]) -> tuple[Any, PriorTransformer]:
    """Theirs with random weights, and ours with the same."""
    torch.manual_seed(0)
    theirs = diffusers.PriorTransformer(**{"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, **config}).eval()
    for p in theirs.parameters():  # theirs begin near 0, where differences hide
        torch.nn.init.normal_(p, *((0.5, 0.3) if p.ndim == 1 else (0.0, 0.2)))
    ours = PriorTransformer(PriorPlan.of(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    return theirs, ours


def asked(config: dict[str, Any]) -> tuple[torch.Tensor, Condition]:
    """Noised vectors, and what is told of three texts of unlike lengths."""
    width, length = config["embedding_dim"], config["num_embeddings"]
    mask = torch.arange(length)[None] < torch.tensor([[2], [length], [4]])
    return torch.randn(3, width), Condition(torch.randn(3, width), torch.randn(3, length, width), mask)


@pytest.mark.parametrize("config", [KARLO, KANDINSKY])
def test_vectors_and_gradients_are_theirs(config):
    theirs, ours = pair(config)
    x, told = asked(config)
    expected = theirs(x, STEPS, told.vector, told.tokens, told.mask).predicted_image_embedding
    found = ours(x, t=(STEPS + 1) / 1000, cond=told)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    towards = torch.randn_like(x)
    (expected * towards).sum().backward()
    (found * towards).sum().backward()
    named = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        size = max(1.0, float(named[name].grad.abs().max()))
        torch.testing.assert_close(p.grad, named[name].grad, atol=1e-4 * size, rtol=0, msg=name)


def test_what_fills_a_text_up_is_not_seen():
    _, ours = pair(KARLO)
    x, told = asked(KARLO)
    other = told.tokens.clone()
    other[0, 2:] = 9.0
    with torch.no_grad():
        one, two = (ours(x, t=STEPS / 1000, cond=Condition(told.vector, states, told.mask)) for states in (told.tokens, other))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"norm_in_type": "layer"}, "norm_in_type"),  # Shap-E's prior
        ({"added_emb_type": None}, "added_emb_type"),
        ({"encoder_hid_proj_type": None}, "encoder_hid_proj_type"),
        ({"clip_embed_dim": 1000}, "clip_embed_dim"),
        ({"num_layer": 3}, "num_layers"),
    ],
)
def test_what_is_not_built_is_refused_by_name(config, says):
    with pytest.raises(ValueError, match=says):
        PriorPlan.of(config)


def test_a_condition_of_another_shape_is_refused():
    _, ours = pair(KARLO)
    with pytest.raises(ValueError, match=r"tokens \[B,7,24\].*not \(24,\) and None"):
        ours(torch.zeros(1, 24), cond=Condition(vector=torch.zeros(1, 24)))
