"""The same weights, under the same names, give the same latents, images and gradients as diffusers' AutoencoderKL and VQModel."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.codecs.chain import Chain
from maquette.codecs.latents import KLLatents, VQLatents, VQSymbols
from maquette.codecs.pixels import Pixels
from maquette.networks.autoencoder2d import LatentPlan
from maquette.streams import Streams

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' AutoencoderKL and VQModel")


def types(*attention: bool) -> dict[str, Any]:
    """Block types that attend at these resolutions."""
    down = ["AttnDownEncoderBlock2D" if on else "DownEncoderBlock2D" for on in attention]
    up = ["AttnUpDecoderBlock2D" if on else "UpDecoderBlock2D" for on in reversed(attention)]
    return {"down_block_types": down, "up_block_types": up}


TINY = {**types(False, False, False), "block_out_channels": (16, 32, 32), "norm_num_groups": 8, "layers_per_block": 2}
BARE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
GAUSSIAN = {  # what stands in the configurations of these checkpoints, apart from widths
    "sd-vae-ft-mse": {"latent_channels": 4, "scaling_factor": 0.18215},
    "sdxl-vae": {"latent_channels": 4, "scaling_factor": 0.13025, "layers_per_block": 1},
    "stable-diffusion-3": {**BARE, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    "FLUX.1": {**BARE, "scaling_factor": 0.3611, "shift_factor": 0.1159, "mid_block_add_attention": False},
    "grey, attending": {**types(False, False, True), "in_channels": 1, "out_channels": 1},
}
QUANTISED = {
    "ldm-celebahq-256": {"latent_channels": 3, "num_vq_embeddings": 40},
    "amused-256": {"latent_channels": 8, "num_vq_embeddings": 30, "vq_embed_dim": 8, "mid_block_add_attention": False},
    "vq-diffusion-ithq": {**types(False, False, True), "latent_channels": 6, "vq_embed_dim": 4, "num_vq_embeddings": 30},
}


def weighed(theirs: Any) -> Any:
    """Theirs with random weights; they begin near 0, where differences hide."""
    torch.manual_seed(0)
    for name, p in theirs.named_parameters():
        size = 1.0 if name.startswith("quantize") else 0.1
        torch.nn.init.normal_(p, *((0.5, 0.3) if p.ndim == 1 else (0.0, size)))
    return theirs.eval()


def gaussian(name: str) -> tuple[Any, KLLatents, torch.Tensor]:
    theirs = weighed(diffusers.AutoencoderKL(**{**TINY, **GAUSSIAN[name]}))
    ours = KLLatents(LatentPlan.of(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, torch.rand(2, theirs.config.in_channels, 16, 24)


def quantised(name: str) -> tuple[Any, VQLatents, torch.Tensor]:
    theirs = weighed(diffusers.VQModel(**{**TINY, **QUANTISED[name]}))
    with torch.no_grad():  # points where vectors are, so that many are chosen
        book = theirs.quantize.embedding.weight
        book[:24] = theirs.encode(2 * torch.rand(1, 3, 16, 24) - 1).latents.flatten(2)[0].T
    ours = VQLatents(LatentPlan.of(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, torch.rand(2, 3, 16, 24)


def same_slopes(ours: Any, theirs: Any, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Gradients of both sums, by every parameter."""
    theirs.zero_grad(), ours.zero_grad()
    found.sum().backward(), expected.sum().backward()
    wanted = dict(theirs.named_parameters())
    for key, p in ours.named_parameters():
        if wanted[key].grad is None:
            assert p.grad is None, key
            continue
        size = float(wanted[key].grad.abs().max())
        torch.testing.assert_close(p.grad, wanted[key].grad, atol=1e-4 * max(size, 1), rtol=0, msg=key)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_latents_are_theirs(name: str) -> None:
    theirs, ours, image = gaussian(name)
    codec, scale, shift = Chain(Pixels(), ours), theirs.config.scaling_factor, theirs.config.shift_factor or 0.0
    with torch.no_grad():
        dist = theirs.encode(2 * image - 1).latent_dist
        mean, logvar = ours.posterior(2 * image - 1)
        assert dist.mean.std() > 0.1
        torch.testing.assert_close(mean, dist.mean, atol=1e-4, rtol=0)
        torch.testing.assert_close(logvar, dist.logvar, atol=1e-4, rtol=0)
        seen = (dist.mean - shift) * scale  # what their pipelines hand to the U-Net
        torch.testing.assert_close(codec.encode(image), seen, atol=1e-4, rtol=0)
        expected = theirs.decode(seen / scale + shift).sample
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.decode(seen), expected, atol=1e-4, rtol=0)
        grey = (255 * (expected / 2 + 0.5).clamp(0, 1)).round() / 255
        assert (codec.decode(seen) - grey).abs().max() < 1.5 / 255


@pytest.mark.parametrize("name", ["sd-vae-ft-mse", "FLUX.1"])
def test_gaussian_gradients_are_theirs(name: str) -> None:
    theirs, ours, image = gaussian(name)
    towards = torch.randn(image.shape)
    found, expected = ours.mean(ours.posterior(image)[0]), theirs.decode(theirs.encode(image).latent_dist.mean).sample
    same_slopes(ours, theirs, found * towards, expected * towards)


def test_what_a_gaussian_costs_is_theirs() -> None:
    theirs, ours, image = gaussian("sd-vae-ft-mse")
    with torch.no_grad():
        expected = theirs.encode(image).latent_dist.kl()
        torch.testing.assert_close(ours.rate(image), expected, atol=1e-3, rtol=1e-5)
        z, cost = ours.squeeze(image, Streams.of(0, 2))
        torch.testing.assert_close(cost, expected, atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(
            ours.nats(image, z), (theirs.decode(z).sample - image).abs().flatten(1).sum(1) + 1152 * 0.6931472
        )


def test_checkpoints_of_before_2023_open_too() -> None:
    theirs, ours, _ = gaussian("sd-vae-ft-mse")
    state, before = theirs.state_dict(), {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in [name for name in state if ".attentions." in name]:
        for now, then in before.items():
            if f".{now}." in name:
                state[name.replace(now, then)] = state.pop(name)
    assert any("proj_attn" in name for name in state)
    fresh = KLLatents(ours.plan)
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), ours.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_latents_are_theirs(name: str) -> None:
    theirs, ours, image = quantised(name)
    with torch.no_grad():
        latent = theirs.encode(2 * image - 1).latents
        code = Chain(Pixels(), ours).encode(image)
        torch.testing.assert_close(code, latent * theirs.config.scaling_factor, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.decode(code), theirs.decode(latent).sample, atol=1e-4, rtol=0)
        index = theirs.quantize(latent)[2][2].view(2, 4, 6)
        assert len(index.unique()) > 5
        symbolic = VQSymbols(ours.plan, (4, 6)).eval()
        symbolic.load_state_dict(theirs.state_dict())
        found = symbolic.encode(2 * image - 1)
        assert torch.equal(found, index.flatten(1)) and symbolic.bos == theirs.config.num_vq_embeddings and symbolic.length == 24
        points = theirs.quantize.get_codebook_entry(index.flatten(), (2, 4, 6, -1))
        torch.testing.assert_close(
            symbolic.decode(found), theirs.decode(points, force_not_quantize=True).sample, atol=1e-4, rtol=0
        )


def test_quantised_gradients_and_errors_are_theirs() -> None:
    theirs, ours, image = quantised("amused-256")
    towards = torch.randn(image.shape)
    z, error = ours.squeeze(image, Streams.of(0, 2))
    out, loss = theirs.decode(theirs.encode(image).latents, return_dict=False)
    torch.testing.assert_close(error.sum() / z.numel(), loss, atol=1e-4, rtol=0)
    same_slopes(ours, theirs, (ours.mean(z) * towards).sum() + error.sum() / z.numel() * 100, (out * towards).sum() + loss * 100)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"norm_type": "spatial"}, "norm_type is 'spatial'"),
        ({"act_fn": "relu"}, "act_fn is 'relu'"),
        ({"latents_mean": [0.1] * 4}, "latents_mean is"),
        ({"down_block_types": ["DownBlock2D"] * 3}, "block type 'DownBlock2D'"),
        ({"down_block_types": types(True, False, False)["down_block_types"]}, "same resolutions"),
        ({"norm_num_groups": 7}, "norm_num_groups is 7; it must divide 16"),
        ({"block_out_channels": (16, 32)}, "attention has 3 entries"),
        ({"scaling_factor": 0}, "scaling_factor is 0"),
    ],
)
def test_what_is_not_built_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LatentPlan.of({**TINY, "latent_channels": 4, **config})


def test_what_does_not_fit_is_refused() -> None:
    _, ours, _ = gaussian("sd-vae-ft-mse")
    with pytest.raises(ValueError, match=r"images of 3 channels whose sides divide by 4, not \(3, 16, 18\)"):
        ours.encode(torch.zeros(1, 3, 16, 18))
    with pytest.raises(ValueError, match="num_vq_embeddings is None"):
        VQLatents(ours.plan)
    with pytest.raises(ValueError, match="this plan is a VQModel's"):
        KLLatents(quantised("amused-256")[1].plan)
    with pytest.raises(ValueError, match=r"are \(4, 4\) symbols, not \(4, 6\)"):
        VQSymbols(quantised("amused-256")[1].plan, (4, 6)).encode(torch.zeros(1, 3, 16, 16))
