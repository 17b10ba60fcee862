"""A control network leads a U-Net by outlines: it begins as nothing, the U-Net stays as it is, and what comes out obeys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from maquette import api, recipes
from maquette.contracts import Condition
from maquette.networks.controlnet import Controlled, ControlNet
from maquette.networks.plans2d import TextPlan
from maquette.networks.unet2d import UNet2D
from maquette.nn.degrade import Edges
from maquette.recipes import control

pytestmark = pytest.mark.usefixtures("narrow")

PLAN = TextPlan(
    in_channels=1,
    out_channels=1,
    block_out_channels=(16, 32),
    attention=(False, True),
    attention_head_dim=(2, 4),
    layers_per_block=1,
    norm_num_groups=8,
    cross_attention_dim=8,
)


def squares(n: int, seed: int = 0) -> torch.Tensor:
    """Bright squares at random places on dark ground: float[n,1,16,16]."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.zeros(n, 1, 16, 16)
    for image, (top, left) in zip(images, torch.randint(1, 9, (n, 2), generator=rng).tolist(), strict=True):
        image[0, top : top + 6, left : left + 6] = 1
    return images


def test_outlines_lie_where_the_picture_changes():
    image = squares(1)
    edges = Edges((1, 16, 16)).of(image)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    inside = torch.nn.functional.max_pool2d(-image, 5, 1, 2) == -1  # two pixels and more from the ground
    assert float(edges[inside].sum()) == 0 and float(edges.sum()) > 20
    colours = torch.cat([image, 1 - image, 0.5 * torch.ones_like(image)], 1)
    assert torch.equal(Edges((3, 16, 16)).of(colours), edges)
    with pytest.raises(ValueError, match="steep is 0"):
        Edges((3, 16, 16), 0)


def test_it_begins_as_a_copy_of_the_way_down_and_adds_nothing():
    net = UNet2D(PLAN).eval()
    led = Controlled(net, ControlNet.beside(net, 1, 1)).eval()
    for name, value in led.control.state_dict().items():
        if name in net.state_dict():
            assert torch.equal(value, net.state_dict()[name])
    x, t, tokens = torch.randn(2, 1, 16, 16), torch.tensor([0.2, 0.9]), torch.randn(2, 3, 8)
    edges = Edges((1, 16, 16)).of(squares(2))
    torch.testing.assert_close(
        led(x, t=t, cond=Condition(tokens=tokens, field=edges)), net(x, t=t, cond=Condition(tokens=tokens))
    )
    assert not any(name.startswith("net") for name in led.state_dict()), "the U-Net is another role's"
    with pytest.raises(ValueError, match="factor is 3"):
        ControlNet.beside(net, 1, 3)


def test_what_comes_out_obeys_the_outline_while_the_net_stays_as_it_is():
    torch.manual_seed(0)
    net = UNet2D(PLAN)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    led = Controlled(net.requires_grad_(False), ControlNet.beside(net, 1, 1).requires_grad_(True))
    optimizer = torch.optim.Adam(led.parameters(), 8e-3)
    tokens, t = torch.zeros(8, 2, 8), torch.ones(8)
    for step in range(30):
        images = squares(8, step)
        guess = led(torch.randn(8, 1, 16, 16), t=t, cond=Condition(tokens=tokens, field=Edges((1, 16, 16)).of(images)))
        loss = (guess - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = squares(8, 999)
    edges, noise = Edges((1, 16, 16)).of(images), torch.randn(8, 1, 16, 16)
    with torch.no_grad():
        right, wrong = (
            float((led(noise, t=t, cond=Condition(tokens=tokens, field=field)) - images).square().mean())
            for field in (edges, edges.roll(1, 0))
        )
    assert right < 0.5 * wrong, (right, wrong)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Any:
    """A few steps of latent diffusion, and of a control network on it."""
    folder = tmp_path_factory.mktemp("control")
    how: dict[str, Any] = {"steps": 2, "batch": 4, "quiet": True}
    api.train("latent_diffusion", out=folder / "base", data="scenes", size=16, latent=2, **how)
    api.train("controlnet", out=folder / "led", run=str(folder / "base"), **how)
    return folder


@pytest.mark.slow
def test_a_run_is_led_and_stays_as_it_is(run: Any, tmp_path: Any, shell: Any):
    base, led = api.load(run / "base"), api.load(run / "led")
    theirs, ours = base.system.steady("main").state_dict(), led.system.roles()["base"].state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    drawn = base.system.sample(1)["image"][0].permute(1, 2, 0) * 255
    Image.fromarray(drawn.round().byte().numpy()).save(tmp_path / "a.png")
    words = ["sample", str(run / "led"), "-n", "2", "--start", str(tmp_path / "a.png"), "--prompt", "a red bar"]
    done = shell(*words, "--out", str(tmp_path / "x.npz"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_runs_that_cannot_be_led_are_named(run: Any):
    with pytest.raises(ValueError, match="run of controlnet; controlnet leads the U-Net of one of latent_diffusion"):
        control.controlnet(run=str(run / "led"))
    with pytest.raises(ValueError, match="3x32x32 images"):
        control.controlnet(run=str(run / "base"), size=32)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="needs images with captions"):
        control.controlnet(data="digits")
    with pytest.raises(ValueError, match="steep is 2"):
        control.controlnet(steep=2.0)
    assert "controlnet" in recipes.catalogue()
