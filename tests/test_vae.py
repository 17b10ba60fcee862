"""Variational autoencoders: bounds against exact likelihoods, closed forms against Monte Carlo, and what training does."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from maquette.codecs.autoencoder import KLCodec
from maquette.codecs.pixels import Pixels
from maquette.contracts import Network
from maquette.data.mixtures import density
from maquette.experiment import Fit
from maquette.metrics import truth
from maquette.metrics.evidence import Evidence
from maquette.networks.resnet import ResNetDecoder, ResNetEncoder
from maquette.nn.densities import Categorical, LogisticMixture, Normal, grey, normal_colour, normal_kl, normal_nats, normal_whiten
from maquette.objectives.reconstruction import Reconstruction
from maquette.recipes.autoencoders import vae
from maquette.samplers.decode import Decode
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run

SIGMA, D = 0.3, 3


class GaussianPixels:
    """A likelihood whose truth is known: x ~ N(params, SIGMA^2)."""

    def width(self, channels: int) -> int:
        return channels

    def nats(self, x: Tensor, params: Tensor) -> Tensor:
        each = 0.5 * ((x - params) / SIGMA).square() + math.log(SIGMA) + 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def draw(self, params: Tensor, rng: Streams) -> Tensor:
        return params + SIGMA * rng.normal(*params.shape[1:])

    def mean(self, params: Tensor) -> Tensor:
        return params


class Linear(Network):
    """x W^T + b, reshaped."""

    def __init__(self, weight: Tensor, bias: Tensor, shape: tuple[int, ...]):
        super().__init__()
        self.weight, self.bias, self.shape = nn.Parameter(weight), nn.Parameter(bias), shape

    def forward(self, x, *, t=None, cond=None, state=None):
        return (x.flatten(1) @ self.weight.T + self.bias).reshape(-1, *self.shape)


class Fixed(Network):
    """The same prior moments [2+D,D] for all."""

    def __init__(self, moments: Tensor):
        super().__init__()
        self.moments = nn.Parameter(moments)

    def forward(self, x, *, t=None, cond=None, state=None):
        return self.moments.expand(len(x), -1, -1)


def linear_gaussian(looser: float, moments: Tensor | None = None) -> tuple[System, Tensor, Tensor]:
    """A linear-Gaussian VAE on 1x2x3 images, its data [64,1,2,3], and their exact -log p in nats.

    The columns of W are orthogonal, so under a standard normal prior the true posterior is diagonal and the encoder is exact
    but for `looser`, added to its log-variance.
    """
    torch.manual_seed(0)
    columns, _ = torch.linalg.qr(torch.randn(6, D))
    w = columns * torch.tensor([2.0, 1.0, 0.5])
    precision = 1 + (w**2).sum(0) / SIGMA**2
    encoder = Linear(
        torch.cat([w.T / SIGMA**2 / precision[:, None], torch.zeros(D, 6)]),
        torch.cat([torch.zeros(D), -precision.log() + looser]),
        (2 * D,),
    )
    codec = KLCodec(encoder, Linear(w, torch.zeros(6), (1, 2, 3)), GaussianPixels())
    moments = torch.zeros(2, D) if moments is None else moments
    system = System({"codec": codec, "prior": Fixed(moments)}, Reconstruction(draws=64), Decode(), Pixels()).eval()
    mean = moments[0]
    lean = moments[2:].tril(-1) if len(moments) > 2 else torch.zeros(D, D)
    root = torch.diag((0.5 * moments[1]).exp()) @ torch.linalg.inv(torch.eye(D) + lean)
    truth = torch.distributions.MultivariateNormal(w @ mean, w @ root @ root.T @ w.T + SIGMA**2 * torch.eye(6))
    x = truth.sample((64,))
    return system, x.reshape(64, 1, 2, 3), -truth.log_prob(x)


def test_exact_posterior_makes_the_bounds_exact():
    system, x, nats = linear_gaussian(looser=0.0)
    one = system.objective.importance(system, {"code": x}, Streams.of(0, 64), samples=1)
    torch.testing.assert_close(one, nats, atol=1e-3, rtol=1e-4)
    assert abs(float(system.objective.score(system, {"code": x}, Streams.of(0, 64)).mean() - nats.mean())) < 0.05


@pytest.mark.parametrize("full", [False, True])
def test_bounds_lie_above_the_truth_and_importance_falls_towards_it(full):
    torch.manual_seed(1)
    moments = torch.cat([torch.randn(2, D) * 0.3, torch.randn(D, D)]) if full else None
    system, x, nats = linear_gaussian(looser=0.5 if full else 1.0, moments=moments)
    o, exact = system.objective, float(nats.mean())
    elbo = float(o.score(system, {"code": x}, Streams.of(0, 64)).mean())
    tightening = [float(o.importance(system, {"code": x}, Streams.of(k, 64), samples=k).mean()) for k in (2, 16, 256)]
    assert elbo > tightening[0] > tightening[1] > tightening[2] > exact - 0.05
    assert elbo - exact > 0.2 and tightening[2] - exact < 0.1


@pytest.mark.parametrize("rows", [2, 2 + 4])
def test_closed_form_kl_is_the_monte_carlo_kl(rows):
    torch.manual_seed(2)
    mean, logvar, moments = torch.randn(3, 4), torch.randn(3, 4) * 0.5, torch.randn(3, rows, 4) * 0.7
    n = 40_000
    posterior = torch.stack([mean, logvar], 1)
    z = torch.cat([normal_colour(torch.randn(n, 4), posterior[i : i + 1].expand(n, -1, -1)) for i in range(3)])
    wide = [m.repeat_interleave(n, 0) for m in (posterior, moments)]
    found = (normal_nats(z, wide[1]) - normal_nats(z, wide[0])).reshape(3, n)
    closed = normal_kl(mean, logvar, moments)
    assert bool(((found.mean(1) - closed).abs() < 5 * found.std(1) / n**0.5).all())
    unit = torch.randn(3, 4)
    torch.testing.assert_close(normal_whiten(normal_colour(unit, moments), moments), unit, atol=1e-4, rtol=1e-4)


def test_the_normal_likelihood_is_torchs():
    torch.manual_seed(4)
    params, x, likelihood = torch.randn(2, 6), torch.randn(2, 3), Normal()
    exact = torch.distributions.Normal(params[:, :3], params[:, 3:].exp())
    torch.testing.assert_close(likelihood.nats(x, params), -exact.log_prob(x).sum(1))
    drawn = likelihood.draw(params.expand(1, 2, 6)[0][:1].expand(20_000, -1), Streams.of(0, 20_000))
    assert float((drawn.mean(0) - params[0, :3]).abs().max()) < 0.1 and likelihood.width(3) == 6
    assert torch.equal(likelihood.mean(params), params[:, :3])


KINDS = [(Categorical(5), 1), (LogisticMixture(6, 3), 1), (LogisticMixture(4, 3), 3)]


@pytest.mark.parametrize(("likelihood", "channels"), KINDS)
def test_likelihoods_sum_to_one_and_draw_what_they_say(likelihood, channels):
    torch.manual_seed(3)
    levels, n = likelihood.levels, 20_000
    params = torch.randn(1, likelihood.width(channels), 1, 1)
    values = torch.linspace(-1, 1, levels)
    every = torch.tensor(list(itertools.product(values.tolist(), repeat=channels)))[..., None, None]
    p = (-likelihood.nats(every, params.expand(len(every), -1, -1, -1))).exp()
    assert abs(float(p.sum()) - 1) < 1e-4
    drawn = likelihood.draw(params.expand(n, -1, -1, -1), Streams.of(0, n)).flatten(1)
    index = ((drawn + 1) / 2 * (levels - 1)).round().long()
    place = (index * levels ** torch.arange(channels - 1, -1, -1)).sum(1)
    share = torch.bincount(place, minlength=len(p)) / n
    assert float((share - p).abs().max()) < 0.02


def test_grey_chooses_by_the_number_of_levels():
    assert isinstance(grey(17), Categorical) and isinstance(grey(256), LogisticMixture)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (1, 28, 28), (3, 32, 20)])
@pytest.mark.parametrize("fold", [1, 2])
def test_encoder_and_decoder_fit_any_size(shape, fold):
    x = torch.zeros(2, *shape)
    z = ResNetEncoder(shape, 6, 8, fold=fold)(x)
    assert z.shape == (2, 6) and ResNetDecoder(6, shape, 8, fold=fold)(z).shape == x.shape


def fitted(steps: int, batch: int = 48, **how):
    torch.manual_seed(0)
    found = vae(**how)
    progress = Progress(Fit(steps=steps, batch=batch, lr=8e-3, weight_decay=0.3))
    logs = [logs for logs in run(found.system, found.data, progress)]
    return found.system.eval(), found.data, logs


@pytest.fixture(scope="module")
def digits():
    return fitted(170, dropout=0.1)


def test_trained_bounds_are_ordered_and_beat_a_count_model(digits):
    system, data, _ = digits
    held = data.held.rows(torch.arange(120))
    bits = 1 / (64 * math.log(2))
    elbo = float(system.objective.score(system, held, Streams.of(0, 120)).mean()) * bits
    several = float(system.objective.importance(system, held, Streams.of(1, 120), samples=20).mean()) * bits
    assert several < elbo < 2.15  # position-and-context counts: 2.34; autoregressive logistic regression: 2.23
    assert int(system.objective.active_units(system, held).sum()) >= 4


def test_samples_obey_their_label_and_lie_on_the_grey_levels(digits):
    system, data, _ = digits
    train = data.train.all()
    centres = torch.stack([train["image"][train["label"] == c].mean(0).flatten() for c in range(10)])
    label = torch.arange(10).repeat(20)
    image = system.sample(200, about={"label": label}, seed=3)["image"]
    assert torch.equal(image, (image * 16).round() / 16)
    obeyed = (torch.cdist(image.flatten(1), centres).argmin(1) == label).float().mean()
    assert float(obeyed) > 0.4  # chance is 0.1; nearest centres know 0.9 of real digits
    other = system.sample(200, about={"label": (label + 1) % 10}, seed=3)["image"]
    assert not torch.equal(image, other)


def test_sampler_dials(digits):
    system, _, _ = digits
    about = {"label": torch.full((30,), 3)}
    still = system.sample(30, about=about, sampler=Decode(temperature=0.0, pixels="mean"))["image"]
    assert torch.equal(still, still[:1].expand_as(still))
    wide, narrow = (system.sample(30, about=about, sampler=Decode(t, "mean"))["image"].std(0).mean() for t in (1.0, 0.3))
    assert float(wide) > 1.5 * float(narrow)
    z = torch.zeros(2, 16)
    from_latent = system.sample(2, about={"label": torch.tensor([0, 9])}, start=z, sampler=Decode(pixels="mean"))["image"]
    assert torch.equal(from_latent[0], from_latent[1])  # the label reaches the prior alone


def test_codec_rebuilds_what_it_encodes(digits):
    system, data, _ = digits
    x = system.encode(data.held.rows(torch.arange(100)))
    codec = system.steady("codec")
    again = codec.decode(codec.encode(x))
    assert float((again - x).square().mean()) < 0.5 * float((x.mean(0) - x).square().mean())


def test_beta_trades_rate_for_distortion():
    rates = []
    for beta in (0.1, 8.0):
        _, _, logs = fitted(30, 32, beta=beta, dropout=0.0)
        rates.append(float(torch.stack([entry["rebuild/rate"] for entry in logs[-10:]]).mean()))
    assert rates[0] > 3 * rates[1]


def test_the_bound_on_points_lies_between_the_truth_and_one_gaussian():
    """250 steps leave much to learn (2.56 nats above the truth); a Gaussian of the data's own covariance is at 3.10."""
    torch.manual_seed(0)
    found = vae(data="ring", latent=2, dropout=0.0)
    for _ in run(found.system, found.data, Progress(Fit(steps=250, batch=256, lr=5e-3))):
        pass
    points, exact = found.data.held.all()["point"].double(), density("ring")
    one = torch.distributions.MultivariateNormal(points.mean(0), points.T.cov())
    gaussian = float((exact.log_density(points) - one.log_prob(points)).mean())
    above = truth._likelihood(Evidence(found.data, found.system), exact)["nats above truth"]
    assert above.low > 0 and above.high < gaussian - 0.4


@pytest.mark.parametrize("how", [{"depth": 0}, {"latent": 0}, {"beta": -1.0}, {"beta": float("nan")}])
def test_bad_arguments_are_named(how):
    with pytest.raises(ValueError, match=next(iter(how))):
        vae(**how)


def test_data_without_labels_has_one_prior_that_nothing_trains(tmp_path):
    from PIL import Image

    for i in range(12):
        Image.fromarray((Streams.of(i, 1).uniform(8, 8)[0] * 255).byte().numpy()).save(tmp_path / f"{i}.png")
    found = vae(data=str(tmp_path), latent=4)
    logs = [logs for logs in run(found.system, found.data, Progress(Fit(steps=2, batch=4)))]
    assert len(logs) == 2 and found.system.sample(2)["image"].shape == (2, 1, 8, 8)


def test_bad_dials_are_named():
    with pytest.raises(ValueError, match="temperature"):
        Decode(temperature=-1)
    with pytest.raises(ValueError, match="'mode'"):
        Decode(pixels="mode")
    with pytest.raises(ValueError, match="samples"):
        system, x, _ = linear_gaussian(0.0)
        system.objective.importance(system, {"code": x}, Streams.of(0, 64), samples=0)
