"""The same weights, under the same names, give the same images and gradients as diffusers' UNet2DModel."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.contracts import Condition
from maquette.networks.plans2d import Plan
from maquette.networks.unet2d import UNet2D

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' UNet2DModel")
PLAIN = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
MIXED = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
OLD = {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6}
STEPS = torch.tensor([0, 437, 999])


def pair(**config: Any) -> tuple[Any, UNet2D]:
    """Theirs with random weights, and ours with the same."""
    torch.manual_seed(0)
    common = {"sample_size": 8, "block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 4}
    theirs = diffusers.UNet2DModel(**{**common, **config}).eval()
    for p in theirs.parameters():  # theirs begin near 0, where differences hide
        torch.nn.init.normal_(p, *((0.5, 0.3) if p.ndim == 1 else (0.0, 0.1)))
    ours = UNet2D(Plan.of(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("config", [PLAIN, MIXED, {**MIXED, **OLD}, {**PLAIN, "add_attention": False}])
def test_images_are_theirs(config: dict[str, Any], layers: int) -> None:
    theirs, ours = pair(layers_per_block=layers, **config)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = theirs(x, STEPS).sample
        found = ours(x, t=(STEPS + 1) / 1000)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_class_is_told_as_theirs() -> None:
    theirs, ours = pair(num_class_embeds=5, **MIXED)
    x, label = torch.randn(3, 3, 8, 8), torch.tensor([4, 0, 2])
    with torch.no_grad():
        expected = theirs(x, STEPS, class_labels=label).sample
        told = Condition(vector=torch.nn.functional.one_hot(label, 5).float())
        found, untold = ours(x, t=(STEPS + 1) / 1000, cond=told), ours(x, t=(STEPS + 1) / 1000)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (untold - found).abs().max() > 1e-2


def test_gradients_are_theirs() -> None:
    theirs, ours = pair(**MIXED)
    x, towards = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8)
    (theirs(x, STEPS).sample * towards).sum().backward()
    (ours(x, t=(STEPS + 1) / 1000) * towards).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert p.grad is not None and expected[name].grad is not None
        size = float(expected[name].grad.abs().max())
        torch.testing.assert_close(p.grad, expected[name].grad, atol=1e-4 * max(size, 1), rtol=0, msg=name)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "SkipDownBlock2D"),
        ({"down_block_types": MIXED["down_block_types"], "up_block_types": PLAIN["up_block_types"]}, "same resolutions"),
        ({"norm_num_groups": 7, **PLAIN}, "norm_num_groups"),
        ({"attention_head_dim": 5, **MIXED}, "attention_head_dim"),
    ],
)
def test_what_is_not_built_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Plan.of({"block_out_channels": (16, 32), "norm_num_groups": 8, **config})
