"""Metrics against closed forms, known configurations and known truths: each test fails if its figure lies."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.contracts import Objective, phase
from maquette.data import open_data
from maquette.evaluate import choose, evaluate, judge
from maquette.metrics import all_metrics, bytes, copying, features, frechet, meaning, nats, precision_recall, twosample, utility
from maquette.metrics.estimate import Estimate, Signature, UnlikeSignatures, compare
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.metrics.intervals import area, bootstrap, mean, proportion
from maquette.system import System


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """Feature networks are trained once for this file, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def signed(**changes) -> Signature:
    plain = {"metric": "recall", "reference": "held@ab", "samples": 1437, "rows": 360, "options": (("k", "3"),)}
    return Signature(**{**plain, **changes})


def figure(value, half=0.1, **changes) -> Estimate:
    signature = changes.pop("signature", signed())
    return Estimate(value, value - half, value + half, 10, signature, **changes)


# -- estimates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": 360}, "n samples: 1437 vs 360"),
        ({"rows": 100}, "n reference: 360 vs 100"),
        ({"network": "mlp128-64@00000000"}, "feature network: none vs mlp128-64@00000000"),
        ({"reference": "held@cd"}, "reference: held@ab vs held@cd"),
        ({"seed": 1}, "seed: 0 vs 1"),
        ({"options": (("k", "5"),)}, "k: 3 vs 5"),
        ({"options": ()}, "k: 3 vs none"),
    ],
)
def test_unlike_signatures_are_refused_with_the_difference_named(change, said):
    with pytest.raises(UnlikeSignatures, match=said) as caught:
        compare(figure(0.5), figure(0.9, signature=signed(**change)))
    assert "metric" not in str(caught.value)  # only what differs is named


def test_every_difference_is_named():
    with pytest.raises(UnlikeSignatures, match="n samples: 1437 vs 7; seed: 0 vs 3"):
        figure(0.5).beats(figure(0.9, signature=signed(samples=7, seed=3)))


def test_a_figure_beats_another_only_beyond_the_intervals():
    assert figure(1.0).beats(figure(1.2)) and not figure(1.2).beats(figure(1.0))
    assert compare(figure(1.0), figure(1.1)) == 0  # .1 apart, sqrt(2) * .1 is the interval of the difference
    assert compare(figure(1.0, better="higher"), figure(1.2, better="higher")) == -1
    assert compare(figure(1.05, aim=1.0), figure(0.3, aim=1.0)) == 1  # nearer to the aim, whichever side
    assert compare(figure(1.7, aim=1.0), figure(0.3, aim=1.0)) == 0


def test_an_estimate_survives_json():
    made = figure(0.25, better="higher", aim=1.0)
    assert Estimate.of(json.loads(made.json())) == made
    assert math.isnan(Estimate.of(json.loads(figure(math.nan).json())).value)
    assert str(made.signature) == "recall|ref:held@ab|n:1437|nref:360|seed:0|k:3"


def test_impossible_estimates_are_refused():
    with pytest.raises(ValueError, match="runs from 2"):
        Estimate(1, 2, 0, 5, signed())
    with pytest.raises(ValueError, match="'lower', 'higher'"):
        Estimate(1, 0, 2, 5, signed(), better="bigger")  # type: ignore[arg-type]


# -- intervals ------------------------------------------------------------------------------------------------------------


def covers(interval, truth: float) -> bool:
    return interval[1] <= truth <= interval[2]


def weighted(rows: np.ndarray):
    return lambda weights: weights @ rows / weights.sum()


def test_intervals_cover_the_truth():
    """On known distributions each kind of 95 % interval holds the truth in at least 90 % of 200 trials, and in some it fails."""
    rng = np.random.default_rng(0)
    normal = [mean(rng.normal(3, 2, 80)) for _ in range(200)]
    resampled = [bootstrap(weighted(rng.normal(3, 2, 80)), 80, resamples=150, seed=i) for i in range(200)]
    wilson = [proportion(int(rng.binomial(60, 0.07)), 60) for _ in range(200)]
    truth = 0.5 * (1 + math.erf(1 / 2))  # P(N(1,1) > N(0,1))
    delong = [area(rng.normal(0, 1, 60), rng.normal(1, 1, 60)) for _ in range(200)]
    kinds = {"normal": (normal, 3), "bootstrap": (resampled, 3), "Wilson": (wilson, 0.07), "AUC": (delong, truth)}
    for name, (found, true) in kinds.items():
        share = np.mean([covers(interval, true) for interval in found])
        assert 0.90 <= share < 1, (name, share)


@pytest.mark.slow
def test_the_bootstrap_of_a_frechet_distance_covers_its_expectation():
    """Gaussians in 4 dimensions, the reference known: the interval holds the mean figure at this n in 90 % of trials."""
    rng = np.random.default_rng(1)
    reference = (np.zeros(4), np.eye(4))

    def draw() -> np.ndarray:
        return rng.normal(0.3, 1.2, (300, 4))

    truth = np.mean([frechet.distance(*frechet.gaussian(draw()), *reference) for _ in range(1500)])
    hits = 0
    for trial in range(100):
        rows = draw()

        def fd(weights: np.ndarray, rows: np.ndarray = rows) -> float:
            return frechet.distance(*frechet.gaussian(rows, weights), *reference)

        hits += covers(bootstrap(fd, 300, resamples=150, seed=trial), truth)
    assert 90 <= hits < 100


def test_a_bootstrap_within_groups_keeps_their_sizes():
    groups = np.repeat([0, 1], 50)
    share = bootstrap(lambda w: w[:50].sum() / w.sum(), 100, groups=groups)
    assert share == (0.5, 0.5, 0.5)
    assert bootstrap(lambda w: w[:50].sum() / w.sum(), 100)[1] < 0.45


def test_area_counts_ties_as_half():
    assert area(np.zeros(5), np.zeros(7))[0] == 0.5
    assert area(np.arange(5.0), np.arange(5.0) + 10) == (1, 1, 1)
    assert area(np.array([0.0, 1, 2]), np.array([1.0, 3]))[0] == pytest.approx((0.5 + 1 + 3) / 6)


# -- Fréchet distance -----------------------------------------------------------------------------------------------------


def test_frechet_of_two_gaussians_is_the_closed_form():
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 1.0, 0.0])
    assert frechet.distance(np.zeros(3), a, np.array([1.0, 2, 0]), b) == pytest.approx(5 + 1 + 1 + 9)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned = frechet.distance(np.zeros(3), turn @ a @ turn.T, turn @ np.array([1.0, 2, 0]), turn @ b @ turn.T)
    assert turned == pytest.approx(16)
    assert frechet.distance(np.zeros(3), a, np.zeros(3), a) == pytest.approx(0, abs=1e-12)


def test_weights_of_a_gaussian_are_repetitions():
    rows = np.random.default_rng(0).normal(size=(20, 3))
    counts = np.array([0, 2, 1, 3] * 5)
    repeated = frechet.gaussian(np.repeat(rows, counts, 0))
    for ours, theirs in zip(frechet.gaussian(rows, counts.astype(float)), repeated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# -- precision, recall, density, coverage ----------------------------------------------------------------------------------


def test_manifolds_on_a_line():
    real = np.arange(10.0)[:, None]
    made = np.array([[0.5], [4.5], [40.0], [41.0], [42.0], [43.0]])
    precise, density, recalled, covered = precision_recall.manifolds(real, made)
    assert precise.tolist() == [True, True, False, False, False, False]
    # at k=5 rows 2 to 7 reach 3, rows 1 and 8 reach 4, the ends 5: all hold 4.5, and 0.5 is held by rows 0, 1, 2 and 3
    assert density[:3].tolist() == [4 / 5, 10 / 5, 0]
    assert covered.all()
    assert recalled.all()  # 0.5 reaches 40 (its third neighbour): recall is fooled by strays, coverage is not
    apart = precision_recall.manifolds(real, made + 100)
    assert not apart[0].any() and not apart[3].any() and not apart[1].any()


def test_full_coverage_at_k_5_is_what_the_meaning_says():
    rng = np.random.default_rng(0)
    found = [precision_recall.manifolds(rng.normal(size=(300, 6)), rng.normal(size=(300, 6)))[3].mean() for _ in range(5)]
    assert np.mean(found) == pytest.approx(1 - 0.5**5, abs=0.015)


def test_a_collapsed_generator_has_precision_and_no_recall():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(300, 4)), 0.05 * rng.normal(size=(300, 4))
    precise, _, recalled, covered = precision_recall.manifolds(real, made)
    assert precise.mean() > 0.95 and recalled.mean() < 0.05 and covered.mean() < 0.3


# -- two samples, utility, copying on digits --------------------------------------------------------------------------------


def posed(data, images, labels, seed=0) -> Evidence:
    return Evidence(data, samples={"image": images, "label": labels}, seed=seed)


def independent(batch, seed=0):
    """Every pixel drawn on its own, within the class: the right marginals, no strokes."""
    rng = np.random.default_rng(seed)
    images = batch["image"].clone()
    for label in range(10):
        rows = torch.nonzero(batch["label"] == label)[:, 0].numpy()
        for at in range(64):
            images[rows, 0, at // 8, at % 8] = batch["image"][torch.from_numpy(rng.permutation(rows)), 0, at // 8, at % 8]
    return images


@pytest.fixture()
def quick(monkeypatch):
    """Smaller judges: what is asked of them here does not need more."""
    monkeypatch.setattr(twosample, "TREES", 50)
    monkeypatch.setattr(twosample, "FOLDS", 3)


def test_two_samples_of_one_distribution_cannot_be_told_apart(digits, quick):
    train = digits.train.all()
    found = twosample.measure(posed(digits, train["image"], train["label"]))
    for name in ("C2ST forest", "C2ST convnet"):
        assert found[name].low - 0.05 <= 0.5 <= found[name].high + 0.05, (name, found[name])


@pytest.mark.slow
def test_different_distributions_are_told_apart_by_both_judges(digits, quick):
    train = digits.train.all()
    found = twosample.measure(posed(digits, train["image"].flip(2), train["label"]))
    assert found["C2ST forest"].value > 0.9 and found["C2ST convnet"].value > 0.9


def test_the_convnet_sees_what_the_forest_hardly_does(digits, quick):
    train = digits.train.all()
    found = twosample.measure(posed(digits, independent(train), train["label"]))
    assert found["C2ST convnet"].value > 0.9 and found["C2ST convnet"].value > found["C2ST forest"].value


def test_samples_are_rounded_to_the_datas_grey_levels_before_any_question(digits):
    train = digits.train.all()
    jitter = 0.02 * torch.rand(train["image"].shape, generator=torch.Generator().manual_seed(0)) - 0.01
    assert torch.equal(posed(digits, train["image"] + jitter, train["label"]).samples["image"], train["image"])


def test_copying_flags_a_memoriser_and_passes_real_rows(digits):
    train, held = digits.train.all(), digits.held.all()
    noise = 0.05 * torch.randn(train["image"].shape, generator=torch.Generator().manual_seed(0))
    copier = copying.measure(posed(digits, train["image"] + noise, train["label"]))
    assert copier["NN ratio"].high < 0.4 and copier["copies"].low > 0.99
    honest = copying.measure(posed(digits, held["image"], held["label"]))
    assert honest["NN ratio"].value == pytest.approx(1) and honest["copies"].value < 0.02
    assert honest["NN distance"].value == pytest.approx(1.07, abs=0.02)
    assert copying.measure(posed(digits, train["image"], train["label"]))["NN distance"].value == 0


def test_gan_train_and_gan_test_follow_the_labels(digits):
    train = digits.train.all()
    right = utility.measure(posed(digits, train["image"], train["label"]))
    assert right["GAN-train"].value > 0.97 and right["GAN-test"].value > 0.99
    wrong = utility.measure(posed(digits, train["image"], (train["label"] + 1) % 10))
    assert wrong["GAN-train"].high < 0.05 and wrong["GAN-test"].high < 0.05
    one = train["label"] == 3
    collapsed = utility.measure(posed(digits, train["image"][one], train["label"][one]))
    assert collapsed["GAN-train"].value == pytest.approx(0.1, abs=0.02) and collapsed["GAN-test"].value > 0.97


def test_real_training_rows_have_the_frechet_distance_of_the_yardstick(digits):
    train = digits.train.all()
    evidence = posed(digits, train["image"], train["label"])
    real = frechet.measure(evidence)["FD-mlp128-64"]
    assert real.value == pytest.approx(0.57, abs=0.15) and real.low <= real.value <= real.high
    worse = frechet.measure(posed(digits, independent(train), train["label"]))["FD-mlp128-64"]
    assert real.beats(worse) and not worse.beats(real)
    assert real.signature.network.startswith("mlp128-64@") and "FID" not in str(real.signature)


# -- feature networks -------------------------------------------------------------------------------------------------------


def test_a_feature_network_is_trained_once_and_named_by_its_weights(digits, monkeypatch):
    train = digits.train.all()
    first = posed(digits, train["image"], train["label"])
    name = first.network_name
    monkeypatch.setattr(features, "teach_perceptron", lambda *_: pytest.fail("trained again"))
    assert posed(digits, train["image"], train["label"]).network_name == name
    with torch.no_grad():
        first.network.head.bias[0] += 1
    assert features.name_of(first.kind, first.network) != name


def test_a_damaged_cached_network_is_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images, labels = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    made = features.network("mlp128-64", (1, 4, 4), 3, "key", lambda: (images, labels))
    (saved,) = features.cache().iterdir()
    saved.write_bytes(saved.read_bytes()[:100])
    again = features.network("mlp128-64", (1, 4, 4), 3, "key", lambda: (images, labels))
    assert features.name_of("x", made) == features.name_of("x", again)


def test_larger_and_unlabelled_images_get_their_own_networks():
    assert features.kind_for((1, 8, 8), 10) == "mlp128-64"
    assert features.kind_for((3, 32, 32), 10) == "convnet64"
    assert features.kind_for((3, 32, 32), 0) == "randconv"
    before = torch.random.get_rng_state()
    for shape in [(1, 17, 17), (3, 40, 56), (3, 8, 30)]:
        images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
        for net in (features.Convnet(shape, 3), features.network("randconv", shape, 0, "key", lambda: pytest.fail("asked"))):
            found = features.apply(net, images)
            assert found.shape == (6, net.num_features) and np.isfinite(found).all()
    random = features.network("randconv", (3, 20, 20), 0, "key", lambda: pytest.fail("asked"))
    torch.random.set_rng_state(before)
    assert features.name_of("r", random) == features.name_of("r", features.network("randconv", (3, 20, 20), 0, "k", lambda: None))
    assert "weak" in meaning("FD-randconv")


def test_the_convnet_learns_and_repeats_itself_exactly():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 2
    images = torch.rand(300, 1, 20, 20, generator=g)
    images[labels == 1, :, :, :10] *= 0.7  # darker on the left

    def learnt():
        with features.seeded(0):
            return features.teach(features.Convnet((1, 20, 20), 2), images[:200], labels[:200], steps=60)

    net = learnt()
    right = features.apply(lambda x: net.head(net(x)), images[200:]).argmax(1) == labels[200:].numpy()
    assert right.mean() > 0.95
    assert features.name_of("c", learnt()) == features.name_of("c", net)


# -- systems whose truth is known -------------------------------------------------------------------------------------------


class Coins(Objective):
    """Each pixel of a two-level image is 1 with chance `rates[label]`: its likelihood is known in closed form."""

    bound = "exact"

    def __init__(self, rates):
        super().__init__()
        self.register_buffer("rates", torch.tensor(rates))

    @phase("main")
    def fit(self, system, batch, rng, step):
        return system.nets["main"](torch.zeros(1, 1)).sum(), {}

    def score(self, system, batch, rng):
        ones = system.encode(batch).flatten(1).gt(0).sum(1)
        rate = self.rates[batch["label"]]
        return -(ones * rate.log() + (4 - ones) * (1 - rate).log())


class Noisy(Coins):
    """The same under a random bound that lies above the truth by 1 nat on average; tighter by importance sampling."""

    bound = "ELBO"

    def score(self, system, batch, rng):
        return super().score(system, batch, rng) + 1 + rng.normal()

    def importance(self, system, batch, rng, samples):
        return super().score(system, batch, rng) + 1 / samples


class Flips:
    """Draws what `Coins` knows, and something of torch's global randomness, as an uncareful sampler would."""

    def draw(self, system, n, *, start=None, cond=None, null=None, rng):
        torch.rand(3), np.random.rand(3), random.random()
        rate = cond.vector @ system.objective.rates if cond is not None else torch.full((n,), 0.5)
        yield (rng.uniform(1, 2, 2) < rate[:, None, None, None]).float() * 2 - 1


def coin_data(n=400):
    rng = np.random.default_rng(0)
    labels = (rng.random(n) < 0.25).astype(np.int64)
    images = rng.random((n, 1, 2, 2)) < np.array([0.2, 0.9])[labels][:, None, None, None]
    images = images.astype(np.float32)
    half = n // 2
    return Evidence.of_arrays((images[:half], labels[:half]), (images[half:], labels[half:]), (images, labels), levels=2).data


def coin_system(objective, conditioned=True):
    return System({"main": nn.Linear(1, 1)}, objective, Flips(), Pixels(2), Labels((0.75, 0.25)) if conditioned else None)


def test_the_unlabelled_likelihood_is_the_exact_mixture():
    data = coin_data()
    found = nats.measure(Evidence(data, coin_system(Coins([0.2, 0.9]))))
    ones = data.held.all()["image"].flatten(1).sum(1).double()
    given = [rate**ones * (1 - rate) ** (4 - ones) for rate in (0.2, 0.9)]
    true = -torch.log2(0.75 * given[0] + 0.25 * given[1]).mean() / 4
    assert found["bits/dim"].value == pytest.approx(float(true), rel=1e-6)
    label = data.held.all()["label"]
    told = -torch.log2(torch.where(label == 0, given[0], given[1])).mean() / 4
    assert found["bits/dim given label"].value == pytest.approx(float(told), rel=1e-6)
    assert dict(found["bits/dim"].signature.options)["condition"] == "summed out"


def test_precision_is_part_of_the_signature():
    evidence = Evidence(coin_data(), coin_system(Coins([0.2, 0.9])))
    plain = nats.measure(evidence)["bits/dim"]
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UnlikeSignatures, match=r"precision: float32 vs bfloat16$"):
        compare(plain, nats.measure(evidence)["bits/dim"])


def test_the_mixture_sums_to_one_over_all_images():
    every = torch.tensor([[i >> b & 1 for b in range(4)] for i in range(16)]).float().reshape(16, 1, 2, 2)
    system = coin_system(Coins([0.2, 0.9]))
    each = [system.objective.score(system, {"image": every, "label": torch.full((16,), y)}, None) for y in (0, 1)]
    assert float((-nats.mixture(each, [math.log(0.75), math.log(0.25)])).exp().sum()) == pytest.approx(1)


def test_a_random_bound_pays_for_the_label_and_is_never_flattered():
    data = coin_data()
    exact = nats.measure(Evidence(data, coin_system(Coins([0.2, 0.9]))))
    found = nats.measure(Evidence(data, coin_system(Noisy([0.2, 0.9]))))
    one = 1 / (4 * math.log(2))
    assert found["bits/dim given label"].value == pytest.approx(exact["bits/dim given label"].value + one, abs=0.05)
    assert found["bits/dim"].value > exact["bits/dim"].value + one - 0.05
    better = found["bits/dim IWAE-100 given label"].value
    assert better == pytest.approx(exact["bits/dim given label"].value + one / 100, rel=1e-5)
    with pytest.raises(UnlikeSignatures, match="bound: exact vs ELBO"):
        compare(exact["bits/dim given label"], found["bits/dim given label"])


def test_the_dear_bound_is_judged_by_some_rows_from_everywhere(monkeypatch):
    monkeypatch.setattr(nats, "MOST_ROWS", 10)
    evidence = Evidence(coin_data(), coin_system(Noisy([0.2, 0.9])))
    rows = len(evidence.held["label"])
    found = nats.measure(evidence)
    assert found["bits/dim IWAE-100 given label"].n == 10 < rows == found["bits/dim given label"].n
    seen: list[torch.Tensor] = []
    nats.bits(evidence, lambda s, batch, r: seen.append(batch["label"]) or batch["label"].double(), "ELBO", "x", 1, 10)
    assert torch.equal(seen[0], evidence.held["label"][torch.arange(10) * rows // 10])
    monkeypatch.setattr(nats, "MOST_SUMS", 24)  # a sum over two labels, of twelve rows
    exact = nats.measure(Evidence(coin_data(), coin_system(Coins([0.2, 0.9]))))
    assert exact["bits/dim"].n == 12 and exact["bits/dim given label"].n == rows


def test_a_row_scores_the_same_in_any_batch(monkeypatch):
    data = coin_data()
    whole = nats.measure(Evidence(data, coin_system(Noisy([0.2, 0.9]))))["bits/dim"]
    monkeypatch.setattr(nats, "BATCH", 7)
    assert nats.measure(Evidence(data, coin_system(Noisy([0.2, 0.9]))))["bits/dim"].value == pytest.approx(whole.value, rel=1e-9)


def test_evaluate_leaves_no_trace_and_counts_sampling_apart():
    data, system = coin_data(), coin_system(Coins([0.2, 0.9]))
    system.train()
    system.nets["main"].eval()
    modes = {name: module.training for name, module in system.named_modules()}
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    told: list = []
    found = evaluate(system, data, n=60, only=["nats", "copying"], progress=lambda name, share: told.append((name, share)))
    assert torch.equal(before[0], torch.random.get_rng_state()) and before[2] == random.getstate()
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert modes == {name: module.training for name, module in system.named_modules()}
    assert found["metrics"]["NN distance"].n == 60 and found["metrics"]["bits/dim"].n == 200
    assert found["sampling_seconds"] > 0 and found["samples_per_second"] > 0
    assert [name for name, _ in told] == ["nats", "copying", "done"] and told[-1][1] == 1
    again = evaluate(system, data, n=60, only=["nats", "copying"])
    assert again["metrics"] == found["metrics"]


def test_no_sample_is_drawn_for_questions_that_need_none(monkeypatch):
    system = coin_system(Coins([0.2, 0.9]))
    monkeypatch.setattr(System, "sample", lambda *_, **__: pytest.fail("sampled"))
    assert evaluate(system, coin_data(), only="nats")["samples_per_second"] is None


def test_labels_asked_for_follow_the_training_rows():
    data = coin_data()
    evidence = Evidence(data, coin_system(Coins([0.2, 0.9])))
    assert evidence.n == 200
    assert torch.equal(evidence.samples["label"].bincount(), data.train.all()["label"].bincount())
    longer = Evidence(data, coin_system(Coins([0.2, 0.9])), n=450)
    assert len(longer.samples["label"]) == 450 and longer.samples["image"].unique().tolist() == [0, 1]


def test_what_does_not_apply_says_why():
    found = evaluate(coin_system(Coins([0.2, 0.9]), conditioned=False), coin_data(), n=20, only=["utility", "bytes"])
    assert found["skipped"]["utility"] == "the samples were not drawn for a label"
    assert found["skipped"]["bytes"] == "the data are not text"


def test_samples_that_cannot_be_judged_are_named_not_scored(digits):
    train = digits.train.all()
    images = train["image"].clone()
    images[:3] = math.nan
    found = judge(posed(digits, images, train["label"]), choose(["copying"]))
    assert found["skipped"]["copying"] == "3 of 1437 samples are not finite" and not found["metrics"]
    with pytest.raises(UnfitSamples, match=r"\(1, 4, 4\), the data \(1, 8, 8\)"):
        _ = posed(digits, images[:, :, :4, :4], train["label"]).samples


def test_bad_names_and_numbers_are_refused_with_the_nearest(digits):
    with pytest.raises(
        ValueError, match=r"unknown metric 'frechett'; allowed: adherence, bytes, captions,.*did you mean 'frechet'"
    ):
        choose(["frechett"])
    with pytest.raises(ValueError, match="n is 5; at least 20"):
        evaluate(coin_system(Coins([0.2, 0.9])), coin_data(), n=5)
    with pytest.raises(ValueError, match="needs a system or samples"):
        Evidence(digits)


def test_the_folder_is_the_registry_and_every_figure_has_a_meaning(digits):
    every = (
        "adherence bytes captions cloze copying disentanglement exact frechet groundedness identity infilling naming "
        "nats passing precision_recall preferred principled reconstruction repaired restoration retrieval shots solved "
        "summary testing translation truth twosample utility winning"
    )
    assert set(all_metrics()) == {*every.split()}
    train = digits.train.all()
    cheap = choose(["copying", "frechet", "precision_recall", "utility"])
    figures = judge(posed(digits, train["image"], train["label"]), cheap)["metrics"]
    assert all(meaning(name) for name in [*figures, "C2ST forest", "bits/byte", "bits/dim IWAE-100 given label"])
    assert meaning("bits/dim IWAE-100") != meaning("bits/dim") and meaning("nonsense") == ""


# -- text -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "window"), [(1, 8), (7, 8), (8, 8), (9, 8), (29, 8), (32, 8), (30, 7), (10, 1)])
def test_windows_score_every_position_once_with_half_a_window_of_context(length, window):
    seen = []
    for first, given in bytes.windows(length, window):
        assert first >= 0 and given >= (0 if first == 0 else window - max(1, window // 2))
        seen += range(first + given, min(length, first + window))
    assert seen == list(range(length))


class Bigram(Objective):
    """A chain whose next token equals the last with chance .9 of two: the first of a text costs 1 bit."""

    bound = "exact"

    @phase("main")
    def fit(self, system, batch, rng, step):
        return system.nets["main"](torch.zeros(1, 1)).sum(), {}

    def score(self, system, batch, rng):
        code, given = batch["code"], batch["given"]
        same = code[:, 1:] == code[:, :-1]
        first = torch.full_like(given, math.log(2), dtype=torch.double)[:, None]
        each = torch.cat([first, -torch.where(same, 0.9, 0.1).double().log()], 1)
        return (each * (torch.arange(code.shape[1]) >= given[:, None])).sum(1)


def test_bits_per_byte_of_a_known_chain_does_not_depend_on_the_windows():
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(np.cumsum(rng.random(997) < 0.1) % 2).int()
    same = int((tokens[1:] == tokens[:-1]).sum())
    true = (1 - same * math.log2(0.9) - (996 - same) * math.log2(0.1)) / 2000
    data = coin_data()
    system = coin_system(Bigram(), conditioned=False)
    for window in (10, 64, 2000):
        evidence = Evidence(data, system)
        held = evidence.data.splits["held"]
        held.tokens, held.bytes, held.length = tokens, 2000, window
        found = bytes.measure(evidence)["bits/byte"]
        assert found.value == pytest.approx(true, rel=1e-6) and found.low < true < found.high


def test_rows_that_come_again_do_not_shrink_the_reference():
    rows = np.random.default_rng(0).normal(size=(60, 3))
    again = np.concatenate([rows] * 6)
    assert np.array_equal(precision_recall.distinct(again), rows)
    near = rows + 0.01
    assert precision_recall.manifolds(again, near)[0].mean() == 0  # what copies do
    assert precision_recall.manifolds(precision_recall.distinct(again), near)[0].mean() == 1
