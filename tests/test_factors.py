"""Data whose truth is known: factors that redraw their picture, splits by hash, exact densities and scores, and their metrics."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maquette import api
from maquette.contracts import Network
from maquette.data import Data, DataError, Facts, open_data
from maquette.data import scenes as drawn_scenes
from maquette.data import sprites as drawn_sprites
from maquette.data.mixtures import Mixture, density
from maquette.data.shares import held_out, sha1
from maquette.metrics import disentanglement, truth
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.recipes.autoencoders import vae
from maquette.recipes.diffusion import ddpm, flow
from maquette.streams import Streams

# -- sprites and scenes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sprites() -> Data:
    return open_data("sprites")


def test_every_combination_of_factors_is_there_once_and_no_two_pictures_are_equal(sprites):
    columns = [sprites.splits[part].columns for part in ("train", "held")]
    table = torch.cat([torch.stack([found[name] for name in sprites.facts.factors], 1) for found in columns])
    counts = [len(values) for values in sprites.facts.factors.values()]
    assert len(table) == math.prod(counts) == len({tuple(row) for row in table.tolist()}) == sum(sprites.facts.rows.values())
    assert [int(column.max()) + 1 for column in table.T] == counts
    assert len({image.numpy().tobytes() for found in columns for image in found["image"]}) == len(table)


def test_factors_redraw_their_picture(sprites):
    batch = sprites.held.rows(torch.arange(200))
    for i in range(200):
        shape, scale, turn, x, y = (int(batch[name][i]) for name in sprites.facts.factors)
        again = drawn_sprites.placed(drawn_sprites.stamp(shape, scale, turn), x, y)
        assert np.array_equal(again, batch["image"][i, 0].numpy())
    white = (batch["image"] > 0).float()
    place = torch.arange(32.0)
    for name, dim in (("x", 2), ("y", 3)):  # the picture itself says where the shape is
        centre = (white.sum(dim)[:, 0] * place).sum(1) / white.sum((1, 2, 3))
        assert np.corrcoef(centre, batch[name])[0, 1] > 0.97
    big = {s: float(white[batch["scale"] == s].sum((1, 2, 3)).mean()) for s in (0, 4)}
    assert big[4] > 2 * big[0]


def test_a_quarter_turn_would_bring_the_square_back(sprites):
    assert np.array_equal(np.rot90(drawn_sprites.stamp(0, 3, 0)), drawn_sprites.stamp(0, 3, 0))
    assert all(not np.array_equal(drawn_sprites.stamp(0, 3, 0), drawn_sprites.stamp(0, 3, turn)) for turn in range(1, 8))


def test_sprites_are_split_by_the_hash_of_their_factors(sprites):
    for part, wanted in (("train", False), ("held", True)):
        columns = sprites.splits[part].columns
        for i in range(0, 1500, 50):
            row = " ".join(str(int(columns[name][i])) for name in sprites.facts.factors)
            assert held_out(sha1(f"sprites {row}".encode())) is wanted
    assert sprites.facts.hash.startswith("e5611423d558")  # drawn by this program: the same on every machine
    assert Facts.of({**sprites.facts.asdict(), "shape": [1, 32, 32]}) == sprites.facts


@pytest.fixture(scope="module")
def scenes() -> Data:
    return open_data("scenes")


def test_scenes_hold_out_pairs_of_colour_and_shape(scenes):
    pairs = {
        part: set(zip(*(scenes.splits[part].columns[n].tolist() for n in ("shape", "colour")), strict=True))
        for part in scenes.splits
    }
    assert not pairs["train"] & pairs["held"] and len(pairs["held"]) == 13
    for at, count in ((0, 10), (1, 10)):  # every shape and every colour is seen in training
        assert len({pair[at] for pair in pairs["train"]}) == count
    assert all(drawn_scenes.pair_held_out(*pair) for pair in pairs["held"])


def test_captions_say_the_factors_and_the_picture_shows_them(scenes):
    rows = torch.arange(0, 8000, 40)
    batch = scenes.train.rows(rows)
    names = scenes.facts.factors
    said = batch["text"]
    for name, values in names.items():
        for i, caption in enumerate(said):
            word = values[int(batch[name][i])]
            assert (word in caption.split()) is not (name == "texture" and word == "plain")
    corner = batch["image"][:, :, 0, 0] * 255
    grounds = torch.tensor(list(drawn_scenes.GROUNDS.values()), dtype=torch.float32)[batch["ground"]]
    torch.testing.assert_close(corner, grounds)
    colours = torch.tensor(list(drawn_scenes.COLOURS.values()), dtype=torch.float32)[batch["colour"]]
    nearest = (batch["image"] * 255 - colours[:, :, None, None]).abs().sum(1).flatten(1).min(1).values
    assert float(nearest.max()) < 1  # somewhere the shape's own colour is seen whole


def test_scenes_leave_out_what_cannot_be_read(scenes):
    every = [scenes.splits[part].columns for part in scenes.splits]
    for found in every:
        assert not ((found["size"] == 0) & (found["texture"] > 0)).any()
        assert all(
            drawn_scenes.legible(*pair) for pair in set(zip(found["colour"].tolist(), found["ground"].tolist(), strict=True))
        )
        values = found["image"].flatten(2).float()
        assert float((values.amax(2) - values.amin(2)).amax(1).min()) > 60  # none is of one colour
    names = list(drawn_scenes.COLOURS), list(drawn_scenes.GROUNDS)
    assert not drawn_scenes.legible(names[0].index("yellow"), names[1].index("cream"))


# -- mixtures --------------------------------------------------------------------------------------------------------------

POINTS = ["grid", "ring", "spiral"]


@pytest.mark.parametrize("name", POINTS)
def test_densities_integrate_to_one_and_scores_are_their_gradients(name):
    mixture = density(name)
    line = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    where = torch.cartesian_prod(line, line)
    step = float(line[1] - line[0])
    whole = sum(float(mixture.log_density(part).exp().sum()) for part in where.split(20_000)) * step**2
    assert whole == pytest.approx(1, abs=1e-5)
    x = (2.4 * Streams.of(0, 500).uniform(2) - 1.2).double().requires_grad_(True)
    (slope,) = torch.autograd.grad(mixture.log_density(x).sum(), x)
    torch.testing.assert_close(mixture.score(x), slope, rtol=1e-6, atol=1e-6)


def test_dissolved_is_the_density_of_dissolved_draws():
    mixture, n = density("ring"), 40_000
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.2)
    x = alpha * mixture.draw(Streams.of(0, n)) + sigma * Streams.of(1, n).normal(2)
    found = mixture.dissolved(alpha.expand(n), sigma.expand(n))
    same = Mixture(0.6 * mixture.centres, ((0.6 * mixture.spread) ** 2 + 0.2**2).sqrt())
    torch.testing.assert_close(found.log_density(x), same.log_density(x))
    torch.testing.assert_close(found.score(x), same.score(x), rtol=1e-5, atol=1e-5)
    entropy = -float(same.log_density(same.draw(Streams.of(2, n))).mean())
    assert -float(found.log_density(x).mean()) == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize("name", POINTS)
def test_points_are_draws_of_their_density(name):
    data, mixture = open_data(name), density(name)
    points = data.train.all()["point"]
    assert points.dtype == torch.float32 and points.shape == (45_000, 2) and data.facts.shape == (2,)
    mode, good = truth.nearest_mode(mixture, points)
    assert truth.found(mixture, mode, good) == len(mixture.centres)
    assert good.mean() == pytest.approx(truth.quality_of_truth(mixture, 0), abs=0.01)
    assert float(mixture.log_density(points).mean()) == pytest.approx(
        float(mixture.log_density(data.held.all()["point"]).mean()), abs=0.05
    )
    with pytest.raises(DataError, match="size 8 is for images"):
        open_data(name, 8)


class Exact(Network):
    """The mixture's own denoiser, spoilt by a factor."""

    def __init__(self, process, mixture: Mixture, factor: float = 1.0):
        super().__init__()
        self.process, self.mixture, self.factor = process, mixture, factor

    def forward(self, x, *, t=None, cond=None, state=None):
        alpha, sigma = self.process.levels(t, x)
        flat = self.mixture.dissolved(alpha.flatten(), sigma.flatten())
        eps = (-sigma.double() * flat.score(x) * self.factor).float()
        guess = (x - sigma * eps) / alpha
        skip, out = self.process.reading.scales(alpha, sigma)
        return (guess - skip * x) / out


@pytest.mark.parametrize("recipe", [flow, ddpm])
def test_score_error_is_zero_for_the_exact_denoiser_and_grows_with_its_error(recipe):
    found = recipe(data="ring")
    for factor, wanted in ((1.0, 0.0), (0.9, 0.01), (0.0, 1.0)):
        found.system.nets["ema"] = Exact(found.system.objective.process, density("ring"), factor)
        error = truth._score(Evidence(found.data, found.system), density("ring"))["score error"]
        assert error.value == pytest.approx(wanted, abs=2e-3) and error.low <= error.value <= error.high


def test_nats_above_the_truth_are_zero_for_the_truth():
    mixture, data = density("spiral"), open_data("spiral")

    class Known:
        bound = "exact"

        def score(self, system, batch, rng):
            return self.extra - mixture.log_density(batch["point"])

    stub = SimpleNamespace(objective=Known(), eval=lambda: None, device=torch.device("cpu"), conditioner=None)
    for extra in (0.0, 0.7):
        stub.objective.extra = extra
        above = truth._likelihood(Evidence(data, stub), mixture)["nats above truth"]
        assert above.value == pytest.approx(extra, abs=1e-9)


def test_modes_see_what_is_missing_and_scattered():
    mixture = density("grid")
    real = mixture.draw(Streams.of(0, 4000))
    mode, good = truth.nearest_mode(mixture, real)
    assert truth.found(mixture, mode, good) == 25 and good.mean() == pytest.approx(0.865, abs=0.02)
    assert truth.found(mixture, mode, good & (mode >= 7)) == 18
    evenly = 1.8 * Streams.of(0, 4000).uniform(2) - 0.9
    assert truth.nearest_mode(mixture, evenly)[1].mean() < 0.27


def test_only_known_densities_are_judged_by_them():
    data = open_data("digits")
    assert "not known" in truth.applies(Evidence(data, samples=data.held.all()))
    ring = open_data("ring")
    found = Evidence(ring, samples={"point": torch.full((50, 2), float("nan"))})
    assert truth.applies(found) == ""
    with pytest.raises(UnfitSamples, match="not finite"):
        truth.measure(found)


def test_points_go_through_every_verb(tmp_path, previews):
    with previews():
        session = api.train("gan", data="ring", depth=1, latent=2, steps=2, batch=32, out=tmp_path / "run", quiet=True)
    assert (session.run.path / "samples" / "step-00000002.npz").exists()
    told = api.evaluate(session.run.path, n=100)
    assert set(told["metrics"]) == {"modes", "high quality"} and "not images" in told["skipped"]["frechet"]
    assert "high quality" in (session.run.path / "report.html").read_text()
    api.sample(session.run.path, 5, out=tmp_path / "points.npz")
    assert np.load(tmp_path / "points.npz")["point"].shape == (5, 2)


# -- disentanglement -------------------------------------------------------------------------------------------------------

COUNTS = (3, 5, 8, 16, 16)


def known_factors(n: int = 1500) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(count, size=n) for count in COUNTS], 1)


def perfect(factors: np.ndarray, spare: int = 3) -> np.ndarray:
    """A unit per factor, of unit variance, slightly noisy; and units that say nothing."""
    rng = np.random.default_rng(1)
    units = (factors - factors.mean(0)) / factors.std(0) + 1e-3 * rng.normal(size=factors.shape)
    return np.concatenate([units, rng.normal(size=(len(factors), spare))], 1)


def turned(code: np.ndarray, seed: int = 2) -> np.ndarray:
    square, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(code.shape[1], code.shape[1])))
    return code @ square


def figures(code: np.ndarray, factors: np.ndarray) -> dict[str, tuple[float, float, float]]:
    found = disentanglement.dci(code, factors)
    return {**found, "MIG": disentanglement.gap(code, factors), "Higgins": disentanglement.higgins(code, factors)}


def test_a_perfect_code_scores_one_and_a_random_one_nothing(monkeypatch):
    monkeypatch.setattr(disentanglement, "TREES", 5)
    monkeypatch.setattr(disentanglement, "RESAMPLES", 20)
    monkeypatch.setattr(disentanglement, "VOTES", (300, 200))
    factors = known_factors()
    best, noise, mixed = (
        figures(code, factors)
        for code in (perfect(factors), np.random.default_rng(3).normal(size=(len(factors), 8)), turned(perfect(factors)))
    )
    for name, (value, low, high) in best.items():
        assert value > 0.97 and low <= value <= high, name
    for name in ("MIG", "DCI disentanglement", "DCI completeness"):
        assert noise[name][0] < 0.06 and mixed[name][0] < 0.35, name
        assert mixed[name][2] < best[name][1], name
    assert noise["DCI informativeness"][0] < 0.25 and noise["Higgins"][0] < 0.35  # chance is 0.16 and 0.2
    assert mixed["Higgins"][0] > 0.8  # its known weakness: a rotation hardly hurts it


def test_one_unit_that_tells_two_factors_is_complete_but_not_disentangled(monkeypatch):
    monkeypatch.setattr(disentanglement, "TREES", 5)
    factors = known_factors()[:, 1:3]
    both = (factors[:, :1] * 8 + factors[:, 1:] + 0.0) + 1e-3 * np.random.default_rng(0).normal(size=(len(factors), 1))
    code = np.concatenate([both, np.random.default_rng(1).normal(size=(len(factors), 2))], 1)
    found = disentanglement.dci(code, factors)
    assert found["DCI completeness"][0] > 0.9 > 0.2 > found["DCI disentanglement"][0]
    split = np.concatenate([factors[:, :1] < 2, factors[:, :1] >= 2, factors[:, :1] % 2, factors[:, 1:]], 1) + 1e-3 * code[:, :1]
    again = disentanglement.dci(split, factors)
    assert again["DCI disentanglement"][0] > 0.9 > 0.75 > again["DCI completeness"][0]


def test_the_gap_is_nothing_where_two_units_tell_the_same():
    factors = known_factors()
    twice = np.concatenate([perfect(factors, 0)] * 2, 1)
    assert disentanglement._gaps(*_binned(twice, factors)).max() < 0.01
    assert disentanglement._gaps(*_binned(perfect(factors, 0), factors)).min() > 0.95
    assert disentanglement._gaps(*_binned(perfect(factors[:, :1], 0), factors[:, :1])).min() > 0.95  # one unit, one factor


def _binned(code: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.stack([disentanglement._binned(unit) for unit in code.T], 1), factors, np.ones(len(code))


def stub(code, sprites: Data) -> Evidence:
    """Evidence of a system whose `represent` is given."""
    objective = SimpleNamespace(represent=lambda system, batch, rng: code(batch))
    system = SimpleNamespace(objective=objective, eval=lambda: None, device=torch.device("cpu"), conditioner=None)
    return Evidence(sprites, system)  # type: ignore[arg-type]


def test_the_metric_asks_for_factors_and_a_vector(sprites, monkeypatch):
    monkeypatch.setattr(disentanglement, "TREES", 3)
    monkeypatch.setattr(disentanglement, "RESAMPLES", 10)
    monkeypatch.setattr(disentanglement, "VOTES", (200, 100))
    digits = open_data("digits")
    assert disentanglement.applies(Evidence(digits, vae(latent=2, depth=1).system)) == "the factors of the data are not known"
    assert "no code" in disentanglement.applies(Evidence(sprites, samples=sprites.held.rows(torch.arange(30))))
    names = list(sprites.facts.factors)
    evidence = stub(lambda batch: torch.stack([batch[name].float() for name in names], 1), sprites)
    assert disentanglement.applies(evidence) == ""
    found = disentanglement.measure(evidence)
    assert found["MIG"].value > 0.97 and found["DCI disentanglement"].value > 0.97 and found["Higgins score"].value > 0.97
    assert found["MIG"].signature.reference.startswith("held@") and found["MIG"].better == "higher"
    leaning = replace(sprites.facts, factors={"shape": ("",) * 3, "label": ("",) * 3})  # two names of one thing
    evidence.facts = leaning
    with pytest.raises(UnfitSamples, match="shape and label tell of each other"):
        disentanglement.measure(evidence)
    with pytest.raises(UnfitSamples, match="vector of units"):
        disentanglement.measure(stub(lambda batch: torch.zeros(len(batch["x"]), 2, 4, 4), sprites))
    with pytest.raises(UnfitSamples, match="not finite"):
        disentanglement.measure(stub(lambda batch: torch.full((len(batch["x"]), 2), float("nan")), sprites))
