"""Latents that are to mean something: beta and capacity in training, paths through the latent, and the strips that show them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from maquette import exhibits
from maquette.experiment import Fit
from maquette.metrics.evidence import Evidence
from maquette.nn.paths import lerp, slerp, traversal
from maquette.objectives.reconstruction import Capacity, Reconstruction
from maquette.recipes.adversarial import gan
from maquette.recipes.disentangled import beta_vae
from maquette.report.page import render
from maquette.streams import Streams
from maquette.train import Progress, run


def fitted(steps: int, **how):
    torch.manual_seed(0)
    found = beta_vae(**{"data": "digits", "latent": 6, **how})
    logs = list(run(found.system, found.data, Progress(replace(found.fit, steps=steps, batch=64))))
    found.system.eval()
    return found, logs


def rate_and_distortion(found) -> tuple[float, float]:
    """Nats per held-out row."""
    system, held = found.system, found.data.held.all()
    x, codec = system.encode(held), system.steady("codec")
    with torch.no_grad():
        z, rate = codec.squeeze(x, Streams.of(0, len(x)))
        return float(rate.mean()), float(codec.nats(x, z).mean())


def test_a_dearer_rate_is_spent_less_of_and_bought_with_distortion():
    found = [rate_and_distortion(fitted(60, beta=beta)[0]) for beta in (0.5, 4.0, 30.0)]
    rates, distortions = zip(*found, strict=True)
    assert rates[0] > 1.3 * rates[1] > 1.3 * rates[2]
    assert distortions[0] < distortions[1] < distortions[2]


@pytest.mark.parametrize("capacity", [pytest.param(3.0, marks=pytest.mark.slow), 9.0])
def test_capacity_holds_the_rate_near_its_aim(capacity):
    _, logs = fitted(150, beta=30.0, capacity=capacity, anneal=75)
    rate = torch.stack([entry["rebuild/rate"] for entry in logs]) * 64 * math.log(2)  # nats per image
    assert float(rate[-30:].mean()) == pytest.approx(capacity, rel=0.1)
    assert float(rate[30:38].mean()) == pytest.approx(capacity * 34 / 75, abs=0.15 * capacity)  # on its way up


def test_capacity_is_a_function_of_the_step_alone():
    objective = Capacity(beta=10.0, capacity=8.0, anneal=100)
    assert [objective.allowed(step) for step in (0, 25, 100, 10**6)] == [0, 2, 8, 8]
    assert Capacity(10.0, 8.0, anneal=0).allowed(0) == 8
    rate = torch.tensor(5.0 / 64)
    assert float(objective.price(rate, 64, 25)) == pytest.approx(10 * abs(5 - 2) / 64)
    assert float(objective.price(rate, 64, 100)) == pytest.approx(10 * abs(5 - 8) / 64)
    assert not list(objective.buffers()) and not list(objective.parameters())
    assert float(Reconstruction(4.0).price(rate, 64, 0)) == pytest.approx(4 * 5 / 64)


def test_a_run_resumed_in_mid_anneal_goes_on_exactly():
    torch.manual_seed(0)
    whole, cut, other = (beta_vae(data="digits", latent=4, beta=20.0, capacity=5.0, anneal=8) for _ in range(3))
    for experiment in (cut, other):
        experiment.system.load_state_dict(whole.system.state_dict())
    fit = Fit(steps=8, batch=16)
    list(run(whole.system, whole.data, Progress(fit, seed=1)))
    progress, steps = Progress(fit, seed=1), iter(run(cut.system, cut.data, first := Progress(fit, seed=1)))
    for _ in range(4):
        next(steps)
    other.system.load_state_dict(cut.system.state_dict())
    progress.step, progress.optimizers = first.step, first.optimizers
    for optimizer in progress.optimizers["codec"]:  # the same moments, for the other system's parameters
        moments = list(optimizer.state.values())
        fresh = Progress(fit).optimizers_of(other.system.learners(other.system.objective.phases()[0]))[0]
        for parameter, state in zip([p for g in fresh.param_groups for p in g["params"]], moments, strict=True):
            fresh.state[parameter] = state
        progress.optimizers = {"codec": [fresh]}
    list(run(other.system, other.data, progress))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.system.state_dict().values(), other.system.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "how",
    [
        {"capacity": -1.0},
        {"capacity": float("nan")},
        {"capacity": 3.0, "anneal": -1},
        {"beta": -1.0},
        {"latent": 0},
        {"depth": 0},
    ],
)
def test_bad_arguments_are_named(how):
    name, value = list(how.items())[-1]
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        beta_vae(data="digits", **how)
    with pytest.raises(ValueError, match="models images, and data 'grid' holds point"):
        beta_vae(data="grid")


# -- paths -----------------------------------------------------------------------------------------------------------------


def test_paths_begin_and_end_where_they_should():
    a, b = Streams.of(0, 4).normal(5), Streams.of(1, 4).normal(5)
    for path in (lerp, slerp):
        found = path(a, b, 7)
        assert found.shape == (4, 7, 5)
        torch.testing.assert_close(found[:, 0], a, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[:, -1], b, atol=1e-5, rtol=1e-5)
        assert path(a.reshape(4, 5, 1, 1), b.reshape(4, 5, 1, 1), 3).shape == (4, 3, 5, 1, 1)
        with pytest.raises(ValueError, match="steps is 1"):
            path(a, b, 1)
    torch.testing.assert_close(lerp(a, b, 3)[:, 1], (a + b) / 2)


def test_only_the_spherical_path_keeps_the_length_of_typical_latents():
    a, b = Streams.of(0, 50).normal(200), Streams.of(1, 50).normal(200)
    middle = [path(a, b, 3)[:, 1].norm(dim=1).mean() / 200**0.5 for path in (lerp, slerp)]
    assert middle[0] < 0.75 and abs(middle[1] - 1) < 0.05  # a straight path cuts through where the prior has no mass
    turns = slerp(a, b, 5)
    angles = [torch.cosine_similarity(turns[:, i], turns[:, i + 1]).acos() for i in range(4)]
    for angle in angles[1:]:
        torch.testing.assert_close(angle, angles[0], atol=1e-3, rtol=1e-3)
    line = torch.ones(1, 3)
    for other in (2 * line, -line, 0 * line):
        assert torch.isfinite(slerp(line, other, 5)).all()
    torch.testing.assert_close(slerp(line, 3 * line, 3)[:, 1], 2 * line)


def test_a_traversal_moves_one_unit():
    z = torch.arange(4.0)
    found = traversal(z, torch.tensor([2, 0]), torch.tensor([-1.0, 5.0]))
    assert found.tolist() == [[[0, 1, -1, 3], [0, 1, 5, 3]], [[-1, 1, 2, 3], [5, 1, 2, 3]]]


def test_strips_are_kept_and_shown(tmp_path):
    found, _ = fitted(40)
    evidence = Evidence(found.data, found.system, n=40)
    kept = exhibits.kept(evidence)
    traversals, paths = (kept[key] for key in kept if key.startswith(exhibits.STRIP))
    assert traversals.shape == (6, 9, 1, 8, 8) and paths.shape == (6, 9, 1, 8, 8)
    system, held = found.system, evidence.held
    codes = system.objective.represent(system, {k: v[:2] for k, v in held.items()})
    ends = system.objective.rendered(system, codes)
    assert torch.equal(paths[0, [0, 8]], ends) and torch.equal(paths[1, [0, 8]], ends)
    assert bool((traversals[:, 0] != traversals[:, 8]).flatten(1).any(1).all())
    every = system.objective.represent(system, {k: v[:256] for k, v in held.items()})
    order = ", ".join(map(str, every.var(0).argsort(descending=True).tolist()))  # the unit that varies most comes first
    assert any(f"(units {order})" in key for key in kept)
    exhibits.save(tmp_path / "eval.npz", kept)
    again = exhibits.read(tmp_path / "eval.npz")
    assert {key: value.shape for key, value in again.items() if key.startswith(exhibits.STRIP)} == {
        key: value.shape for key, value in kept.items() if key.startswith(exhibits.STRIP)
    }
    row = {"status": "ok", "recipe": "beta_vae", "metrics": {}}
    page = render({"rows": [row], "data": {"name": "digits"}}, [{"eval": row, **again}], single=True)
    assert page.count("low to high") >= 1 and "a straight path, a spherical one" in page
    without = gan(depth=1)
    assert exhibits.strips(Evidence(without.data, without.system, n=40)) == {}


def test_represent_is_the_posterior():
    found, _ = fitted(2)
    system, batch = found.system, found.data.held.rows(torch.arange(5))
    mean, logvar = system.steady("codec").posterior(system.encode(batch))
    assert torch.equal(system.objective.represent(system, batch), mean)
    many = torch.stack([system.objective.represent(system, batch, Streams.of(seed, 5)) for seed in range(400)])
    assert np.allclose(many.std(0), (0.5 * logvar).exp().detach(), rtol=0.2)
