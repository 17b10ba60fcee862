"""Codes and codecs: what each quantiser promises, what a lossy codec tells, and what a sharpened one balances."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from maquette.contracts import NeedsStart
from maquette.experiment import Fit
from maquette.metrics.reconstruction import histogram, perplexity
from maquette.networks.patch_discriminator import PatchClassifier, PatchDiscriminator, unlike
from maquette.networks.resnet_grid import GridDecoder, GridEncoder, grid_of
from maquette.nn import quantize
from maquette.nn.densities import Absolute
from maquette.nn.quantize import FiniteScalarQuantizer, ResidualQuantizer, VectorQuantizer
from maquette.objectives.coding import Sharpened, balance
from maquette.recipes.codecs import fsq, vq_vae, vqgan
from maquette.runs import build
from maquette.streams import Streams
from maquette.train import Progress, run


def blobs(n: int, centres: torch.Tensor, spread: float = 0.05, seed: int = 0) -> torch.Tensor:
    """[1,n,D] around centres [K,D]."""
    made = torch.Generator().manual_seed(seed)
    which = torch.randint(len(centres), (n,), generator=made)
    return (centres[which] + spread * torch.randn(n, centres.shape[1], generator=made))[None]


# -- one codebook ----------------------------------------------------------------------------------------------------------


def test_a_vector_becomes_its_nearest_point_and_a_gradient_goes_straight_through():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(3, 16).eval()
    x = torch.randn(2, 5, 3, requires_grad=True)
    z, code, error = quantizer(x)
    assert torch.equal(code[..., 0], torch.cdist(x, quantizer.book).argmin(-1))
    assert torch.equal(z, quantizer.embed(code)) or torch.allclose(z, quantizer.embed(code), atol=1e-6)
    weight = torch.randn_like(z)
    (slope,) = torch.autograd.grad((z * weight).sum(), x, retain_graph=True)
    assert torch.equal(slope, weight)  # as if z were x
    (pull,) = torch.autograd.grad(error.sum(), x)
    torch.testing.assert_close(pull, 2 * (x - quantizer.embed(code)).detach())  # the commitment draws x to its point


def test_the_codebook_is_the_moving_average_of_the_closed_form():
    """N_t = g^t N_0 + (1-g) sum_s g^(t-s) n_s, the same for m, and each point is m / N (van den Oord 2017, app. A.1)."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(2, 4, decay=0.9, least=0.0).train()
    quantizer.count.fill_(3.0)
    quantizer.total.copy_(3.0 * quantizer.book)
    count, total = [quantizer.count.clone().double()], [quantizer.total.clone().double()]
    counts, totals = [], []
    for t in range(7):
        x = torch.randn(3, 6, 2)
        _, code, _ = quantizer(x, Streams.of(t, 3))
        chosen = nn.functional.one_hot(code.flatten(), 4).double()
        counts.append(chosen.sum(0))
        totals.append(chosen.T @ x.flatten(0, 1).double())
    g, steps = 0.9, len(counts)
    for name, first, parts in (("count", count[0], counts), ("total", total[0], totals)):
        closed = g**steps * first + (1 - g) * sum(g ** (steps - 1 - s) * part for s, part in enumerate(parts))
        torch.testing.assert_close(getattr(quantizer, name).double(), closed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(quantizer.book, quantizer.total / quantizer.count[:, None])
    assert int(quantizer.revived) == 0


def test_a_codebook_learns_only_from_the_player_that_trains_it():
    quantizer, x = VectorQuantizer(2, 4), torch.randn(2, 8, 2)
    before = quantizer.book.clone()
    quantizer.eval()(x, Streams.of(0, 2))
    quantizer.train()(x)
    with torch.no_grad():
        quantizer(x, Streams.of(0, 2))
    assert torch.equal(quantizer.book, before) and float(quantizer.count.sum()) == 0
    quantizer(x, Streams.of(0, 2))
    assert not torch.equal(quantizer.book, before)


def test_a_dead_code_is_revived_and_without_that_it_stays_dead():
    """A point that lies where nothing is: with restarts it is put on the data and used, without them it never is."""
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    used = {}
    for least in (0.1, 0.0):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(2, 4, decay=0.8, least=least).train()
        quantizer(blobs(64, centres), Streams.of(0, 1))
        quantizer.book[2] = torch.tensor([50.0, 50.0])
        quantizer.total[2] = 50.0 * quantizer.count[2]
        for step in range(40):
            quantizer(blobs(64, centres, seed=step), Streams.of(step + 1, 1))
        code = quantizer.eval()(blobs(400, centres, seed=99))[1]
        used[least] = bool((code == 2).any())
    assert used == {0.1: True, 0.0: False}


def test_restarts_depend_on_the_streams_alone():
    def taught(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        quantizer = VectorQuantizer(3, 8).train()
        for step in range(3):
            quantizer(torch.sin(torch.arange(96.0)).reshape(2, 16, 3) * (step + 1), Streams.of(step, 2))
        return quantizer.book

    assert torch.equal(taught(0), taught(1))  # all points begin dead: what they were is forgotten


def test_two_ranks_keep_the_codebook_of_one(monkeypatch):
    """Two threads stand for two processes, each with half the rows; the whole command is a slow test of test_stages.py."""
    meet, given = threading.Barrier(2, timeout=20), {}
    here = threading.local()

    def exchange(x: torch.Tensor) -> list[torch.Tensor]:
        given[here.rank] = x
        meet.wait()
        both = [given[0], given[1]]
        meet.wait()
        return both

    def teach(quantizer: VectorQuantizer, rank: int, rows: slice) -> None:
        here.rank = rank
        for step in range(6):
            x = torch.sin(torch.arange(8 * 5 * 3.0) * (step + 1)).reshape(8, 5, 3) + step
            quantizer.train()(x[rows], Streams.of(step, 8)[rows])

    alone = ResidualQuantizer(3, 6, 2, decay=0.5)
    teach(alone, 0, slice(0, 8))
    monkeypatch.setattr(quantize, "summed", lambda *tensors: [sum(exchange(t)) for t in tensors])
    monkeypatch.setattr(quantize, "gathered", lambda x: torch.cat(exchange(x)))
    ranks = [ResidualQuantizer(3, 6, 2, decay=0.5) for _ in range(2)]
    threads = [threading.Thread(target=teach, args=(ranks[r], r, slice(4 * r, 4 * r + 4))) for r in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    whole, first, second = (module.state_dict() for module in (alone, *ranks))
    assert int(whole["levels.0.revived"]) > 6  # more than the beginning
    for name in whole:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], whole[name], atol=1e-5, rtol=1e-5)


# -- residual and finite ---------------------------------------------------------------------------------------------------


def test_each_residual_level_lowers_the_error():
    torch.manual_seed(0)
    quantizer, x = ResidualQuantizer(4, 8, 5, decay=0.8).train(), torch.randn(1, 2000, 4)
    for step in range(60):
        quantizer(torch.randn(1, 400, 4), Streams.of(step, 1))
    z, code, _ = quantizer.eval()(x)
    assert code.shape == (1, 2000, 5) and quantizer.nats == pytest.approx(5 * math.log(8))
    errors = [float((quantizer.embed(code[..., : i + 1]) - x).square().mean()) for i in range(5)]
    assert all(b < 0.85 * a for a, b in itertools.pairwise(errors)), errors
    torch.testing.assert_close(z, quantizer.embed(code))


def test_residual_levels_code_what_is_left():
    torch.manual_seed(1)
    quantizer, x = ResidualQuantizer(3, 6, 3).eval(), torch.randn(2, 4, 3, requires_grad=True)
    z, code, _ = quantizer(x)
    left = x.detach()
    for i, level in enumerate(quantizer.levels):
        assert torch.equal(code[..., i], torch.cdist(left, level.book).argmin(-1))
        left = left - level.book[code[..., i]]
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert torch.equal(slope, torch.ones_like(x))


@pytest.mark.parametrize("levels", [(8, 6, 5), (5, 5), (2, 3, 4), (2,)])
def test_finite_codes_and_points_are_one_to_one(levels):
    quantizer = FiniteScalarQuantizer(levels)
    every = torch.arange(quantizer.symbols)[None, :, None]
    points = quantizer.embed(every)
    assert quantizer.symbols == math.prod(levels) == len(points[0].unique(dim=0))
    for i, count in enumerate(levels):
        values = points[0, :, i].unique()
        assert len(values) == count and float(values.min()) == -1.0 and float(values.max()) <= 1.0
    wide = 2 * torch.randn(1, 40_000, len(levels), generator=torch.Generator().manual_seed(0))
    z, code, error = quantizer(wide)
    torch.testing.assert_close(z, quantizer.embed(code))
    assert int(code.min()) >= 0 and int(code.max()) < quantizer.symbols and not error.any()
    assert len(code.unique()) == quantizer.symbols  # every symbol can be reached


def test_finite_levels_are_the_papers():
    """Mentzer 2023, app. A.1, with its own numbers: half widths, offsets, the tangent shift, mixed radix."""
    levels = np.array([8, 6, 5])
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * 2
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    whole = np.round(np.tanh(x + np.tan(offset / half)) * half - offset)
    index = ((whole + levels // 2) * np.concatenate([[1], np.cumprod(levels[:-1])])).sum(-1)
    z, code, _ = FiniteScalarQuantizer((8, 6, 5))(torch.from_numpy(x)[None])
    np.testing.assert_array_equal(code[0, :, 0].numpy(), index)
    np.testing.assert_allclose(z[0].numpy(), whole / (levels // 2), atol=1e-6)


def test_a_finite_quantiser_passes_the_gradient_of_its_bound():
    quantizer = FiniteScalarQuantizer((5, 4))
    x = torch.randn(1, 6, 2, requires_grad=True)
    (through,) = torch.autograd.grad(quantizer(x)[0].sum(), x)
    (smooth,) = torch.autograd.grad((quantizer.bound(x) / (quantizer.steps // 2)).sum(), x)
    torch.testing.assert_close(through, smooth)


# -- codecs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 13), (1, 28, 28), (3, 33, 20)])
@pytest.mark.parametrize("patch", [2, 4])
def test_grids_fit_any_size(shape, patch):
    x = torch.randn(2, *shape)
    z = GridEncoder(shape, 5, 8, patch)(x)
    assert z.shape == (2, 5, *grid_of(shape, patch)) and GridDecoder(5, shape, 8, patch)(z).shape == x.shape


def fitted(recipe, steps: int, **how):
    torch.manual_seed(0)
    found = recipe(**how)
    logs = list(run(found.system, found.data, Progress(Fit(steps=steps, batch=32, lr=3e-3))))
    return found.system.eval(), found.data, logs


@pytest.fixture(scope="module")
def trained():
    return fitted(vq_vae, 80, symbols=64)


def test_the_codebook_is_in_use_after_a_short_training(trained):
    """Perplexity above a quarter of the codebook, on held-out rows."""
    system, data, _ = trained
    code = system.encode(data.held.all())
    assert code.shape == (360, 16) and code.dtype == torch.int64
    counts = histogram(code.reshape(-1, 1), 64).numpy()
    assert perplexity(counts) > 64 / 4


def test_it_rebuilds_far_better_than_the_mean_image(trained):
    system, data, logs = trained
    x = data.held.all()["image"]
    with torch.no_grad():
        again, other = (system.decode(system.codec.encode(images)) for images in (x, x.roll(1, 0)))
    assert float((again - x).square().mean()) < 0.5 * float((x.mean(0) - x).square().mean())
    assert float((other - x).square().mean()) > 2 * float((again - x).square().mean())
    assert float(logs[-1]["rebuild/distortion"]) < float(logs[0]["rebuild/distortion"])


def test_its_score_is_a_bound_that_pays_for_every_symbol(trained):
    system, data, _ = trained
    batch, rng = data.held.rows(torch.arange(50)), Streams.of(0, 50)
    with torch.no_grad():
        x, inner = system.codec.outer.encode(batch["image"]), system.codec.inner
        expected = inner.nats(x, inner.latent(inner.encode(x))) + 16 * math.log(64)
    torch.testing.assert_close(system.objective.score(system, batch, rng), expected)


def test_a_codec_alone_makes_nothing_and_says_what_would(trained):
    system, data, _ = trained
    with pytest.raises(NeedsStart, match="vq_prior --codec"):
        system.sample(3)
    with torch.no_grad():
        code = system.encode(data.held.rows(torch.arange(3)))
        assert torch.equal(system.sample(3, start=code)["image"], system.decode(code))


def test_perplexity_counts_what_is_in_even_use():
    assert perplexity(np.array([[4.0, 4, 4, 4], [9, 9, 9, 9]])) == pytest.approx(4)
    assert perplexity(np.array([[5.0, 0, 0, 0]])) == pytest.approx(1)
    assert perplexity(np.array([[1.0, 1, 0, 0], [1, 1, 1, 1]])) == pytest.approx(math.sqrt(8))


# -- sharpening ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_logit_sees_one_patch(layers):
    net = PatchDiscriminator(1, 4, layers)
    net.norms = nn.ModuleList(nn.Identity() for _ in net.norms)  # these look at the whole image, by design
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    logits = net(x)
    assert logits.shape == (1, 96 // 2**layers, 96 // 2**layers)
    (slope,) = torch.autograd.grad(logits[0, logits.shape[1] // 2, logits.shape[2] // 2], x)
    rows, columns = slope[0, 0].abs().sum(1).nonzero(), slope[0, 0].abs().sum(0).nonzero()
    side = 5 * 2**layers - 2
    assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1 == side


def test_a_told_discriminator_reads_its_field():
    from maquette.contracts import Condition

    net = PatchDiscriminator(1, 4, 2, told=2)
    x, field = torch.randn(2, 1, 16, 16), torch.randn(2, 2, 16, 16)
    assert not torch.equal(net(x, cond=Condition(field=field)), net(x, cond=Condition(field=field + 1)))
    with pytest.raises(ValueError, match="field of 2 channels"):
        net(x)


def test_unlikeness_is_zero_for_the_same_and_grows():
    torch.manual_seed(0)
    net, x = PatchClassifier(1, 10, 8, 2), torch.randn(4, 1, 16, 16)
    noise = torch.randn_like(x)
    with torch.no_grad():
        apart = [float(unlike(net, x, x + share * noise).mean()) for share in (0.0, 0.1, 0.5, 2.0)]
    assert apart[0] == 0 and apart == sorted(apart) and apart[1] > 0


def test_the_balance_is_the_ratio_of_gradient_norms():
    """Esser 2021, eq. 7, against gradients taken one by one."""
    torch.manual_seed(0)
    last = nn.Linear(4, 3, bias=False).weight
    h = torch.randn(5, 4)
    rebuilt, fooled = (h @ last.T).square().mean(), (h @ last.T).sigmoid().mean()
    norms = [float(torch.autograd.grad(loss, last, retain_graph=True)[0].norm()) for loss in (rebuilt, fooled)]
    found = balance(rebuilt, fooled, last)
    assert float(found) == pytest.approx(norms[0] / (norms[1] + 1e-6), rel=1e-6) and not found.requires_grad
    assert float(balance(rebuilt, 1000 * fooled, last)) == pytest.approx(float(found) / 1000, rel=1e-3)


def test_the_discriminator_waits():
    """Before its delay is over neither player feels the other; from then on both do."""
    torch.manual_seed(0)
    found = vqgan(delay=3, symbols=32)
    critic = {k: v.clone() for k, v in found.system.nets["discriminator"].state_dict().items()}
    logs, moved = [], []
    for entry in run(found.system, found.data, Progress(Fit(steps=6, batch=16, lr=1e-3, warmup=0.0))):
        logs.append(entry)
        now = found.system.nets["discriminator"].state_dict()
        moved.append(any(not torch.equal(now[k], critic[k]) for k in critic))
    assert moved == [False, False, False, True, True, True]
    assert ["rebuild/balance" in entry for entry in logs] == [False, False, False, True, True, True]
    assert all("rebuild/unlike" in entry and "learn/loss" in entry for entry in logs)


def test_the_judge_learns_labels_and_nothing_else_teaches_it():
    torch.manual_seed(0)
    found = vqgan(delay=100)
    logs = list(run(found.system, found.data, Progress(Fit(steps=40, batch=32, lr=2e-3))))
    assert float(logs[-1]["learn/loss"]) < 0.5 * float(logs[0]["learn/loss"])
    moves = {p.name: set(found.system.learners(p)) for p in found.system.objective.phases()}
    assert moves == {"rebuild": {"codec"}, "learn": {"judge"}, "criticise": {"discriminator"}}


def test_data_without_labels_are_sharpened_without_a_judge(tmp_path):
    from PIL import Image

    for i in range(24):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8)).save(tmp_path / f"{i}.png")
    found, _ = build("vqgan", {"data": str(tmp_path), "delay": 1, "symbols": 16}, 0)
    assert "judge" not in found.system.nets
    logs = list(run(found.system, found.data, Progress(Fit(steps=3, batch=8, lr=1e-3))))
    assert ["rebuild/unlike" in entry for entry in logs] == [
        False,
        True,
        True,
    ]  # the discriminator's, once it joins in


# -- bad input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: vq_vae(symbols=1), r"symbols is 1; .*nearest is 2"),
        (lambda: vq_vae(patch=3), r"patch is 3.*nearest is 2"),
        (lambda: vq_vae(depth=0), "depth is 0"),
        (lambda: vq_vae(data="stdlib_prose"), "holds text"),
        (lambda: fsq(levels="5,1"), "levels are"),
        (lambda: fsq(levels="8,x"), "levels are '8,x'"),
        (lambda: vqgan(delay=-1), "delay is -1"),
        (lambda: Sharpened(features=float("nan")), "features is nan"),
        (lambda: VectorQuantizer(2, 4, decay=1.0), "decay is 1.0"),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_absolute_errors_give_grey_levels_their_share_of_the_density():
    likelihood, params = Absolute(0.05, 9), torch.tensor([[[[0.13]], [[-0.4]], [[0.25]]]])
    grid = torch.linspace(-1, 1, 9)
    shares = torch.stack([torch.exp(-likelihood.nats(x.expand(1, 1, 1, 1), params[:, :1])) for x in grid])
    laplace = torch.distributions.Laplace(0.13, 0.05)
    expected = laplace.cdf(grid + 0.125) - laplace.cdf(grid - 0.125)
    torch.testing.assert_close(shares[:, 0], expected, atol=1e-6, rtol=1e-4)
    assert 0.99 < float(shares.double().sum()) < 1 + 1e-6
    x = grid[[4, 3, 5]].view(1, 3, 1, 1)
    assert float(likelihood.nats(x, params)) == pytest.approx(
        sum(float(likelihood.nats(x[:, c : c + 1], params[:, c : c + 1])) for c in range(3)), rel=1e-5
    )
    guess = params.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(likelihood.nats(torch.ones_like(guess), guess).sum(), guess)
    torch.testing.assert_close(slope, torch.full_like(slope, -20.0))  # far away it is the absolute error
