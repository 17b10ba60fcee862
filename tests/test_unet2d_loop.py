"""The U-Net that opens diffusers' weights, in the one loop: it learns in bfloat16, samples, and a sample stands alone."""

from __future__ import annotations

import pytest
import torch

from maquette.codecs.points import continuous
from maquette.conditioners.label import Labels
from maquette.contracts import Condition
from maquette.data import open_data
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.networks.plans2d import Plan
from maquette.networks.unet2d import UNet2D
from maquette.objectives.denoising import Denoising
from maquette.processes.gaussian import Betas, Gaussian, Noise
from maquette.samplers.solvers import DDIM
from maquette.system import System
from maquette.train import Progress, take_step

PLAN = Plan(1, 1, (16, 32), 1, (False, True), norm_num_groups=8, num_class_embeds=10)


def test_it_learns_and_samples_in_the_one_loop() -> None:
    data = open_data("digits")
    process = Gaussian(Betas(), Noise())
    net, codec = UNet2D(PLAN), continuous(data.facts, "a test")
    system = System({"main": net}, Denoising(process), DDIM(process, (1, 8, 8), steps=2), codec, Labels(data.facts.shares))
    progress = Progress(Fit(steps=12, batch=32, lr=3e-3, bf16=True))
    losses = [float(take_step(system, data, progress, World())["restore/loss"]) for _ in range(12)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(p.grad is None and torch.isfinite(p).all() for p in net.parameters())
    two, three = (system.sample(n, seed=1, about={"label": torch.arange(n)})["code"] for n in (2, 3))
    torch.testing.assert_close(three[:2], two, atol=1e-4, rtol=1e-4)  # another batch is another order of sums


def test_half_precision_is_near() -> None:
    torch.manual_seed(0)
    net = UNet2D(PLAN).eval()
    x, t, told = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0]), Condition(vector=torch.eye(10)[:3])
    with torch.no_grad():
        full = net(x, t=t, cond=told)
        half = net.bfloat16()(x, t=t, cond=told).float()
    assert (half - full).norm() < 0.03 * full.norm()


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 channels whose sides divide by 2, not \(1, 7, 8\)"):
        UNet2D(PLAN)(torch.zeros(1, 1, 7, 8))


def test_it_is_one_graph_to_the_compiler() -> None:
    torch.manual_seed(0)
    net = UNet2D(PLAN)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9])
    one = torch.compile(net, backend="aot_eager", fullgraph=True)
    expected, found = (torch.autograd.grad(call(x, t=t).square().sum(), list(net.parameters())[:4]) for call in (net, one))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
