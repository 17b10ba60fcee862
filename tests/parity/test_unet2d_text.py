"""The same weights, under the same names, give the same images and gradients as diffusers' UNet2DConditionModel."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.contracts import Condition
from maquette.networks.plans2d import TextPlan
from maquette.networks.unet2d import UNet2D

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' UNet2DConditionModel")
STEPS = torch.tensor([0, 437, 999])


def types(*attention: bool) -> dict[str, Any]:
    """Block types that attend at these resolutions."""
    down = ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in attention]
    return {"down_block_types": down, "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)]}


TINY = {"sample_size": 8, "block_out_channels": (16, 32), "norm_num_groups": 8, "cross_attention_dim": 12}
SDXL = {"use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8}
PUBLISHED = {  # what stands in the configurations of these checkpoints, apart from widths
    "stable-diffusion-v1-5": {**types(True, False), "attention_head_dim": 8},
    "stable-diffusion-2-1": {  # predicts velocity; that is its process's matter
        **types(True, False),
        "attention_head_dim": [2, 4],
        "use_linear_projection": True,
        "upcast_attention": True,
        "dual_cross_attention": False,
        "only_cross_attention": False,
    },
    "stable-diffusion-2-1-unclip": {
        **types(True, False),
        "attention_head_dim": [2, 4],
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 10,
    },
    "stable-diffusion-xl-base-1.0": {
        **types(False, True, True),
        **SDXL,
        "block_out_channels": (16, 32, 32),
        "attention_head_dim": [2, 4, 8],
        "transformer_layers_per_block": [1, 2, 3],
        "projection_class_embeddings_input_dim": 7 + 6 * 8,
    },
    "stable-diffusion-xl-refiner-1.0": {
        **types(False, True, False),
        **SDXL,
        "block_out_channels": (16, 32, 32),
        "attention_head_dim": [2, 4, 4],
        "transformer_layers_per_block": 2,
        "projection_class_embeddings_input_dim": 7 + 5 * 8,
    },
    "stable-diffusion-inpainting": {**types(True, False), "attention_head_dim": 8, "in_channels": 9},
    "instruct-pix2pix": {**types(True, False), "attention_head_dim": 8, "in_channels": 8},
    "bk-sdm-small": {**types(True, True), "attention_head_dim": 8, "layers_per_block": 1, "mid_block_type": None},
    "told of a number": {**types(True, False), "attention_head_dim": 8, "class_embed_type": "timestep"},
    "told of a noise level": {**types(True, False), "attention_head_dim": 8, "num_class_embeds": 11},
    "another first convolution": {**types(True, False), "conv_in_kernel": 5, "flip_sin_to_cos": False, "freq_shift": 1},
}
REFUSED = [
    ({"only_cross_attention": [True, False]}, "only_cross_attention"),
    ({"down_block_types": ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]}, "SimpleCrossAttnDownBlock2D"),
    ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "UNetMidBlock2DSimpleCrossAttn"),
    ({"encoder_hid_dim": 20, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim is 20"),
    ({"class_embed_type": "simple_projection"}, "class_embed_type is 'simple_projection'"),
    ({"addition_embed_type": "text"}, "addition_embed_type is 'text'"),
    ({"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 20}, "addition_time_embed_dim is None"),
    ({"class_embed_type": "projection"}, "projection_class_embeddings_input_dim is None"),
    ({"num_class_embeds": 3, "class_embed_type": "timestep"}, "num_class_embeds and class_embed_type are both given"),
    ({"time_cond_proj_dim": 256}, "time_cond_proj_dim is 256"),
    ({"resnet_time_scale_shift": "scale_shift"}, "scale_shift"),
    ({"attention_type": "gated"}, "attention_type is 'gated'"),
    ({"attention_head_dim": 5}, "attention_head_dim is 5; it must divide 16"),
    ({"attention_head_dim": [4, 4, 4]}, r"attention_head_dim is \(4, 4, 4\)"),
    ({"transformer_layers_per_block": [[1, 2], 1]}, "transformer_layers_per_block"),
    ({"cross_attention_dim": [8, 8]}, "cross_attention_dim"),
    ({"layers_per_block": [1, 2]}, "layers_per_block"),
    ({"conv_in_kernel": 4}, "conv_in_kernel is 4"),
]


def pair(name: str) -> tuple[Any, UNet2D, dict[str, Any]]:
    """Theirs with random weights, ours with the same, and what both are told."""
    torch.manual_seed(0)
    config = {**TINY, **PUBLISHED[name]}
    theirs = diffusers.UNet2DConditionModel(**config).eval()
    for p in theirs.parameters():  # theirs begin near 0, where differences hide
        torch.nn.init.normal_(p, *((0.5, 0.3) if p.ndim == 1 else (0.0, 0.1)))
    ours = UNet2D(TextPlan.of(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict())
    told: dict[str, Any] = {"x": torch.randn(3, 4, 8, 8), "tokens": torch.randn(3, 5, 12)}
    if config.get("in_channels", 4) > 4:
        told["field"] = torch.randn(3, config["in_channels"] - 4, 8, 8)
    if "addition_embed_type" in config:
        numbers = (config["projection_class_embeddings_input_dim"] - 7) // 8
        told["vector"] = torch.cat([torch.randn(3, 7), torch.randint(0, 1024, (3, numbers)).float()], 1)
    elif config.get("class_embed_type") == "projection":
        told["vector"] = torch.randn(3, 10)
    elif config.get("class_embed_type") == "timestep":
        told["vector"] = torch.tensor([[3.0], [20.0], [700.0]])
    elif "num_class_embeds" in config:
        told["vector"] = torch.eye(11)[[4, 0, 10]]
    return theirs, ours, told


def expected(theirs: Any, told: dict[str, Any], **more: Any) -> torch.Tensor:
    """What theirs makes of it, told in its own way."""
    x, vector = told["x"], told.get("vector")
    if "field" in told:
        x = torch.cat([x, told["field"]], 1)
    if theirs.config.addition_embed_type:
        more["added_cond_kwargs"] = {"text_embeds": vector[:, :7], "time_ids": vector[:, 7:]}
    elif theirs.config.num_class_embeds:
        more["class_labels"] = vector.argmax(1)
    elif vector is not None:
        more["class_labels"] = vector[:, 0] if theirs.config.class_embed_type == "timestep" else vector
    return theirs(x, STEPS, told["tokens"], **more).sample


def found(ours: UNet2D, told: dict[str, Any], mask: torch.Tensor | None = None) -> torch.Tensor:
    cond = Condition(told.get("vector"), told["tokens"], mask, told.get("field"))
    return ours(told["x"], t=(STEPS + 1) / 1000, cond=cond)


@pytest.mark.parametrize("name", PUBLISHED)
def test_images_are_theirs(name: str) -> None:
    theirs, ours, told = pair(name)
    with torch.no_grad():
        wanted = expected(theirs, told)
        assert wanted.std() > 0.1
        torch.testing.assert_close(found(ours, told), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["stable-diffusion-v1-5", "stable-diffusion-2-1-unclip", "stable-diffusion-xl-base-1.0"])
def test_gradients_are_theirs(name: str) -> None:
    theirs, ours, told = pair(name)
    towards = torch.randn(3, 4, 8, 8)
    (expected(theirs, told) * towards).sum().backward()
    (found(ours, told) * towards).sum().backward()
    wanted = dict(theirs.named_parameters())
    for key, p in ours.named_parameters():
        assert p.grad is not None and wanted[key].grad is not None
        size = float(wanted[key].grad.abs().max())
        torch.testing.assert_close(p.grad, wanted[key].grad, atol=1e-4 * max(size, 1), rtol=0, msg=key)


def test_masked_tokens_are_not_seen() -> None:
    theirs, ours, told = pair("stable-diffusion-v1-5")
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    with torch.no_grad():
        wanted = expected(theirs, told, encoder_attention_mask=mask)
        torch.testing.assert_close(found(ours, told, mask), wanted, atol=1e-4, rtol=0)
        assert (found(ours, told) - wanted)[1:].abs().max() > 1e-2


@pytest.mark.parametrize(("config", "says"), REFUSED)
def test_what_is_not_built_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TextPlan.of({**TINY, **PUBLISHED["stable-diffusion-v1-5"], **config})


def test_what_is_told_is_checked() -> None:
    _, ours, told = pair("stable-diffusion-xl-base-1.0")
    for part, wrong, says in [
        ("tokens", None, r"tokens \[B,L,12\] by its condition, not None"),
        ("tokens", torch.randn(3, 5, 13), r"tokens \[B,L,12\] by its condition, not \(3, 5, 13\)"),
        ("vector", None, "a vector whose last numbers become 8 waves each, 55 in all"),
        ("vector", torch.randn(3, 14), "not 14 numbers"),
        ("field", torch.randn(3, 5, 8, 8), "images of 4 channels"),
    ]:
        with pytest.raises(ValueError, match=says):
            found(ours, {**told, part: wrong})


def test_what_a_configuration_leaves_out_is_as_theirs() -> None:
    with torch.device("meta"):
        assert TextPlan.of({}) == TextPlan.of(diffusers.UNet2DConditionModel().config)


@pytest.mark.parametrize("name", ["stable-diffusion-v1-5", "stable-diffusion-xl-base-1.0", "stable-diffusion-xl-refiner-1.0"])
def test_every_tensor_has_its_name_and_shape_at_full_size(name: str) -> None:
    full: dict[str, Any] = {
        "stable-diffusion-v1-5": {**types(True, True, True, False), "cross_attention_dim": 768},
        "stable-diffusion-xl-base-1.0": {
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "stable-diffusion-xl-refiner-1.0": {
            **types(False, True, True, False),
            "block_out_channels": (384, 768, 1536, 1536),
            "attention_head_dim": [6, 12, 24, 24],
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2560,
        },
    }
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**{**PUBLISHED[name], **full[name]})
        ours = UNet2D(TextPlan.of(theirs.config))
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
