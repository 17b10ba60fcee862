"""The same weights, under the same names, lead a U-Net where diffusers' ControlNetModel leads it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.contracts import Condition
from maquette.networks.controlnet import Controlled, ControlNet
from maquette.networks.plans2d import TextPlan
from maquette.networks.unet2d import UNet2D

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' ControlNetModel")
STEPS = torch.tensor([0, 437, 999])
TINY = {"block_out_channels": (16, 32), "norm_num_groups": 8, "cross_attention_dim": 12, "layers_per_block": 1}
DOWN = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
UP = {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
PUBLISHED = {
    "sd-controlnet-canny": {**TINY, **DOWN, "attention_head_dim": 8},
    "controlnet-canny-sdxl-1.0": {
        **TINY,
        **DOWN,
        "attention_head_dim": [2, 4],
        "transformer_layers_per_block": [1, 2],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 7 + 6 * 8,
    },
}


def systems(name: str) -> tuple[Any, Any, Controlled, dict[str, Any]]:
    """Their U-Net and control network with random weights, ours with the same, and what all are told."""
    torch.manual_seed(0)
    net = diffusers.UNet2DConditionModel(**PUBLISHED[name], **UP).eval()
    control = diffusers.ControlNetModel(**PUBLISHED[name], conditioning_embedding_out_channels=(4, 6, 8, 12)).eval()
    for p in [*net.parameters(), *control.parameters()]:
        torch.nn.init.normal_(p, *((0.5, 0.3) if p.ndim == 1 else (0.0, 0.1)))
    ours = Controlled(UNet2D(TextPlan.of(net.config)), ControlNet.of(control.config), scale=0.7).eval()
    ours.net.load_state_dict(net.state_dict())
    ours.control.load_state_dict(control.state_dict())
    told = {"x": torch.randn(3, 4, 8, 8), "tokens": torch.randn(3, 5, 12), "picture": torch.rand(3, 3, 64, 64)}
    if "addition_embed_type" in PUBLISHED[name]:
        told["vector"] = torch.cat([torch.randn(3, 7), torch.randint(0, 1024, (3, 6)).float()], 1)
    return net, control, ours, told


def wanted(net: Any, control: Any, told: dict[str, Any]) -> torch.Tensor:
    """What theirs makes of it, led."""
    x, tokens, vector = told["x"], told["tokens"], told.get("vector")
    more = {} if vector is None else {"added_cond_kwargs": {"text_embeds": vector[:, :7], "time_ids": vector[:, 7:]}}
    down, middle = control(x, STEPS, tokens, told["picture"], conditioning_scale=0.7, return_dict=False, **more)
    return net(x, STEPS, tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle, **more).sample


@pytest.mark.parametrize("name", PUBLISHED)
def test_images_and_gradients_are_theirs(name: str) -> None:
    net, control, ours, told = systems(name)
    towards = torch.randn(3, 4, 8, 8)
    cond = Condition(told.get("vector"), told["tokens"], field=told["picture"])
    expected, found = wanted(net, control, told), ours(told["x"], t=(STEPS + 1) / 1000, cond=cond)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    unled = ours.net(told["x"], t=(STEPS + 1) / 1000, cond=Condition(told.get("vector"), told["tokens"]))
    assert (unled - found).abs().max() > 0.1
    (expected * towards).sum().backward()
    (found * towards).sum().backward()
    slopes = dict(control.named_parameters())
    for key, p in ours.control.named_parameters():
        assert p.grad is not None and slopes[key].grad is not None
        size = float(slopes[key].grad.abs().max())
        torch.testing.assert_close(p.grad, slopes[key].grad, atol=1e-4 * max(size, 1), rtol=0, msg=key)


def test_it_begins_as_nothing() -> None:
    plan = TextPlan.of({**PUBLISHED["sd-controlnet-canny"], **UP})
    net = UNet2D(plan).eval()
    x, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.9]), torch.randn(2, 5, 12)
    led = Controlled(net, ControlNet(plan).eval())(x, t=t, cond=Condition(tokens=tokens, field=torch.rand(2, 3, 64, 64)))
    torch.testing.assert_close(led, net(x, t=t, cond=Condition(tokens=tokens)))


@pytest.mark.parametrize("picture", [None, torch.rand(2, 3, 32, 64), torch.rand(2, 1, 64, 64)])
def test_a_picture_of_another_size_is_refused(picture: torch.Tensor | None) -> None:
    control = ControlNet(TextPlan.of({**PUBLISHED["sd-controlnet-canny"], **UP}))
    with pytest.raises(ValueError, match=r"field is a picture \[B,3,64,64\], not"):
        control(torch.randn(2, 4, 8, 8), cond=Condition(tokens=torch.randn(2, 5, 12), field=picture))


def test_what_is_not_built_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="controlnet_conditioning_channel_order is 'bgr'"):
        TextPlan.of({**PUBLISHED["sd-controlnet-canny"], "controlnet_conditioning_channel_order": "bgr"})
    with pytest.raises(ValueError, match="global_pool_conditions is True"):
        TextPlan.of({**PUBLISHED["sd-controlnet-canny"], "global_pool_conditions": True})
