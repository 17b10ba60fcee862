"""Trainable codecs: an encoder, a bottleneck, a decoder that ends in a likelihood. Know neither prior nor sampler.

Every one of them has `squeeze(x, rng, prior) -> (z, penalty[B])`, `nats(x, z) -> [B]`, `mean(z) -> x`, `draw(z, rng) -> x` and
`rate(x) -> nats[B]`, so that one objective trains them and one sampler decodes them, whatever the bottleneck is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Code, Codec, Network
from maquette.nn.densities import Likelihood, normal_kl
from maquette.nn.quantize import Quantizer
from maquette.nn.ranks import summed
from maquette.streams import Streams


class Autoencoder(Codec):
    """Images float[B,C,H,W] in -1..1 <-> codes; what all bottlenecks share.

    Args:
        encoder: image [B,C,H,W] -> what the bottleneck reads.
        decoder: latent z [B,D,*S] -> the likelihood's parameters [B,P,H,W].
        likelihood: reads them: nats, draws and means of images.
    """

    lossy = True

    def __init__(self, encoder: Network, decoder: Network, likelihood: Likelihood):
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def squeeze(self, x: Tensor, rng: Streams, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The latent z [B,D,*S] to decode in training, and what the bottleneck charges for it [B]."""
        raise NotImplementedError

    def rate(self, x: Tensor) -> Tensor:
        """What the codes of x cost to send under the bottleneck's own, unlearned prior, in nats [B]."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """What the bottleneck reads of x [B,C,H,W]."""
        return self.encoder(x)

    def rebuilt(self, z: Tensor) -> Tensor:
        """The likelihood's parameters [B,P,H,W] of z [B,D,*S]."""
        return self.decoder(z)

    def nats(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x | z) [B]: the distortion."""
        return self.likelihood.nats(x, self.rebuilt(z))

    def mean(self, z: Tensor) -> Tensor:
        """E[x | z], [B,C,H,W]; not rounded."""
        return self.likelihood.mean(self.rebuilt(z))

    def draw(self, z: Code, rng: Streams) -> Tensor:
        """x ~ p(x | z), [B,C,H,W] in -1..1."""
        return self.likelihood.draw(self.rebuilt(z), rng)

    @property
    def last(self) -> Tensor:
        """The weights of the decoder's last layer, where gradients of several losses are compared."""
        return [p for p in self.decoder.parameters() if p.ndim > 1][-1]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the two networks: nobody calls the codec itself."""
        self.encoder.compile(*args, **kwargs)
        self.decoder.compile(*args, **kwargs)


class KLCodec(Autoencoder):
    """Images float[B,C,H,W] in -1..1 <-> Gaussian latents float[B,D,*S] (Kingma & Welling 2014).

    The encoder gives posterior means and log-variances [B, 2 D, *S].
    """

    bounds = (-12.0, 8.0)  # of log-variances; beyond them e^logvar means nothing in float32, and gradients explode

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), [B,D,*S] each, in float32."""
        mean, logvar = self.features(x).float().chunk(2, 1)
        return mean, logvar.clamp(*self.bounds)

    def encode(self, data: Tensor) -> Code:
        return self.posterior(data)[0]

    def decode(self, code: Code) -> Tensor:
        return self.mean(code)

    def squeeze(self, x: Tensor, rng: Streams, prior: Tensor | None = None) -> tuple[Code, Tensor]:
        """A reparameterised draw z ~ q(z | x) [B,D,*S] and KL(q || prior) in nats [B], in closed form.

        Args:
            prior: moments (nn/densities.py); None = standard normal.
        """
        mean, logvar = self.posterior(x)
        z = mean + (0.5 * logvar).exp() * rng.normal(*mean.shape[1:])
        moments = prior if prior is not None else mean.new_zeros(len(mean), 2, *mean.shape[1:])
        return z, normal_kl(mean, logvar, moments)

    def rate(self, x: Tensor) -> Tensor:
        """KL(q || N(0, 1)) [B]: what bits-back coding would pay (Hinton & van Camp 1993)."""
        mean, logvar = self.posterior(x)
        return normal_kl(mean, logvar, mean.new_zeros(len(mean), 2, *mean.shape[1:]))


class LatentCodec(KLCodec):
    """Images <-> latents that a next stage can model as they are: every channel has mean 0 and variance 1 over the data.

    Moving averages of both move with every training batch that is squeezed (a fixed factor in Rombach 2022, sec. 4.3.2).

    Args:
        shape: (D, h, w) of the latents.
        decay: of the averages.
    """

    first: Tensor
    second: Tensor
    seen: Tensor

    def __init__(
        self, encoder: Network, decoder: Network, likelihood: Likelihood, shape: tuple[int, int, int], decay: float = 0.99
    ):
        super().__init__(encoder, decoder, likelihood)
        self.shape, self.decay = shape, decay
        for name, size in (("first", shape[:1]), ("second", shape[:1]), ("seen", ())):
            self.register_buffer(name, torch.zeros(size))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, [D,1,1]; 0 and 1 before the first batch."""
        share = self.seen.clamp(min=1e-12)
        mean, power = self.first / share, self.second / share
        spread = torch.where(self.seen > 0, (power - mean.square()).clamp(min=1e-8).sqrt(), 1.0)
        return mean[:, None, None], spread[:, None, None]

    def encode(self, data: Tensor) -> Code:
        mean, spread = self.moments()
        return (super().encode(data) - mean) / spread

    def decode(self, code: Code) -> Tensor:
        mean, spread = self.moments()
        return super().decode(code * spread + mean)

    def squeeze(self, x: Tensor, rng: Streams, prior: Tensor | None = None) -> tuple[Code, Tensor]:
        z, charge = super().squeeze(x, rng, prior)
        if self.training:
            with torch.no_grad():
                places = z.new_full((), len(z) * z[0, 0].numel())
                total, squared, places = summed(z.sum((0, 2, 3)), z.square().sum((0, 2, 3)), places)
                for kept, new in ((self.first, total / places), (self.second, squared / places), (self.seen, places / places)):
                    kept.lerp_(new, 1 - self.decay)
        return z, charge


class SymbolCodec(Autoencoder):
    """Images float[B,C,H,W] in -1..1 <-> symbols int64[B,T]: places in raster order, the books of a place side by side.

    The encoder gives vectors [B,D,h,w] for the quantiser. `bos` is one more than the largest symbol (van den Oord 2017).

    Args:
        grid: (h, w), the places.
    """

    grid: tuple[int, int]

    def __init__(self, encoder: Network, quantizer: Quantizer, decoder: Network, likelihood: Likelihood, grid: tuple[int, int]):
        super().__init__(encoder, decoder, likelihood)
        self.quantizer, self.grid, self.books = quantizer, grid, quantizer.books
        self.bos, self.length = quantizer.symbols, grid[0] * grid[1] * quantizer.books

    def encode(self, data: Tensor) -> Code:
        return self.quantizer(self.features(data).flatten(2).mT)[1].flatten(1)

    def decode(self, code: Code) -> Tensor:
        return self.mean(self.latent(code))

    def latent(self, code: Code) -> Tensor:
        """The points that the symbols int64[B,T] stand for: [B,D,h,w]."""
        symbols = code.clamp(0, self.bos - 1).unflatten(1, (-1, self.quantizer.books))
        return self.quantizer.embed(symbols).mT.contiguous().unflatten(2, self.grid)

    def squeeze(self, x: Tensor, rng: Streams, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The quantised latent [B,D,h,w], a gradient straight through it, and the squared errors [B] to commit to (eq. 3)."""
        z, _, error = self.quantizer(self.features(x).flatten(2).mT, rng)
        return z.mT.contiguous().unflatten(2, self.grid), error  # channels first in memory: norms run faster

    def rate(self, x: Tensor) -> Tensor:
        """All symbols equally likely: the same for every image."""
        return x.new_full((len(x),), self.grid[0] * self.grid[1] * self.quantizer.nats)
