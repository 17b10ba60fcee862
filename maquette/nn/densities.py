"""Likelihoods of grey levels and of Gaussian latents, as functions of what a network put out. Knows no network and no training.

A likelihood here turns parameters [B,P,H,W] into nats, draws and means of images [B,C,H,W] in -1..1 on `levels` grey levels.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.streams import Streams


class Likelihood(Protocol):
    """What an image decoder may end in. P parameters per pixel for C channels."""

    def width(self, channels: int) -> int:
        """P, the parameters per pixel."""

    def nats(self, x: Tensor, params: Tensor) -> Tensor:
        """-log p(x | params) [B], summed over channels and pixels; x [B,C,H,W] lies on the grey levels."""

    def draw(self, params: Tensor, rng: Streams) -> Tensor:
        """One image per row [B,C,H,W], on the grey levels."""

    def mean(self, params: Tensor) -> Tensor:
        """The expected image [B,C,H,W]; not rounded."""


class Levelled(Likelihood, Protocol):
    """A likelihood on grey levels, which can be asked channel by channel."""

    def each(self, x: Tensor, params: Tensor) -> Tensor:
        """Logits [B,C,levels,H,W] of each channel given the channels of x [B,C,H,W] before it: the chain rule of `nats`."""


class Categorical:
    """A softmax over the grey levels of every pixel and channel: no shape assumed, P = C * levels (van den Oord 2016, sec. 3.1).

    Args:
        levels: distinct values per channel.
    """

    def __init__(self, levels: int):
        self.levels = levels

    def width(self, channels: int) -> int:
        return channels * self.levels

    def _logits(self, params: Tensor) -> Tensor:
        """[B, C * levels, H, W] -> float32[B, levels, C, H, W]."""
        return params.float().unflatten(1, (-1, self.levels)).transpose(1, 2)

    def nats(self, x: Tensor, params: Tensor) -> Tensor:
        level = ((x.float() + 1) / 2 * (self.levels - 1)).round().long()
        return F.cross_entropy(self._logits(params), level, reduction="none").flatten(1).sum(1)

    def draw(self, params: Tensor, rng: Streams) -> Tensor:
        return rng.choose(self._logits(params).movedim(1, -1)).float() * (2 / (self.levels - 1)) - 1

    def mean(self, params: Tensor) -> Tensor:
        value = torch.linspace(-1, 1, self.levels, device=params.device)
        return torch.einsum("bvchw,v->bchw", self._logits(params).softmax(1), value)

    def each(self, x: Tensor, params: Tensor) -> Tensor:
        """The parameters as they are: what a channel sees of the others is the network's to say."""
        return params.unflatten(1, (-1, self.levels))


class LogisticMixture:
    """A mixture of discretised logistics per pixel; later channels lean linearly on earlier ones (Salimans 2017, PixelCNN++).

    Args:
        levels: distinct values per channel; the first and the last take the tails.
        parts: logistics in the mixture.
    """

    def __init__(self, levels: int, parts: int = 5):
        self.levels, self.parts = levels, parts

    def width(self, channels: int) -> int:
        return self.parts * (1 + 2 * channels + channels * (channels - 1) // 2)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log-weights [B,K,H,W], means [B,K,C,H,W], log-scales [B,K,C,H,W], leanings [B,K,C,C,H,W] (strictly lower triangle)."""
        each = params.float().unflatten(1, (self.parts, -1))
        channels = next(c for c in range(1, 100) if self.width(c) == params.shape[1])
        weight, mean, scale, lean = each.split([1, channels, channels, each.shape[2] - 1 - 2 * channels], 2)
        rows, columns = torch.tril_indices(channels, channels, -1)
        square = each.new_zeros(*each.shape[:2], channels, channels, *each.shape[3:])
        square[:, :, rows, columns] = lean.tanh()
        return weight[:, :, 0].log_softmax(1), mean, scale.clamp(-7, 5), square

    def nats(self, x: Tensor, params: Tensor) -> Tensor:
        weight, mean, scale, lean = self._split(params)
        x = x.float()[:, None]  # [B,1,C,H,W]
        away, half = x - mean - torch.einsum("bkcdhw,bkdhw->bkchw", lean, x.expand_as(mean)), 1 / (self.levels - 1)
        high, low = (away + half) * (-scale).exp(), (away - half) * (-scale).exp()
        inside = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1((low - high).clamp(max=-1e-6)))
        log = torch.where(x < -1 + half, F.logsigmoid(high), torch.where(x > 1 - half, F.logsigmoid(-low), inside))
        return -(weight + log.sum(2)).logsumexp(1).flatten(1).sum(1)

    def each(self, x: Tensor, params: Tensor) -> Tensor:
        """A channel's logits are of the mixture weighed by how well its parts foresaw the channels before it."""
        weight, mean, scale, lean = self._split(params)
        found = []
        for c in range(mean.shape[2]):
            at = mean[:, :, c] + torch.einsum("bkdhw,bdhw->bkhw", lean[:, :, c, :c], x[:, :c].float())
            log = self._bins(at, scale[:, :, c])  # [B,K,levels,H,W]
            found.append((weight[:, :, None] + log).logsumexp(1))
            level = ((x[:, c].float() + 1) / 2 * (self.levels - 1)).round().long()[:, None, None]
            weight = weight + log.gather(2, level.expand(-1, self.parts, -1, -1, -1))[:, :, 0]
            weight = weight.log_softmax(1)
        return torch.stack(found, 1)

    def _bins(self, at: Tensor, scale: Tensor) -> Tensor:
        """Log-probability of every level under logistics of means and log-scales [B,K,H,W]: [B,K,levels,H,W]."""
        edge = torch.arange(1, 2 * self.levels - 2, 2, device=at.device) / (self.levels - 1) - 1
        z = (edge[:, None, None] - at[:, :, None]) * (-scale[:, :, None]).exp()  # at the edges between levels
        below = F.logsigmoid(z)
        above = below - z
        gap = torch.log(-torch.expm1(-2 / (self.levels - 1) * (-scale[:, :, None]).exp()))
        return torch.cat([below[:, :, :1], below[:, :, 1:] + above[:, :, :-1] + gap, above[:, :, -1:]], 2)

    def spread(self, channels: int) -> Tensor:
        """Parameters [P] to begin with: parts apart, so that they can learn apart."""
        rest = torch.zeros(self.parts, channels * (channels - 1) // 2)
        mean = torch.linspace(-1, 1, self.parts + 2)[1:-1, None].expand(-1, channels)
        return torch.cat([torch.zeros(self.parts, 1), mean, torch.full_like(mean, -1.0), rest], 1).flatten()

    def draw(self, params: Tensor, rng: Streams) -> Tensor:
        weight, mean, scale, lean = self._split(params)
        part = rng.choose(weight.movedim(1, -1))[:, None]  # [B,1,H,W]
        uniform = rng.uniform(*mean.shape[2:])
        noise = uniform.log() - (-uniform).log1p()  # standard logistic
        image: list[Tensor] = []
        for c in range(mean.shape[2]):
            at, spread = mean[:, :, c].gather(1, part)[:, 0], scale[:, :, c].gather(1, part)[:, 0].exp()
            for d, earlier in enumerate(image):
                at = at + lean[:, :, c, d].gather(1, part)[:, 0] * earlier
            level = ((at + spread * noise[:, c] + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1)
            image.append(level * (2 / (self.levels - 1)) - 1)
        return torch.stack(image, 1)

    def mean(self, params: Tensor) -> Tensor:
        weight, mean, _, lean = self._split(params)
        share = weight.exp()
        image: list[Tensor] = []
        for c in range(mean.shape[2]):
            at = (share * mean[:, :, c]).sum(1)
            for d, earlier in enumerate(image):
                at = at + (share * lean[:, :, c, d]).sum(1) * earlier
            image.append(at.clamp(-1, 1))
        return torch.stack(image, 1)


class Absolute:
    """Real numbers, each with a Laplace density around its own mean, all of one width: absolute errors, P = C.

    What a decoder learns from fastest where its codes leave little in doubt.

    Args:
        scale: the mean absolute error.
        levels: distinct values in -1..1, whose probabilities are the density's mass nearest to each; 0 = real numbers. (The mass
            beyond -1 and 1 belongs to none, so that nats bound those of the density that is cut off there.)
    """

    def __init__(self, scale: float = 1.0, levels: int = 0):
        self.scale, self.levels = scale, levels

    def width(self, channels: int) -> int:
        return channels

    def nats(self, x: Tensor, params: Tensor) -> Tensor:
        away = (x - params.float()).abs() / self.scale
        if not self.levels:
            return (away + math.log(2 * self.scale)).flatten(1).sum(1)
        half = 1 / (self.levels - 1) / self.scale  # of a level, in scales
        near = away.clamp(max=half)
        within = -(-((near - half).exp() + (-near - half).exp()) / 2).log1p()
        beyond = away - half - math.log(-math.expm1(-2 * half) / 2)
        return torch.where(away > half, beyond, within).flatten(1).sum(1)

    def draw(self, params: Tensor, rng: Streams) -> Tensor:
        away = rng.uniform(*params.shape[1:]) - 0.5
        return params.float() - self.scale * away.sign() * (-2 * away.abs()).log1p()

    def mean(self, params: Tensor) -> Tensor:
        return params


class Normal:
    """Real numbers, each with a Gaussian of its own mean and width: x [B,C,*S], params [B, 2 C, *S]."""

    def width(self, channels: int) -> int:
        return 2 * channels

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-deviations [B,C,*S]."""
        mean, scale = params.float().chunk(2, 1)
        return mean, scale.clamp(-7, 5)

    def nats(self, x: Tensor, params: Tensor) -> Tensor:
        mean, scale = self._split(params)
        each = 0.5 * ((x - mean) * (-scale).exp()).square() + scale + 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def draw(self, params: Tensor, rng: Streams) -> Tensor:
        mean, scale = self._split(params)
        return mean + scale.exp() * rng.normal(*mean.shape[1:])

    def mean(self, params: Tensor) -> Tensor:
        return self._split(params)[0]


def grey(levels: int) -> Levelled:
    """The likelihood for images of `levels` grey levels: a softmax while they are few (<= 32), else a logistic mixture."""
    return Categorical(levels) if levels <= 32 else LogisticMixture(levels, parts=10)


# Moments of a latent z [B,D,*S]: [B,2,D,*S] holds the mean and log-variance of each element; a flat latent's may be
# [B,2+D,D], whose other rows N (strictly lower triangle) make the elements lean on each other:
# (I + N) (z - mean) e^(-logvar / 2) is standard normal.


def normal_whiten(z: Tensor, moments: Tensor) -> Tensor:
    """The standard normal that stands for z [B,D,*S] under its moments, of the same shape."""
    mean, logvar, lean = _moments(moments)
    unit = (z - mean) * (-0.5 * logvar).exp()
    return unit if lean is None else unit + (lean @ unit[:, :, None])[..., 0]


def normal_colour(unit: Tensor, moments: Tensor) -> Tensor:
    """The inverse: z [B,D,*S] from a standard normal."""
    mean, logvar, lean = _moments(moments)
    if lean is not None:
        square = lean + torch.eye(lean.shape[1], device=lean.device)
        unit = torch.linalg.solve_triangular(square, unit[:, :, None], upper=False, unitriangular=True)[..., 0]
    return mean + (0.5 * logvar).exp() * unit


def normal_nats(z: Tensor, moments: Tensor) -> Tensor:
    """-log N(z; moments) in nats [B]."""
    return 0.5 * (math.log(2 * math.pi) + moments[:, 1] + normal_whiten(z, moments).square()).flatten(1).sum(1)


def normal_kl(mean: Tensor, logvar: Tensor, moments: Tensor) -> Tensor:
    """KL(N(mean, e^logvar) || N(moments)) in nats [B], in closed form (Kingma & Welling 2014, app. B)."""
    _, spread, lean = _moments(moments)
    reach = 1 if lean is None else 1 + lean.square().sum(1)  # squared length of each column of I + N
    inside = (logvar - spread).exp() * reach + normal_whiten(mean, moments).square()
    return 0.5 * (spread - logvar + inside - 1).flatten(1).sum(1)


def _moments(moments: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    moments = moments.float()
    return moments[:, 0], moments[:, 1], moments[:, 2:].tril(-1) if moments.shape[1] > 2 else None
