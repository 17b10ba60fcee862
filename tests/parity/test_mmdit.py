"""The same weights, under the same names, give the same images and gradients as diffusers' SD3 and Flux transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maquette.contracts import Condition, tell
from maquette.networks.mmdit import MMDiT, Plan

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' SD3Transformer2DModel, FluxTransformer2DModel")

# the switches of published checkpoints, at tiny sizes
SD3 = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 20,
}
FLUX = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "SD3 medium": {**SD3, "pos_embed_max_size": 12},
    "SD3.5 medium": {**SD3, "pos_embed_max_size": 24, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "SD3.5 large": {**SD3, "pos_embed_max_size": 12, "qk_norm": "rms_norm", "dual_attention_layers": ()},
    "Flux dev": {**FLUX, "guidance_embeds": True},
    "Flux schnell": {**FLUX, "guidance_embeds": False},
    "Flux Fill": {**FLUX, "guidance_embeds": True, "in_channels": 96, "out_channels": 16},
}
TIMES = torch.tensor([0.02, 0.437, 1.0])


def pair(name: str) -> tuple[Any, MMDiT]:
    """Theirs with random weights, and ours with the same."""
    torch.manual_seed(0)
    kind = diffusers.SD3Transformer2DModel if name.startswith("SD3") else diffusers.FluxTransformer2DModel
    theirs = kind(**PUBLISHED[name]).eval()
    for p in theirs.parameters():  # theirs begin near 0, where differences hide
        torch.nn.init.normal_(p, *((0.3, 0.3) if p.ndim == 1 else (0.0, 0.12)))
    ours = MMDiT(Plan.of(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def told(rows: int, length: int = 7, scale: bool = False) -> Condition:
    cond = Condition(torch.randn(rows, 20), torch.randn(rows, length, 24))
    return tell(cond, torch.linspace(1, 5, rows)[:, None]) if scale else cond


def call(theirs: Any, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
    """Theirs as its pipeline calls it: SD3's with times in thousandths; Flux's with squares of 2 x 2 packed and their places."""
    given = {"encoder_hidden_states": cond.tokens, "pooled_projections": cond.vector[:, :20]}
    if isinstance(theirs, diffusers.SD3Transformer2DModel):
        return theirs(x, timestep=t * 1000, **given).sample
    high, wide = x.shape[2] // 2, x.shape[3] // 2
    packed = x.unflatten(3, (wide, 2)).unflatten(2, (high, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    places = torch.zeros(high, wide, 3)
    places[..., 1], places[..., 2] = torch.arange(high)[:, None], torch.arange(wide)
    given |= {"img_ids": places.flatten(0, 1), "txt_ids": torch.zeros(cond.tokens.shape[1], 3)}
    guidance = cond.vector[:, 20] if theirs.config.guidance_embeds else None
    out = theirs(packed, timestep=t, guidance=guidance, **given).sample
    return out.unflatten(2, (-1, 2, 2)).unflatten(1, (high, wide)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def example(ours: MMDiT, rows: int, high: int, wide: int, length: int = 7) -> tuple[Tensor, Tensor, Condition]:
    """An image, a time and what is said of it."""
    return torch.randn(rows, ours.plan.in_channels, high, wide), TIMES[:rows], told(rows, length, ours.plan.guidance_embeds)


@pytest.mark.parametrize("name", PUBLISHED)
def test_images_are_theirs(name: str) -> None:
    theirs, ours = pair(name)
    for rows, high, wide, length in ((3, 8, 8, 7), (1, 6, 16, 1), (2, 16, 4, 12)):
        x, t, cond = example(ours, rows, high, wide, length)
        with torch.no_grad():
            expected, found = call(theirs, x, t, cond), ours(x, t=t, cond=cond)
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert set(ours.state_dict()) == set(theirs.state_dict())


@pytest.mark.parametrize("name", PUBLISHED)
def test_gradients_are_theirs(name: str) -> None:
    """Of the image and of every weight; those that theirs uses for nothing, of a text that is let go, may have none here."""
    theirs, ours = pair(name)
    x, t, cond = example(ours, 3, 8, 4)
    a, b, towards = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn(3, ours.plan.out_channels, 8, 4)
    (call(theirs, a, t, cond) * towards).sum().backward()
    (ours(b, t=t, cond=cond) * towards).sum().backward()
    torch.testing.assert_close(b.grad, a.grad, atol=1e-4 * float(a.grad.abs().max()), rtol=0)
    expected, idle = dict(theirs.named_parameters()), []
    for name, p in ours.named_parameters():
        if p.grad is None:
            assert expected[name].grad is None or not expected[name].grad.any(), name
            idle.append(name)
            continue
        size = float(expected[name].grad.abs().max())
        torch.testing.assert_close(p.grad, expected[name].grad, atol=1e-4 * max(size, 1), rtol=0, msg=name)
    assert all(".2.attn.add_q_proj" in name or ".2.attn.norm_added_q" in name for name in idle), idle


def test_guidance_and_the_channels_of_a_field_are_heard() -> None:
    theirs, ours = pair("Flux Fill")
    x, t, cond = example(ours, 3, 8, 8)
    with torch.no_grad():
        whole = ours(x, t=t, cond=cond)
        parted = ours(x[:, :4], t=t, cond=Condition(cond.vector, cond.tokens, field=x[:, 4:]))
        louder = Condition(torch.cat([cond.vector[:, :20], cond.vector[:, 20:] + 1], 1), cond.tokens)
        assert torch.equal(parted, whole)
        assert (ours(x, t=t, cond=louder) - whole).abs().max() > 1e-2
        torch.testing.assert_close(ours(x, t=t, cond=louder), call(theirs, x, t, louder), atol=1e-4, rtol=0)


def test_times_and_guidance_are_told_in_full_precision() -> None:
    """Theirs rounds times to bfloat16 with everything else; ours is nearer to what float32 says."""
    theirs, ours = pair("Flux dev")
    x, t, cond = example(ours, 3, 8, 8)
    with torch.no_grad():
        full = ours(x, t=t, cond=cond)
        half = ours.bfloat16()(x, t=t, cond=cond).float()
        low = Condition(cond.vector.bfloat16(), cond.tokens.bfloat16())
        rounded = call(theirs.bfloat16(), x.bfloat16(), t, low).float()
    assert (half - full).norm() < 0.05 * full.norm()
    assert (half - full).norm() < (rounded - full).norm()


def test_configurations_say_less_than_they_mean() -> None:
    """A published file leaves out what its class takes as given: lists are JSON's, and a square of Flux's counts as channels."""
    dev = Plan.of(
        {"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30", "guidance_embeds": True, "patch_size": 1}
    )
    assert (dev.in_channels, dev.out_channels, dev.patch_size, dev.width) == (16, 16, 2, 3072)
    assert (dev.num_layers, dev.num_single_layers, dev.axes_dims_rope) == (19, 38, (16, 56, 56))
    fill = Plan.of({"in_channels": 384, "out_channels": 64, "num_single_layers": 38, "axes_dims_rope": [16, 56, 56]})
    assert (fill.in_channels, fill.out_channels, fill.guidance_embeds) == (96, 16, False)
    large = {"attention_head_dim": 64, "num_attention_heads": 38, "num_layers": 38, "caption_projection_dim": 2432}
    plan = Plan.of({**large, "dual_attention_layers": [], "pos_embed_max_size": 192, "qk_norm": "rms_norm"})
    assert (plan.width, plan.num_single_layers, plan.axes_dims_rope, plan.pooled_projection_dim) == (2432, 0, None, 2048)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**SD3, "qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'; this SD3 has None or 'rms_norm' only"),
        ({**SD3, "caption_projection_dim": 32}, "caption_projection_dim is 32; this SD3 has 64 only"),
        ({**SD3, "dual_attention_layers": [5]}, "dual_attention_layers names layer 5"),
        ({**SD3, "guidance_embeds": True}, "guidance_embeds is True, which this SD3 does not know"),
        ({**FLUX, "patch_size": 2}, "patch_size is 2; this Flux has 1 only"),
        ({**FLUX, "num_single_layers": 0}, "num_single_layers is 0"),
        ({**FLUX, "in_channels": 18}, "in_channels is 18"),
        ({**FLUX, "axes_dims_rope": [4, 6, 8]}, "axes_dims_rope is"),
        ({**FLUX, "num_layer": 3}, "num_layer is 3.*nearest is num_layers"),
        ({"_class_name": "AuraFlowTransformer2DModel"}, "AuraFlowTransformer2DModel"),
    ],
)
def test_what_is_not_built_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Plan.of(config)
