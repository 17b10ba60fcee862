"""Processes, solvers, guidance and the U-Net against closed forms: what is known exactly needs no training to be tested."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maquette.contracts import Condition, Network, Process
from maquette.data import Data, Split
from maquette.data.mixtures import density
from maquette.metrics import truth
from maquette.metrics.evidence import Evidence
from maquette.networks.unet import UNet
from maquette.objectives.denoising import Denoising
from maquette.processes.flow import clean, flow
from maquette.processes.gaussian import Balanced, Betas, Clean, Cosine, Gaussian, Noise, Velocity
from maquette.processes.karras import karras
from maquette.recipes.diffusion import ddpm, edm
from maquette.recipes.diffusion import flow as flow_recipe
from maquette.samplers.guidance import Guided, guided
from maquette.samplers.solvers import DDIM, DPM, Ancestral, Churn, Euler, Heun, Solver
from maquette.streams import Streams
from maquette.train import Progress, run

PROCESSES = {
    "flow, x": flow(reading=Clean()),
    "flow, velocity": flow(),
    "flow, balanced": flow(0.5, 1.3, Balanced(0.5)),
    "ddpm, eps": Gaussian(Betas(), Noise()),
    "cosine, v": Gaussian(Cosine(), Velocity()),
    "cosine, eps": Gaussian(Cosine(), Noise()),
    "cosine, x": Gaussian(Cosine(), Clean(), paid=Velocity()),
    "edm": karras(),
}
SOLVERS: list[type[Solver]] = [Euler, Heun, DDIM, DPM, Churn, Ancestral]


class Ideal(Network):
    """The exact denoiser of N(mean, variance) data, answering in its process's own terms."""

    def __init__(self, process: Gaussian, mean: float, variance: float):
        super().__init__()
        self.process, self.mean, self.variance = process, mean, variance

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        mean = self.mean if cond is None else cond.vector
        if self.process.view is not None:  # undo what the network is shown: t was heard, x was scaled
            noise = (4 * t.double()).exp()
            t = self.process.when(noise.float())
            alpha, sigma = self.process.levels(t, x)
            x = x / self.process.view.show(torch.ones_like(x), alpha, sigma)
        alpha, sigma = (level.double() for level in self.process.levels(t, x))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2).clamp(min=1e-20)
        guess = mean + gain * (x - alpha * mean)
        skip, out = self.process.reading.scales(alpha, sigma)
        return (guess - skip * x) / torch.where(out.abs() > 0, out, 1.0)


def last(sampler: Solver, net: Network, n: int, seed: int = 0, **told: Any) -> torch.Tensor:
    """The sample that a sampler ends in."""
    *_, sample = sampler.draw(SimpleNamespace(steady=lambda role: net), n, rng=Streams.of(seed, n), **told)  # type: ignore[arg-type]
    return sample


@pytest.mark.parametrize("name", PROCESSES)
def test_levels_run_from_data_to_noise(name: str) -> None:
    process = PROCESSES[name]
    assert isinstance(process, Process)
    times = process.grid(50)
    alpha, sigma = process.schedule.levels(times)
    assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    most = 1 / 79 if name == "edm" else 0.01  # Karras's sigma ends at 80
    assert alpha[-1] == 1 and sigma[-1] == 0 and alpha[0] < most * sigma[0] and sigma[0] > 0.99
    assert (alpha.diff() >= 0).all() and (sigma.diff() <= 0).all()
    drawn = process.times(Streams.of(0, 2000))
    middle = 0.37 if "balanced" in name else 0.457 if name == "edm" else 0.5
    assert drawn.min() > 0 and drawn.max() <= 1 and abs(float(drawn.mean()) - middle) < 0.02
    if not isinstance(process.schedule, Betas):  # which has steps, and no time between them
        noise = torch.tensor([0.01, 0.5, 3.0])
        alpha, sigma = process.schedule.levels(process.when(noise))
        torch.testing.assert_close(sigma / alpha, noise, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_reading_the_right_answer_gives_x_and_no_loss(name: str) -> None:
    process, rng = PROCESSES[name], Streams.of(1, 64)
    x, t = rng.normal(3), torch.linspace(0.01, 1, 64)
    x_t = process.corrupt(x, t, rng)
    skip, out = process.reading.scales(*process.levels(t, x))
    right = (x - skip * x_t) / out
    guess = process.denoise(lambda *_, **__: right, x_t, t)  # type: ignore[arg-type]
    torch.testing.assert_close(guess, x, atol=2e-4, rtol=2e-4)
    assert process.distance(guess, x, x_t, t).max() < 1e-6
    alpha, sigma = process.levels(t, x)
    torch.testing.assert_close(alpha * x + sigma * process.noise(x, x_t, t), x_t, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_both_ends_are_finite(name: str, t: float) -> None:
    process, x = PROCESSES[name], torch.randn(4, 2)
    times = torch.full((4,), t)
    x_t = process.corrupt(x, times, Streams.of(0, 4))
    guess = process.denoise(lambda x, **_: x, x_t, times)  # type: ignore[arg-type]
    for value in (guess, process.noise(guess, x_t, times), process.distance(guess, x, x_t, times)):
        assert torch.isfinite(value).all()


def test_loss_is_the_error_of_what_is_paid() -> None:
    """Noise pays the error of eps, flow that of the velocity; a cap on Noise is min-SNR."""
    rng = Streams.of(2, 32)
    x, t = rng.normal(3), torch.linspace(0.2, 0.8, 32)
    for process, target in ((Gaussian(Betas(), Noise()), "eps"), (flow(), "drift"), (flow(reading=Clean()), "drift")):
        x_t = process.corrupt(x, t, rng)
        eps, wrong = process.noise(x, x_t, t), x + 0.1 * rng.normal(3)
        off = process.noise(wrong, x_t, t) - eps
        error = off if target == "eps" else off - (wrong - x)
        torch.testing.assert_close(process.distance(wrong, x, x_t, t), error.square().mean(1), rtol=1e-3, atol=1e-6)
    capped = Gaussian(Cosine(), Noise(), cap=5.0)
    alpha, sigma = capped.schedule.levels(t)
    snr = (alpha / sigma).square()
    torch.testing.assert_close(capped.distance(x + 1, x, x, t), snr.clamp(max=5.0))
    torch.testing.assert_close(clean().distance(x + 1, x, x, t), (1 / t.square()).clamp(max=4.0))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_point_mass_is_drawn_exactly(solver: type[Solver], name: str) -> None:
    process = PROCESSES[name]
    for steps in (1, 2, 7):
        sample = last(solver(process, (2,), steps=steps), Ideal(process, 0.7, 0.0), 5)
        wide = 1e-3 if name.endswith("eps") else 1e-4 if name == "edm" else 1e-5  # a small alpha divides; sigma is 80
        torch.testing.assert_close(sample, torch.full((5, 2), 0.7), atol=wide, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [(Euler, 1), (DDIM, 1), (Heun, 2)])
@pytest.mark.parametrize("process", [flow(), flow(0.5, reading=Clean()), Gaussian(Cosine(offset=0), Velocity())])
def test_solvers_converge_with_their_order(solver: type[Solver], order: int, process: Gaussian) -> None:
    """Against the exact solution of the Gaussian's ODE: twice the steps, 2^order less error."""
    mean, variance = 0.3, 0.25
    alpha, sigma = (float(level) for level in process.schedule.levels(torch.ones(())))
    x_1 = process.prior((4,), Streams.of(0, 64))
    exact = mean + math.sqrt(variance) * (x_1 - alpha * mean) / math.sqrt(alpha**2 * variance + sigma**2)
    net = Ideal(process, mean, variance)
    errors = [float((last(solver(process, (4,), steps=steps), net, 64) - exact).abs().mean()) for steps in (8, 16, 32, 64)]
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.01 and abs(rates[-1] - order) < 0.25, (errors, rates)


@pytest.mark.parametrize("sampler", [DDIM(flow(), (1,), 100, eta=1.0), DDIM(PROCESSES["ddpm, eps"], (1,), 100, eta=0.5)])
def test_fresh_noise_keeps_the_distribution(sampler: DDIM) -> None:
    sample = last(sampler, Ideal(sampler.process, 0.3, 0.25), 4000)
    assert abs(float(sample.mean()) - 0.3) < 0.03 and abs(float(sample.std()) - 0.5) < 0.03


def test_ancestral_is_ddim_at_eta_one() -> None:
    for process in (PROCESSES["ddpm, eps"], PROCESSES["cosine, v"], flow()):
        net = Ideal(process, 0.3, 0.25)
        one, two = last(DDIM(process, (3,), 20, eta=1.0), net, 9), last(Ancestral(process, (3,), 20), net, 9)
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
        assert not torch.equal(two, last(Ancestral(process, (3,), 20, large=True), net, 9))


def test_ddim_without_noise_is_deterministic_and_runs_backwards() -> None:
    for process in (PROCESSES["ddpm, eps"], flow()):
        net = Ideal(process, 0.3, 0.25)
        noise = process.prior((3,), Streams.of(4, 16))
        errors = []
        for steps in (25, 100):
            sampler = DDIM(process, (3,), steps)
            sample = last(sampler, net, 16, seed=4)
            assert torch.equal(sample, last(sampler, net, 16, seed=4))
            errors.append(float((sampler.invert(net, sample) - noise).abs().mean()))
        assert errors[1] < 0.1 and errors[1] < errors[0] / 2


def test_a_start_is_varied_by_its_strength() -> None:
    process, start = flow(), torch.full((32, 4), 2.0)
    net = Ideal(process, 0.0, 1.0)
    far = [
        float((last(Euler(process, (4,), 20, strength=s), net, 32, start=start) - start).abs().mean()) for s in (0.1, 0.5, 1.0)
    ]
    assert far[0] < 0.3 and far[0] < far[1] < far[2]


def test_a_sample_does_not_depend_on_its_batch() -> None:
    process = flow()
    for sampler in (Heun(process, (3,), 5), Ancestral(process, (3,), 5)):
        net = Ideal(process, 0.3, 0.25)
        torch.testing.assert_close(last(sampler, net, 8)[:3], last(sampler, net, 3))


def test_guidance_raises_adherence_and_lowers_variety() -> None:
    """Two classes N(-1, 1) and N(1, 1), null = their mixture: the exact conditional and unconditional denoisers."""
    process = flow(reading=Clean())

    class Two(Ideal):
        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            alpha, sigma = self.process.levels(t, x)
            gain = alpha / (alpha**2 + sigma**2)
            guesses = [mean + gain * (x - alpha * mean) for mean in (-1.0, 1.0)]
            logits = torch.stack([-((x - alpha * mean) ** 2) / (2 * (alpha**2 + sigma**2)) for mean in (-1.0, 1.0)])
            weights = torch.where(cond.vector.sum(1) > 0, cond.vector.T, logits.softmax(0)[:, :, 0])
            return weights[0, :, None] * guesses[0] + weights[1, :, None] * guesses[1]

    net = Two(process, 0.0, 1.0)
    cond, null = Condition(vector=torch.tensor([[0.0, 1.0]]).repeat(2000, 1)), Condition(vector=torch.zeros(2000, 2))
    drawn = {w: last(Heun(process, (1,), 20, guidance=w), net, 2000, cond=cond, null=null) for w in (0.0, 1.0, 3.0)}
    obeyed = {w: float((x > 0).float().mean()) for w, x in drawn.items()}
    assert abs(obeyed[0.0] - 0.5) < 0.05 and abs(obeyed[1.0] - 0.841) < 0.03 and obeyed[3.0] > 0.93
    assert drawn[3.0].std() < drawn[1.0].std()


def test_guidance_is_linear_free_at_one_and_refuses_nonsense() -> None:
    net = _randomised(UNet(1, 8, (1, 2), 1, vector=3))
    x, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    cond, null = Condition(vector=torch.eye(3)[[0, 1, 2, 0]]), Condition(vector=torch.zeros(4, 3))
    told, untold = net(x, t=t, cond=cond), net(x, t=t, cond=null)
    assert guided(net, 1.0, None) is net
    torch.testing.assert_close(Guided(net, 2.5, null)(x, t=t, cond=cond), untold + 2.5 * (told - untold), atol=1e-4, rtol=1e-4)
    for scale, nothing in ((float("nan"), null), (float("inf"), null), (2.0, None)):
        with pytest.raises(ValueError, match="guidance"):
            guided(net, scale, nothing)


@pytest.mark.parametrize(
    ("shape", "folding", "mults"), [((1, 8, 8), 1, (1, 2)), ((3, 32, 16), 2, (1, 2, 2)), ((2, 6, 6), 1, (2,))]
)
def test_unet_keeps_the_shape_and_hears_time_label_and_field(
    shape: tuple[int, ...], folding: int, mults: tuple[int, ...]
) -> None:
    net = UNet(shape[0], 8, mults, 1, vector=3, field=2, folding=folding)
    x, t = torch.randn(2, *shape), torch.tensor([0.2, 0.9])
    assert net(x, t=t).shape == x.shape and not net(x, t=t).any()  # the head begins at 0
    _randomised(net)
    cond = Condition(vector=torch.eye(3)[:2], field=torch.randn(2, 2, *shape[1:]))
    heard = net(x, t=t, cond=cond)
    assert heard.shape == x.shape
    for other in (
        net(x, t=t.flip(0), cond=cond),
        net(x, t=t, cond=Condition(vector=torch.zeros(2, 3), field=cond.field)),
        net(x, t=t, cond=Condition(vector=cond.vector)),
    ):
        assert (other - heard).abs().max() > 1e-3
    for wrong in ((shape[0] + 1, *shape[1:]), (shape[0], 7, 7))[: net.step]:
        with pytest.raises(ValueError, match="takes images of"):
            net(torch.randn(2, *wrong), t=t)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("clip", -1.0), ("clip", float("nan")), ("strength", 0.0), ("eta", 1.5)]
)
def test_dials_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        DDIM(flow(), (1,), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drop is 2"):
        Denoising(flow(), drop=2)
    with pytest.raises(ValueError, match="only 1000"):
        Betas().grid(1001)


KNOWN = [(flow_recipe, "grid", 25), pytest.param(ddpm, "ring", 8, marks=pytest.mark.slow)]
KNOWN += [pytest.param(edm, "grid", 25, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("recipe", "data", "modes"), KNOWN)
def test_the_score_of_a_known_density_is_learnt_through_the_real_loop(recipe: Any, data: str, modes: int) -> None:
    """The recipes' own denoisers approach the exact one, at the process's own times, and samples fill the modes."""
    torch.manual_seed(0)
    found = recipe(data=data)
    before = truth._score(Evidence(found.data, found.system), density(data))["score error"].value
    for _ in run(found.system, found.data, Progress(replace(found.fit, steps=700, batch=256))):
        pass
    after = truth.measure(Evidence(found.data, found.system, n=1000))
    assert "nats above truth" not in after
    assert after["score error"].value < min(0.02, before / 5)
    assert after["modes"].value >= modes and after["high quality"].value > 0.4


def test_the_likelihood_of_a_trained_denoiser_lies_above_the_truth_and_falls_towards_it() -> None:
    """By the probability-flow ODE, on held-out points. A Gaussian of the data's covariance is 1.77 nats above the truth."""
    torch.manual_seed(0)
    found = edm(data="grid", likelihood=True)
    assert found.system.objective.bound == "exact"
    few = {"train": found.data.train, "held": Split({"point": found.data.held.columns["point"][:600]})}
    above = []
    for steps in (25, 200):
        for _ in run(found.system, found.data, Progress(replace(found.fit, steps=steps, batch=256))):
            pass
        above.append(
            truth._likelihood(Evidence(Data(found.data.facts, lambda: few), found.system), density("grid"))["nats above truth"]
        )
    assert above[1].low > 0 and above[1].high < above[0].low and above[1].value < 0.9


def _randomised(net: UNet) -> UNet:
    """Every parameter moved, so that zero-initialised branches speak."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    return net.eval()
