"""EDM's process, the solvers beyond Heun's and the refinements of guidance, against closed forms; no training."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maquette.contracts import Condition, Network
from maquette.nn.paths import slerp
from maquette.processes.chain import Arc, Bent, Emptied, Ends, Even, Leading, Rise, chain
from maquette.processes.flow import flow
from maquette.processes.gaussian import Betas, Clean, Cosine, Gaussian, Noise, Velocity
from maquette.processes.karras import Growing, grown, karras
from maquette.samplers.guidance import Guided
from maquette.samplers.interpolation import between
from maquette.samplers.multistep import PLMS
from maquette.samplers.solvers import DDIM, DPM, Ancestral, Churn, Euler, Heun, Look, Solver
from maquette.streams import Streams

CENTRES, WIDTH = torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]), 0.25
X: Any = Clean()  # a network that answers with its estimate of x itself


class Mixture(Network):
    """The exact denoiser of three Gaussians in the plane, or of the one that its condition names; counts its calls."""

    def __init__(self, process: Gaussian) -> None:
        super().__init__()
        self.process, self.calls, self.rows = process, 0, 0

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        alpha, sigma = self.process.levels(t, x)
        whole = (alpha * WIDTH) ** 2 + sigma**2
        away = x[:, None] - alpha[..., None] * CENTRES
        logits = -away.square().sum(-1) / (2 * whole)
        if cond is not None:
            logits = torch.where(cond.vector.any(1, keepdim=True), cond.vector.log(), logits)
        each = CENTRES + (alpha * WIDTH**2 / whole)[..., None] * away
        return (logits.softmax(1)[..., None] * each).sum(1)


def drawn(sampler: Solver, net: Network, n: int, seed: int = 0, **told: Any) -> torch.Tensor:
    *_, sample = sampler.draw(SimpleNamespace(steady=lambda role: net), n, rng=Streams.of(seed, n), **told)  # type: ignore[arg-type]
    return sample


PATHS = {
    "flow": flow(reading=X),
    "cosine": Gaussian(Cosine(), X),
    "chain": Gaussian(Betas(), X),
    "edm": Gaussian(Growing(), X),
}


# -- EDM -----------------------------------------------------------------------------------------------------------------


def test_edm_preconditions_as_in_its_table() -> None:
    """Karras 2022, table 1: D(x; sigma) = c_skip x + c_out F(c_in x, ln(sigma) / 4), and the loss weight 1 / c_out^2."""
    process, spread = karras(0.5), 0.5
    t = process.when(sigma := torch.tensor([0.002, 0.3, 5.0, 79.0]))
    x = torch.randn(4, 3)
    heard: dict[str, torch.Tensor] = {}

    def net(x: Any, *, t: Any, cond: Any) -> Any:
        heard.update(x=x, t=t)
        return x.sin()

    guess = process.denoise(net, x, t)  # type: ignore[arg-type]
    s = sigma[:, None]
    c_in, c_skip = 1 / (s**2 + spread**2).sqrt(), spread**2 / (s**2 + spread**2)
    c_out = s * spread / (s**2 + spread**2).sqrt()
    torch.testing.assert_close(heard["x"], c_in * x, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(heard["t"], sigma.log() / 4, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(guess, c_skip * x + c_out * (c_in * x).sin(), rtol=1e-3, atol=1e-5)
    weight = (sigma**2 + spread**2) / (sigma * spread) ** 2
    torch.testing.assert_close(process.distance(x + 1, x, x, t), weight, rtol=1e-3, atol=1e-5)


def test_edm_trains_at_log_normal_noise_and_samples_on_karras_grid() -> None:
    process = karras()
    _, sigma = process.schedule.levels(process.times(Streams.of(0, 20_000)))
    log = sigma.log()
    assert abs(float(log.mean()) + 1.2) < 0.03 and abs(float(log.std()) - 1.2) < 0.03
    steps = 18
    i = torch.arange(steps, dtype=torch.float64)
    theirs = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # eq. 5
    _, grid = process.schedule.levels(process.grid(steps))
    torch.testing.assert_close(grid[:-1].double(), theirs, rtol=1e-4, atol=1e-6)
    assert grid[-1] == 0 and len(grid) == steps + 1


def test_edm_at_no_noise_is_the_identity_whatever_the_network_says() -> None:
    x = torch.randn(5, 2)
    guess = karras().denoise(lambda x, **_: 100 * x + 7, x, torch.zeros(5))  # type: ignore[arg-type]
    assert torch.equal(guess, x)


def test_churn_is_algorithm_2() -> None:
    """Beside the paper's pseudocode, line by line, with the same draws."""
    process = Gaussian(Growing(), X)
    net, n, steps = Mixture(process), 6, 12
    churn, low, high, inflate = 20.0, 0.05, 50.0, 1.007
    rng = Streams.of(3, n)
    _, sigmas = process.schedule.levels(process.grid(steps))

    def look(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return net(x, t=process.when(sigma.expand(n)))

    x = process.prior((2,), rng)
    for t, s in pairwise(sigmas):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= t <= high else 0.0
        hat = t * (1 + gamma)
        if gamma:
            x = x + (hat**2 - t**2).sqrt() * inflate * rng.normal(2)
        slope = (x - look(x, hat)) / hat
        after = x + (s - hat) * slope
        if s > 0:
            after = x + (s - hat) * (slope + (after - look(after, s)) / s) / 2
        x = after
    sampler = Churn(process, (2,), steps, churn=churn, churn_from=low, churn_to=high, inflate=inflate)
    torch.testing.assert_close(drawn(sampler, net, n, seed=3), x, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["flow", "cosine", "edm"])
def test_churn_adds_noise_and_keeps_the_distribution(name: str) -> None:
    process = PATHS[name]
    net = Mixture(process)
    calm, wild = Churn(process, (2,), 30), Churn(process, (2,), 30, churn=10)
    assert torch.equal(drawn(calm, net, 9), drawn(Heun(process, (2,), 30), net, 9))
    assert (drawn(wild, net, 9) - drawn(calm, net, 9)).abs().max() > 0.1
    sample = drawn(wild, net, 3000)
    away, which = torch.cdist(sample, CENTRES).min(1)
    assert ((which.bincount(minlength=3) / 3000 - 1 / 3).abs() < 0.05).all()
    assert abs(float(away.square().mean()) - 2 * WIDTH**2) < 0.02


@pytest.mark.parametrize("solver", [Euler, Ancestral])
def test_first_order_solvers_draw_the_same_from_x_and_from_x_over_alpha(solver: type[Solver]) -> None:
    """Euler's and the ancestral sampler's steps do not depend on how x_t is scaled, nor does the network see it."""
    for spacing in (Even(), Leading(1), Ends(fine=True), Bent(7.0)):
        process = Gaussian(Betas(curve=Rise(0.00085, 0.012, 2.0), spacing=spacing), Velocity(), unit=True)
        net = Mixture(Gaussian(process.schedule, X))
        found = [drawn(solver(way, (2,), 12), net, 64) for way in (process, grown(process))]
        torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match=r"Unit\(\) shows the network something else"):
        grown(grown(process))


def test_a_chain_read_between_its_steps_is_where_it_visits() -> None:
    for spacing in (Ends(fine=True), Bent(7.0), Bent(math.inf), Bent(7.0, Leading(1))):
        schedule = Betas(spacing=spacing)
        for steps in (1, 4, 20):
            times, table = schedule.grid(steps), chain(schedule.curve, 1000)
            alpha, sigma = schedule.levels(times)
            assert len(times) == steps + 1 and bool((times.diff() < 0).all()) and float(times[-1]) == 0
            assert torch.allclose(alpha**2 + sigma**2, torch.ones(steps + 1)) and float(sigma[-1]) == 0
            whole = Betas().levels((times * 1000).round() / 1000)[1]
            assert (sigma - whole).abs().max() < 0.02
            if isinstance(spacing, Bent) and steps > 2 and spacing.within is None:
                ratio = (sigma / alpha)[:-1].double()
                even = ratio.log() if math.isinf(spacing.rho) else ratio ** (1 / 7)
                torch.testing.assert_close(even.diff(), even.diff().mean().expand(steps - 1), rtol=1e-4, atol=1e-5)
                assert float(ratio[0]) == pytest.approx(float(table.ratios[-1]), rel=1e-5)


def test_an_emptied_chain_keeps_nothing_and_the_floor_that_is_asked_for() -> None:
    for curve in (Rise(), Rise(0.00085, 0.012, 2.0, single=True), Arc()):
        before, after = curve.kept(1000), Emptied(curve).kept(1000)
        assert float(after[-1]) == 0 and float(after[0]) == pytest.approx(float(before[0]), rel=1e-6)
        assert bool((after.diff() < 0).all()) and float(Emptied(curve, 2.0**-24).kept(1000)[-1]) == 2.0**-24


@pytest.mark.parametrize(("dial", "value"), [("quantile", 1.1), ("quantile", -0.1), ("quantile", math.nan), ("most", 0.5)])
def test_bounds_out_of_range_are_refused_by_name(dial: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{dial} is {value}"):
        Euler(flow(), (2,), **{dial: value})  # type: ignore[arg-type]


def test_a_quantile_keeps_estimates_within_bounds_row_by_row() -> None:
    """Imagen's: what is beyond the quantile, if that is above 1, is cut there and all of the row is divided by it."""
    solver = Euler(flow(), (4,), quantile=0.5, most=3.0)
    x = torch.tensor([[0.1, -0.2, 0.3, -0.4], [2.0, -2.0, 2.0, -8.0], [9.0, -9.0, 9.0, 0.0]])
    wanted = torch.stack([x[0], x[1].clamp(-2, 2) / 2, x[2].clamp(-3, 3) / 3])
    torch.testing.assert_close(solver.within(x), wanted)


@pytest.mark.parametrize("name", ["flow", "cosine"])
def test_plms_looks_once_a_step_but_for_the_first(name: str) -> None:
    net = Mixture(PATHS[name])
    found = drawn(PLMS(PATHS[name], (2,), 10), net, 200)
    assert net.calls == 11
    nearest = (found[:, None] - CENTRES).norm(dim=-1).amin(1)
    assert float(nearest.mean()) < 2 * WIDTH


# -- DPM-Solver++ --------------------------------------------------------------------------------------------------------


def _between(process: Gaussian, sampler: Solver, steps: int) -> float:
    """Error of a walk over the middle of the path, at even steps of log(alpha / sigma), from the exact solution of N(m, v)."""
    mean, variance, n = 0.3, 0.25, 64
    ratio = torch.exp(torch.linspace(math.log(9.0), math.log(0.1), steps + 1, dtype=torch.float64))
    times = process.when(ratio.float())[:, None].expand(-1, n)

    def ideal(x: Any, *, t: Any, cond: Any) -> Any:
        alpha, sigma = (level.double() for level in process.levels(t, x))
        return (mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)).float()

    def exact(x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        (a, b), (c, d) = process.levels(t, x), process.levels(s, x)
        return c * mean + ((c**2 * variance + d**2) / (a**2 * variance + b**2)).sqrt() * (x - a * mean)

    begun = x = process.corrupt(mean + 0.5 * torch.randn(n, 2), times[0], Streams.of(0, n))
    look = Look(process, ideal, None)  # type: ignore[arg-type]
    for t, s in pairwise(times):
        guess, eps = look.at(x, t)
        x = sampler.step(look, x, guess, eps, t, s, Streams.of(0, n))
        look.past = [(t, x, guess)]
    return float((x - exact(begun, times[0], times[-1])).abs().mean())


@pytest.mark.parametrize("name", ["flow", "cosine"])
def test_dpm_is_of_second_order_at_one_look_a_step(name: str) -> None:
    process = PATHS[name]
    rates = {}
    for solver in (Euler, DPM):
        errors = [_between(process, solver(process, (2,)), steps) for steps in (16, 32, 64)]
        rates[solver] = math.log2(errors[-2] / errors[-1])
    assert abs(rates[Euler] - 1) < 0.2 and abs(rates[DPM] - 2) < 0.3, rates
    net = Mixture(process)
    drawn(DPM(process, (2,), 10), net, 2)
    assert net.calls == 10


def test_dpm_beats_euler_at_the_same_price() -> None:
    for name, share in (("flow", 1.0), ("chain", 1.0), ("edm", 0.65)):
        process = PATHS[name]
        net = Mixture(process)
        exact = drawn(Heun(process, (2,), 400), net, 100)
        errors = [float((drawn(s(process, (2,), 16), net, 100) - exact).abs().mean()) for s in (Euler, DPM)]
        assert errors[1] < share * errors[0], (name, errors)


# -- DDIM inversion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_ddim_inverts_and_comes_back(name: str) -> None:
    """Data to noise to the same data, at eta 0; extra rounds undo the very steps that will be taken."""
    process = PATHS[name]
    net = Mixture(process)
    x = CENTRES[Streams.of(0, 40).integers(3)] + WIDTH * Streams.of(1, 40).normal(2)
    errors = []
    for rounds in (1, 8):
        back = drawn(DDIM(process, (2,), 30, inverted=True, strength=1.0, rounds=rounds), net, 40, start=x)
        errors.append(float((back - x).abs().mean()))
    assert errors[0] < 0.3 and errors[1] < 0.01, errors
    noise = DDIM(process, (2,), 100, rounds=8).invert(net, x)
    _, sigma = process.schedule.levels(torch.ones(1))
    assert abs(float(noise.std() / sigma) - 1) < 0.25  # it looks like the prior


def test_an_inverted_start_is_edited_by_another_condition() -> None:
    process = PATHS["flow"]
    net = Mixture(process)
    x = CENTRES[:1] + 0.1 * Streams.of(1, 8).normal(2)
    told = [Condition(vector=torch.eye(3)[k].expand(8, 3)) for k in (0, 1)]
    sampler = DDIM(process, (2,), 50, rounds=4)
    noise = sampler.invert(net, x, told[0])
    edited = drawn(DDIM(process, (2,), 50, inverted=True, strength=1.0), net, 8, start=x, cond=told[0])
    torch.testing.assert_close(edited, x, atol=0.02, rtol=0)
    look = Look(process, net, told[1])
    moved = noise
    for t, s in pairwise(process.grid(50)[:, None].expand(-1, 8)):
        moved = sampler.step(look, moved, *look.at(moved, t), t, s, Streams.of(0, 8))
    torch.testing.assert_close(moved - CENTRES[1], x - CENTRES[0], atol=0.05, rtol=0)  # moved whole: what differs stays


# -- guidance --------------------------------------------------------------------------------------------------------------


def _told(n: int) -> dict[str, Condition]:
    return {"cond": Condition(vector=torch.eye(3)[0].expand(n, 3)), "null": Condition(vector=torch.zeros(n, 3))}


def test_guidance_works_only_in_its_interval_and_costs_nothing_outside() -> None:
    process = PATHS["flow"]
    net, plain = Mixture(process), Mixture(process)
    told, x = _told(4), torch.randn(4, 2)
    guided = Guided(net, 3.0, told["null"], between=(0.3, 0.7))
    for t, rows in ((0.2, 4), (0.5, 8), (0.8, 4)):
        before, times = net.rows, torch.full((4,), t)
        out = guided(x, t=times, cond=told["cond"])
        assert net.rows - before == rows
        yes, no = plain(x, t=times, cond=told["cond"]), plain(x, t=times, cond=told["null"])
        torch.testing.assert_close(out, no + 3 * (yes - no) if rows == 8 else yes)
    mixed = torch.tensor([0.2, 0.5, 0.6, 0.8])  # a row at a time
    out, yes = guided(x, t=mixed, cond=told["cond"]), plain(x, t=mixed, cond=told["cond"])
    assert torch.equal(out[[0, 3]], yes[[0, 3]]) and (out[[1, 2]] - yes[[1, 2]]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["flow", "edm"])
def test_the_interval_is_a_dial_of_every_solver(name: str) -> None:
    """All of 0 .. 1 is ordinary guidance; an empty stretch of the walk is none; in the process's own time, whatever is heard."""
    process = PATHS[name] if name == "flow" else Gaussian(Growing(), X, view=karras().view)
    net = Mixture(PATHS[name])

    def hears(x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        if process.view is None:
            return net(x, t=t, cond=cond)
        sigma = (4 * t).exp()
        return net(x * (sigma**2 + 0.25).sqrt()[:, None], t=PATHS[name].when(sigma), cond=cond)

    far = {}
    plain = drawn(Euler(process, (2,), 12), hears, 30, **_told(30))  # type: ignore[arg-type]
    for low, high in ((0.0, 1.0), (0.4, 0.9), (0.0, 0.01)):
        sampler = Euler(process, (2,), 12, guidance=2.5, guided_from=low, guided_to=high)
        far[low, high] = float((drawn(sampler, hears, 30, **_told(30)) - plain).abs().mean())  # type: ignore[arg-type]
    assert far[0.0, 0.01] == 0 and 0.001 < far[0.4, 0.9] < far[0.0, 1.0]


def test_rescaled_guidance_has_the_plain_deviation() -> None:
    """Lin 2023, eq. 15 and 16; the formula is diffusers' rescale_noise_cfg."""
    net, told = Mixture(PATHS["flow"]), _told(5)
    x, t = 2 * torch.randn(5, 2), torch.full((5,), 0.6)
    yes, no = net(x, t=t, cond=told["cond"]), net(x, t=t, cond=told["null"])
    blend = no + 4 * (yes - no)
    whole = Guided(net, 4.0, told["null"], rescale=1.0)(x, t=t, cond=told["cond"])
    torch.testing.assert_close(whole.std(1), yes.std(1), rtol=1e-4, atol=1e-5)
    expected = 0.7 * blend * (yes.std(1, keepdim=True) / blend.std(1, keepdim=True)) + 0.3 * blend
    torch.testing.assert_close(Guided(net, 4.0, told["null"], rescale=0.7)(x, t=t, cond=told["cond"]), expected)


@pytest.mark.parametrize(
    ("solver", "wrong"),
    [
        (Euler, {"guided_from": 0.6, "guided_to": 0.4}),
        (Euler, {"guided_to": 1.5}),
        (Euler, {"rescale": 1.5}),
        (Euler, {"rescale": math.nan}),
        (Churn, {"churn": -1.0}),
        (Churn, {"churn": math.inf}),
        (Churn, {"churn_from": 2.0, "churn_to": 1.0}),
        (Churn, {"inflate": math.nan}),
        (DDIM, {"rounds": 0}),
    ],
)
def test_dials_out_of_range_are_refused_by_name(solver: type[Solver], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        solver(flow(), (1,), **wrong)


# -- parameterisations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [Noise(), Velocity(), Clean()])
def test_min_snr_is_the_same_weight_of_x_whatever_is_estimated(reading: Any) -> None:
    """min(SNR, 5) on the error of x (Hang 2023, eq. 8): the loss does not depend on what the network's output means."""
    process = Gaussian(Cosine(), reading, paid=Noise(), cap=5.0)
    t = torch.linspace(0.02, 0.98, 25)
    alpha, sigma = process.schedule.levels(t)
    x = torch.randn(25, 3)
    torch.testing.assert_close(process.distance(x + 1, x, x, t), (alpha / sigma).square().clamp(max=5.0), rtol=1e-3, atol=1e-6)


# -- interpolation -----------------------------------------------------------------------------------------------------------


def test_between_two_codes_lie_codes() -> None:
    """The ends come back, and what lies between is as likely as data: a straight line would cross the empty middle."""
    process = PATHS["flow"]
    net = Mixture(process)
    system: Any = SimpleNamespace(steady=lambda role: net)
    solver = DDIM(process, (2,), 60, rounds=6)
    first, last = CENTRES[0] + 0.1, CENTRES[1] - 0.1
    path = between(system, solver, first, last, 9)
    torch.testing.assert_close(path[[0, -1]], torch.stack([first, last]), atol=0.02, rtol=0)
    straight = torch.stack([torch.lerp(first, last, k / 8) for k in range(9)])
    far = [float(torch.cdist(x, CENTRES).min(1).values.mean()) for x in (path, straight)]
    assert far[0] < far[1]
    for wrong, why in (({"count": 1}, "count is 1"), ({"solver": DDIM(process, (2,), eta=0.5)}, "eta is 0.5")):
        with pytest.raises(ValueError, match=why):
            between(**{"system": system, "solver": solver, "first": first, "last": last, "count": 5, **wrong})


def test_slerp_keeps_the_length_of_noise() -> None:
    a, b = torch.randn(400), torch.randn(400)
    found = slerp(a[None], b[None], 5)[0]
    torch.testing.assert_close(found[[0, 4]], torch.stack([a, b]), atol=1e-4, rtol=1e-4)
    assert abs(float(found[2].norm()) / 20 - 1) < 0.1 and float(((a + b) / 2).norm()) < 16
    torch.testing.assert_close(slerp(a[None], 2 * a[None], 3)[0, 1], 1.5 * a)
