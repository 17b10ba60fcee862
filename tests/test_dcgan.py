"""DCGAN and WGAN-GP: what batch normalisation, the gradient penalty and the critic's rounds do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maquette.contracts import Codec
from maquette.data.core import Data, Facts, Split
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.networks.dcgan import ConvEncoder, DeconvDecoder
from maquette.networks.gan import Discriminator, Generator, ResidualMLP
from maquette.objectives.wasserstein import Wasserstein
from maquette.recipes.adversarial import dcgan, wgan_gp
from maquette.samplers.oneshot import OneShot
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run, take_step


class Points(Codec):
    """float[B,2,1,1] as they are."""

    field = "point"

    def encode(self, data):
        return data

    def decode(self, code):
        return code


def cloud() -> Data:
    """Points about (0.4, 0), spread by 0.1."""
    x = Streams.of(0, 2000).normal(2, 1, 1) * 0.1 + torch.tensor([0.4, 0.0]).view(2, 1, 1)
    facts = Facts("cloud", "point", "simulated", "", "", "", {"train": 2000})
    return Data(facts, lambda: {"train": Split({"point": x}), "held": Split({"point": x[:100]})})


class Spot(Generator):
    """Points about (-0.4, 0), spread by 0.1; learns nothing here."""

    def __init__(self):
        super().__init__(ResidualMLP(2, 2, 8, 1), (2, 1, 1), 2)

    def forward(self, x, *, t=None, cond=None, state=None):
        return 0.1 * x[:, :2].reshape(-1, 2, 1, 1) - torch.tensor([0.4, 0.0]).view(2, 1, 1)


def contest(objective: Wasserstein) -> System:
    torch.manual_seed(0)
    critic = Discriminator(ResidualMLP(2, 32, 32, 1), 32)
    return System({"generator": Spot(), "discriminator": critic}, objective, OneShot(), Points(), frozen=("generator",))


def test_the_critic_measures_the_distance_between_two_clouds():
    """They are 0.8 apart; with the penalty the critic's slope is 1 and its gap is that distance."""
    system = contest(Wasserstein())
    fit = Fit(steps=150, batch=64, lr=5e-3, betas=(0.0, 0.9), clip=0.0)
    logs = list(run(system, cloud(), Progress(fit)))[-10:]
    assert sum(float(entry["criticise/distance"]) for entry in logs) / 10 == pytest.approx(0.8, abs=0.1)
    assert sum(float(entry["criticise/slope"]) for entry in logs) / 10 == pytest.approx(1.0, abs=0.1)
    free = contest(Wasserstein(penalty=0.0))
    logs = list(run(free, cloud(), Progress(fit)))[-10:]
    assert float(logs[-1]["criticise/distance"]) > 3  # without it the gap says nothing


def test_the_penalty_is_taken_between_real_and_fake_rows():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.seen = nn.Parameter(torch.tensor([3.0, 4.0])), []

        def forward(self, x, *, cond=None):
            self.seen.append(x.detach())
            return x.flatten(1) @ self.a

    system = contest(Wasserstein(penalty=7.0))
    system.nets["discriminator"] = critic = Slope()
    batch = cloud().train.rows(torch.arange(300))
    loss, logs = system.objective.criticise(system, batch, Streams.of(0, 300), 0)
    between, real, fake = critic.seen
    share = (between - fake).flatten(1)[:, :1] / (real - fake).flatten(1)[:, :1]
    torch.testing.assert_close(between.flatten(1), (fake + share[..., None, None] * (real - fake)).flatten(1))
    assert float(share.min()) >= 0 and float(share.max()) <= 1 and float(share.std()) == pytest.approx(12**-0.5, abs=0.03)
    torch.testing.assert_close(logs["slope"], torch.tensor(5.0))
    torch.testing.assert_close(loss, 7.0 * 16 - logs["distance"])


def test_the_critic_moves_five_times_for_each_move_of_the_generator():
    found = wgan_gp(latent=4)
    assert [(p.name, p.every) for p in found.system.objective.phases()] == [("criticise", 1), ("generate", 5)]
    progress = Progress(Fit(steps=7, batch=8, clip=0.0))
    moved = [("criticise/loss" in logs, "generate/loss" in logs) for logs in run(found.system, found.data, progress)]
    assert moved == [(True, step % 5 == 0) for step in range(7)]


def test_norms_are_where_the_papers_have_them():
    def norms(net: nn.Module) -> int:
        return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())

    for recipe, in_discriminator in ((dcgan, True), (wgan_gp, False)):
        nets = recipe(size=32).system.nets
        assert norms(nets["generator"]) == 3 and norms(nets["discriminator"]) == (2 if in_discriminator else 0)
    critic = ConvEncoder((1, 32, 32), 8, norm=False)
    x = Streams.of(0, 6).normal(1, 32, 32)
    torch.testing.assert_close(critic(x)[:2], critic(x[:2]))  # a penalty per row needs a logit per row


def test_sampling_uses_running_statistics_which_the_average_follows():
    found = dcgan(latent=4)
    system = found.system
    progress = Progress(Fit(steps=20, batch=16, lr=2e-3, betas=(0.5, 0.999), clip=0.0))
    for _ in range(20):
        take_step(system.train(), found.data, progress, World())
    mean = {role: net.body.first.running_mean for role, net in system.nets.items() if role != "discriminator"}
    assert float(mean["generator"].abs().max()) > 0.01 and torch.equal(mean["generator"], mean["ema"])
    about = {"label": torch.tensor([1, 2, 3, 4])}
    four = system.sample(4, about=about)["code"]
    one = system.sample(1, about={"label": torch.tensor([3])}, first=2)["code"]
    torch.testing.assert_close(four[2:3], one)
    z, cond = Streams.of(0, 4).normal(4), system.condition(about)
    live = system.nets["generator"].train()
    with torch.no_grad():
        assert not torch.allclose(live(z, cond=cond)[:2], live(z[:2], cond=cond.map(lambda v: v[:2])), atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 13), (1, 20, 24), (1, 32, 32)])
def test_any_size(shape):
    out = DeconvDecoder(5, shape, 8)(Streams.of(0, 2).normal(5))
    look = ConvEncoder(shape, 8)
    assert out.shape == (2, *shape) and look(out).shape == (2, look.outputs)


@pytest.mark.parametrize("recipe", [dcgan, pytest.param(wgan_gp, marks=pytest.mark.slow)])
def test_the_recipes_learn_digits(recipe):
    torch.manual_seed(0)
    found = recipe(latent=8, **({"rounds": 1} if recipe is wgan_gp else {}))
    progress = Progress(Fit(steps=60, batch=64, lr=2e-3, betas=found.fit.betas, clip=0.0))
    for _ in run(found.system, found.data, progress):
        pass
    train = found.data.train.all()
    centres = torch.stack([train["image"][train["label"] == c].mean(0).flatten() for c in range(10)])
    label = torch.arange(10).repeat(20)
    out = found.system.sample(200, about={"label": label}, seed=1)["image"]
    assert float((torch.cdist(out.flatten(1), centres).argmin(1) == label).float().mean()) > 0.4


@pytest.mark.parametrize(
    ("recipe", "how"),
    [(dcgan, {"depth": 0}), (dcgan, {"augment": 1.5}), (wgan_gp, {"rounds": 0}), (wgan_gp, {"penalty": -1.0})],
)
def test_bad_arguments_are_named(recipe, how):
    with pytest.raises(ValueError, match=str(next(iter(how.values())))):
        recipe(**how)
