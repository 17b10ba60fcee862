"""Masked models: the process against closed forms, decoding against enumerated distributions, and the network's two-way sight."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from maquette.contracts import IGNORE, Condition, Network, Process
from maquette.networks.grid_transformer import GridTransformer
from maquette.objectives.denoising import Measured
from maquette.processes.masked import Masked
from maquette.recipes.masked import maskgit, patch_of
from maquette.samplers.unmask import Unmask
from maquette.streams import Streams

T, V = 3, 2
IMAGES = torch.tensor(list(itertools.product(range(V), repeat=T)))
TRUTH = torch.tensor([0.30, 0.02, 0.05, 0.13, 0.03, 0.17, 0.10, 0.20])


class Ideal(Network):
    """p(x_i | what is not masked) of the distribution TRUTH over IMAGES, by enumeration; `wrong` flattens it."""

    def __init__(self, wrong: float = 0.0):
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor, *, t: Any = None, cond: Any = None, state: Any = None) -> Tensor:
        agrees = ((x[:, None] == IMAGES) | (x[:, None] == V)).all(-1)  # [B,8]
        share = agrees * TRUTH
        chance = torch.einsum("bn,ntv->btv", share / share.sum(1, keepdim=True), torch.nn.functional.one_hot(IMAGES, V).float())
        return (chance * (1 - self.wrong) + self.wrong / V).log()


def draw(sampler: Unmask, n: int, net: Network | None = None, length: int = T, seed: int = 0, **told: Any) -> list[Tensor]:
    """All drafts of a sampler."""
    net = net or Ideal()
    system: Any = SimpleNamespace(steady=lambda role: net, codec=SimpleNamespace(length=length, whole=False))
    return list(sampler.draw(system, n, rng=Streams.of(seed, n), **told))


def frequencies(code: Tensor) -> Tensor:
    return torch.bincount((code * torch.tensor([4, 2, 1])).sum(1), minlength=8) / len(code)


def test_the_process_keeps_its_contract():
    process = Masked(V)
    assert isinstance(process, Process) and isinstance(process, Measured)
    grid = process.grid(4)
    assert grid.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert process.prior((T,), Streams.of(0, 2)).tolist() == [[V] * T] * 2


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_corruption_hides_the_scheduled_share_and_changes_nothing_else(schedule):
    process = Masked(5, schedule)
    x = Streams.of(1, 500).integers(5, 40)
    t = torch.linspace(0.001, 1, 500)
    x_t = process.corrupt(x, t, Streams.of(2, 500))
    hidden = x_t == process.mask
    assert torch.equal(hidden.sum(1), (process.share(t) * 40).ceil().long().clamp(1, 40))
    assert torch.equal(x_t[~hidden], x[~hidden]) and hidden[-1].all()
    assert float(hidden.float().mean(0).std()) < 0.04  # no place is favoured
    assert math.isclose(float(process.share(torch.tensor(1.0))), 1) and float(process.share(torch.tensor(0.0))) == 0
    middle = float(process.share(torch.tensor(2 / 3)))
    assert middle == pytest.approx(math.cos(math.pi / 2 / 3) if schedule == "cosine" else 2 / 3)


@torch.no_grad()
def test_the_loss_counts_masked_symbols_only():
    process = Masked(V)
    x, x_t = torch.tensor([[0, 1, 1]]), torch.tensor([[0, V, 1]])
    guess = torch.zeros(1, T, V)
    sure = guess.clone()
    sure[0, 0] = torch.tensor([-9.0, 9.0])  # wrong, but about a symbol that is known
    a, b = (process.distance(g, x, x_t, torch.tensor([0.5])) for g in (guess, sure))
    assert torch.equal(a, b) and float(a) == pytest.approx(math.log(2) / (3 * 2 / math.pi))


@torch.no_grad()
def test_the_any_order_bound_is_exact_for_the_ideal_and_above_the_truth_for_others():
    """An ideal denoiser's chain rule holds in every order, so its bound is the likelihood; another's lies above its own."""
    n = 4000
    for net, tight in ((Ideal(), True), (Ideal(0.3), False)):
        for i in (0, 1, 7):
            x = IMAGES[i].expand(n, -1)
            estimate = Masked(V, draws=3).nats(net, x, None, Streams.of(i, n))
            error = 4 * float(estimate.std()) / math.sqrt(n)
            exact = every_order(net, IMAGES[i])
            bound = float(exact.mean())
            assert float(estimate.mean()) == pytest.approx(bound, abs=error + 1e-4)
            mixture = -float((-exact).logsumexp(0)) + math.log(len(exact))  # -log of the mean over orders of p(x)
            assert bound >= mixture - 1e-6
            assert bound == pytest.approx(-math.log(TRUTH[i]), abs=1e-4) if tight else bound > mixture + 1e-6


def every_order(net: Network, x: Tensor) -> Tensor:
    """-log p(x) written in each of the T! orders."""
    found = []
    for order in itertools.permutations(range(T)):
        x_t, total = torch.full((1, T), V), 0.0
        for place in order:
            total -= float(net(x_t).log_softmax(-1)[0, place, x[place]])
            x_t[0, place] = x[place]
        found.append(total)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("steps", [3, 8])
def test_one_symbol_a_step_samples_an_ideal_denoiser_exactly(steps):
    n = 8000
    *_, code = draw(Unmask(Masked(V), steps=steps), n)
    assert float((frequencies(code) - TRUTH).abs().sum()) < 0.06
    *_, blunt = draw(Unmask(Masked(V), steps=1), n)  # all at once: the symbols are drawn independently
    assert float((frequencies(blunt) - TRUTH).abs().sum()) > 0.3


def test_the_surest_guess_is_kept_first_and_noise_makes_the_order_random():
    class Sure(Network):
        def forward(self, x: Tensor, *, t: Any = None, cond: Any = None, state: Any = None) -> Tensor:
            return torch.stack([torch.zeros(T), torch.tensor([1.0, 9.0, 4.0])], -1).expand(len(x), -1, -1)

    confident = Unmask(Masked(V), steps=3, order="confidence", noise=0.0, temperature=0.0)
    first, second, last = draw(confident, 2, Sure())
    assert (
        first.tolist() == [[IGNORE, 1, IGNORE]] * 2
        and second.tolist() == [[IGNORE, 1, 1]] * 2
        and last.tolist() == [[1, 1, 1]] * 2
    )
    noisy = Unmask(Masked(V), steps=3, order="confidence", noise=1e6, temperature=0.0)
    starts = (draw(noisy, 600, Sure())[0] != IGNORE).float().mean(0)
    assert float((starts - 1 / 3).abs().max()) < 0.08


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("steps", [1, 4, 64])
def test_known_symbols_stay_and_nothing_stays_masked(order, steps):
    torch.manual_seed(0)
    net = GridTransformer((1, 4, 4), 5, width=32, depth=1).eval()
    start = Streams.of(3, 6).integers(5, 16)
    known = Streams.of(4, 6).uniform(16) < torch.linspace(0, 1, 6)[:, None]
    start = start.masked_fill(~known, IGNORE)
    with torch.no_grad():
        drafts = draw(Unmask(Masked(5), steps=steps, order=order), 6, net, 16, start=start)  # type: ignore[arg-type]
    assert 1 <= len(drafts) <= min(steps, 16)
    for early, late in itertools.pairwise([start, *drafts]):
        written = early != IGNORE
        assert torch.equal(late[written], early[written])
    assert drafts[-1].min() >= 0 and drafts[-1].max() < 5
    for rows in (slice(2, 3), slice(3, 6)):  # a row's sample is its own, whatever its batch
        some: Any = SimpleNamespace(steady=lambda role: net, codec=SimpleNamespace(length=16, whole=False))
        sampler = Unmask(Masked(5), steps=steps, order=order)  # type: ignore[arg-type]
        with torch.no_grad():
            *_, alone = sampler.draw(some, len(start[rows]), start=start[rows], rng=Streams.of(0, 6)[rows])
        assert torch.equal(alone, drafts[-1][rows])


def test_an_occluded_half_is_completed_by_the_conditional():
    start = torch.tensor([[1, IGNORE]]).expand(6000, -1)  # beyond the start's end is written too
    *_, code = draw(Unmask(Masked(V), steps=8), 6000, start=start)
    assert bool((code[:, 0] == 1).all())
    truth = TRUTH * (IMAGES[:, 0] == 1)
    assert float((frequencies(code) - truth / truth.sum()).abs().sum()) < 0.06


@torch.no_grad()
def test_the_network_sees_both_ways_and_its_condition():
    """Bidirectional: every symbol moves the scores of every place; so does the label. The mask is not a level."""
    torch.manual_seed(0)
    net = GridTransformer((3, 4, 4), 4, width=32, depth=2, told=2).eval()
    for p in net.parameters():
        p.add_(0.2 * torch.randn_like(p))
    x, cond = torch.randint(0, 4, (2, 48)), Condition(vector=torch.eye(2))
    before = net(x, cond=cond)
    assert before.shape == (2, 48, 4)
    for place in range(48):
        other = x.clone()
        other[:, place] = 4
        assert (net(other, cond=cond) - before).abs().amax(-1).min() > 0
    assert (net(x, cond=Condition(vector=torch.eye(2).flip(0))) - before).abs().amax(-1).min() > 0
    with pytest.raises(ValueError, match="condition vector of width 2"):
        net(x)


def test_patches_follow_the_image():
    assert [patch_of(*side) for side in ((8, 8), (32, 32), (64, 64), (7, 5), (9, 9), (12, 8))] == [2, 2, 4, 1, 3, 2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Masked(V, "cosin"), "cosin.*nearest is 'cosine'"),
        (lambda: Masked(V, draws=0), "draws is 0"),
        (lambda: Unmask(Masked(V), steps=0), "steps is 0"),
        (lambda: Unmask(Masked(V), temperature=float("nan")), "temperature is nan"),
        (lambda: Unmask(Masked(V), order="best"), "order is 'best'"),  # type: ignore[arg-type]
        (lambda: maskgit(depth=0), "depth is 0"),
        (lambda: maskgit(schedule="square"), "schedule is 'square'"),
        (lambda: GridTransformer((1, 5, 5), 4, patch=2), "patch is 2"),
        (lambda: GridTransformer((1, 4, 4), 4, width=40), "width is 40.*nearest is 32"),
    ],
)
def test_bad_values_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
