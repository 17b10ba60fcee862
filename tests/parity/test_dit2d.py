"""The same weights, under the same names, give the same images and gradients as diffusers' DiTTransformer2DModel."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.contracts import Condition
from maquette.networks.dit2d import DiT2D, Plan

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' DiTTransformer2DModel")

# DiT-XL/2's switches at a tiny size: 8 channels go out for 4 that come in
XL = {
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "num_attention_heads": 4,
    "attention_head_dim": 12,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
}
OLD = {  # what the published file of DiT-XL/2 says besides
    "_class_name": "Transformer2DModel",
    "cross_attention_dim": None,
    "double_self_attention": False,
    "dropout": 0.0,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": False,
    "use_linear_projection": False,
}
STEPS = torch.tensor([0, 437, 999])


def pair(**config: Any) -> tuple[Any, DiT2D]:
    """Theirs with random weights, and ours with the same."""
    torch.manual_seed(0)
    theirs = diffusers.DiTTransformer2DModel(**{**XL, **config}).eval()
    for p in theirs.parameters():  # theirs begin near 0, where differences hide
        torch.nn.init.normal_(p, *((0.3, 0.3) if p.ndim == 1 else (0.0, 0.12)))
    ours = DiT2D(Plan.of({**theirs.config, **OLD})).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def one_hot(label: torch.Tensor, classes: int = 1000) -> Condition:
    """As `Labels` tells a class: theirs for none, the last, is all zeros."""
    return Condition(torch.nn.functional.one_hot(label, classes + 1)[:, :classes].float())


@pytest.mark.parametrize("config", [{}, {"patch_size": 4}, {"norm_eps": 1e-2, "out_channels": None}, {"patch_size": 1}])
def test_images_are_theirs(config: dict[str, Any]) -> None:
    theirs, ours = pair(**config)
    for label in ([7, 1000, 999], [1000]):
        rows = len(label)
        x, told = torch.randn(rows, 4, 8, 8), torch.tensor(label)
        with torch.no_grad():
            expected = theirs(x, timestep=STEPS[:rows], class_labels=told).sample
            found = ours(x, t=(STEPS[:rows] + 1) / 1000, cond=one_hot(told))
        assert expected.std() > 0.1
        assert found.shape == (rows, config.get("out_channels", 8) or 4, 8, 8)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert list(ours.state_dict()) and set(ours.state_dict()) == set(theirs.state_dict())


def test_images_of_other_sides_are_theirs() -> None:
    """Theirs puts 2 x 8 tokens together as 4 x 4: the same squares, elsewhere."""
    theirs, ours = pair()
    x, told = torch.randn(2, 4, 4, 16), torch.tensor([3, 5])
    with torch.no_grad():
        expected = theirs(x, timestep=STEPS[:2], class_labels=told).sample
        found = ours(x, t=(STEPS[:2] + 1) / 1000, cond=one_hot(told))
    squares = expected.unflatten(3, (4, 2)).unflatten(2, (4, 2)).transpose(3, 4)  # [B,C,4,4,2,2]
    lying = squares.reshape(2, 8, 2, 8, 2, 2).transpose(3, 4).reshape(2, 8, 4, 16)
    torch.testing.assert_close(found, lying, atol=1e-4, rtol=0)
    larger = torch.randn(1, 4, 12, 12)
    with torch.no_grad():
        expected = theirs(larger, timestep=STEPS[:1], class_labels=told[:1]).sample
        torch.testing.assert_close(ours(larger, t=torch.tensor([0.001]), cond=one_hot(told[:1])), expected, atol=1e-4, rtol=0)


def test_gradients_are_theirs() -> None:
    theirs, ours = pair()
    x, towards, told = torch.randn(3, 4, 8, 8), torch.randn(3, 8, 8, 8), torch.tensor([3, 1000, 5])
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (theirs(a, timestep=STEPS, class_labels=told).sample * towards).sum().backward()
    (ours(b, t=(STEPS + 1) / 1000, cond=one_hot(told)) * towards).sum().backward()
    torch.testing.assert_close(b.grad, a.grad, atol=1e-4 * float(a.grad.abs().max()), rtol=0)
    expected = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert p.grad is not None and expected[name].grad is not None
        size = float(expected[name].grad.abs().max())
        assert size > 0
        torch.testing.assert_close(p.grad, expected[name].grad, atol=1e-4 * max(size, 1), rtol=0, msg=name)


def test_no_class_is_theirs_for_none_and_channels_may_be_kept() -> None:
    _, ours = pair()
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        whole = ours(x, t=t)
        assert torch.equal(whole, ours(x, t=t, cond=Condition(torch.zeros(2, 1000))))
        assert (whole - ours(x, t=t, cond=one_hot(torch.tensor([1, 2])))).abs().max() > 1e-2
        kept = DiT2D(ours.plan, keep=4).eval()
        kept.load_state_dict(ours.state_dict())
        assert torch.equal(kept(x, t=t), whole[:, :4])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"norm_type": "ada_norm"}, "norm_type is 'ada_norm'"),
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu'"),
        ({"attention_bias": False}, "attention_bias is False"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine is True"),
        ({"cross_attention_dim": 768}, "cross_attention_dim is 768"),
        ({"dropout": 0.1}, "dropout is 0.1"),
        ({"num_layer": 3}, "num_layer is 3.*nearest is num_layers"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"attention_head_dim": 3, "num_attention_heads": 3}, "is 9; places need a multiple of 4"),
        ({"_class_name": "PixArtTransformer2DModel"}, "PixArtTransformer2DModel"),
    ],
)
def test_what_is_not_built_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Plan.of({**XL, **config})


def test_bad_calls_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="keep is 9"):
        DiT2D(Plan(out_channels=8, num_layers=1), keep=9)
    net = DiT2D(Plan.of({**XL, "num_layers": 1}))
    for shape in ((1, 3, 8, 8), (1, 4, 7, 8)):
        with pytest.raises(ValueError, match="4 channels whose sides divide by 2"):
            net(torch.zeros(shape))
    with pytest.raises(ValueError, match="vector is 10 wide; num_embeds_ada_norm is 1000"):
        net(torch.zeros(1, 4, 8, 8), cond=Condition(torch.zeros(1, 10)))
