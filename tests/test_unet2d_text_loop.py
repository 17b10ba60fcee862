"""Stable Diffusion's U-Net and autoencoders as parts of the house: in bfloat16, to the compiler, in the one loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maquette.codecs.chain import Chain
from maquette.codecs.latents import KLLatents, VQLatents
from maquette.codecs.pixels import Pixels
from maquette.contracts import Condition, Network
from maquette.data import open_data
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.networks.autoencoder2d import LatentPlan
from maquette.networks.plans2d import TextPlan
from maquette.networks.unet2d import UNet2D
from maquette.objectives.coding import Coding
from maquette.samplers.rebuild import Rebuild
from maquette.system import System
from maquette.train import Progress, take_step

PLAN = TextPlan(
    block_out_channels=(16, 32), attention=(True, False), attention_head_dim=4, cross_attention_dim=12, norm_num_groups=8
)
LATENT = LatentPlan(1, 1, (16, 32), 1, (False, False), latent_channels=2, norm_num_groups=8)


def told() -> tuple[Network, torch.Tensor, torch.Tensor, Condition]:
    torch.manual_seed(0)
    return UNet2D(PLAN).eval(), torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9]), Condition(tokens=torch.randn(2, 5, 12))


def test_half_precision_is_near() -> None:
    net, x, t, cond = told()
    codec, image = KLLatents(LATENT).eval(), torch.rand(2, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        full, code = net(x, t=t, cond=cond), codec.encode(image)
        again = codec.decode(code)
        half, codec = net.bfloat16()(x, t=t, cond=cond).float(), codec.bfloat16()
        assert (half - full).norm() < 0.03 * full.norm()
        assert (codec.encode(image).float() - code).norm() < 0.05 * code.norm()
        assert (codec.decode(code).float() - again).norm() < 0.05 * again.norm()


def test_it_is_one_graph_to_the_compiler() -> None:
    """Native code and all; with gradients none of it is."""
    _, x, t, cond = told()
    net = UNet2D(replace(PLAN, block_out_channels=(16,), attention=(True,), layers_per_block=1)).eval()
    with torch.no_grad():
        found = torch.compile(net, backend="aot_eager", fullgraph=True)(x, t=t, cond=cond)
        torch.testing.assert_close(found, net(x, t=t, cond=cond), atol=1e-4, rtol=1e-4)


def test_a_sample_stands_alone() -> None:
    net, x, t, cond = told()
    with torch.no_grad():
        both = net(x, t=t, cond=cond)
        torch.testing.assert_close(net(x[1:], t=t[1:], cond=cond.map(lambda slot: slot[1:])), both[1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quantised", [True, False])
def test_the_autoencoders_learn_in_the_one_loop(quantised: bool) -> None:
    data = open_data("digits")
    plan = LatentPlan(
        1, 1, (16, 32), 1, (False, False), latent_channels=2, norm_num_groups=8, num_vq_embeddings=16 if quantised else None
    )
    torch.manual_seed(0)
    codec = Chain(Pixels(data.facts.levels), VQLatents(plan) if quantised else KLLatents(plan))
    system = System({}, Coding(0.01), Rebuild(), codec)
    progress = Progress(Fit(steps=12, batch=32, lr=3e-3))
    losses = [float(next(iter(take_step(system, data, progress, World()).values()))) for _ in range(12)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
