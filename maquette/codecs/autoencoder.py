"""Trainable codecs: an encoder, a bottleneck, a decoder that ends in a likelihood. Know neither prior nor sampler.

Every one of them has `squeeze(x, rng, prior) -> (z, penalty[B])`, `nats(x, z) -> [B]` and `draw(z, rng) -> x`, so that one
objective trains them and one sampler decodes them, whatever the bottleneck is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maquette.contracts import Code, Codec, Network
from maquette.nn.densities import Likelihood, normal_kl
from maquette.streams import Streams


class KLCodec(Codec):
    """Images float[B,C,H,W] in -1..1 <-> Gaussian latents float[B,D,*S] (Kingma & Welling 2014).

    Args:
        encoder: image [B,C,H,W] -> posterior means and log-variances [B, 2 D, *S].
        decoder: latent [B,D,*S] -> the likelihood's parameters [B,P,H,W].
        likelihood: reads them: nats, draws and means of images.
    """

    def __init__(self, encoder: Network, decoder: Network, likelihood: Likelihood):
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), [B,D,*S] each, in float32."""
        mean, logvar = self.encoder(x).float().chunk(2, 1)
        return mean, logvar.clamp(-12, 8)  # beyond them e^logvar means nothing in float32, and gradients explode

    def encode(self, data: Tensor) -> Code:
        return self.posterior(data)[0]

    def decode(self, code: Code) -> Tensor:
        return self.likelihood.mean(self.decoder(code))

    def squeeze(self, x: Tensor, rng: Streams, prior: Tensor | None = None) -> tuple[Code, Tensor]:
        """A reparameterised draw z ~ q(z | x) [B,D,*S] and KL(q || prior) in nats [B], in closed form.

        Args:
            prior: moments (nn/densities.py); None = standard normal.
        """
        mean, logvar = self.posterior(x)
        z = mean + (0.5 * logvar).exp() * rng.normal(*mean.shape[1:])
        moments = prior if prior is not None else mean.new_zeros(len(mean), 2, *mean.shape[1:])
        return z, normal_kl(mean, logvar, moments)

    def nats(self, x: Tensor, z: Code) -> Tensor:
        """-log p(x | z) [B]: the distortion."""
        return self.likelihood.nats(x, self.decoder(z))

    def draw(self, z: Code, rng: Streams) -> Tensor:
        """x ~ p(x | z), [B,C,H,W] in -1..1."""
        return self.likelihood.draw(self.decoder(z), rng)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the two networks: nobody calls the codec itself."""
        self.encoder.compile(*args, **kwargs)
        self.decoder.compile(*args, **kwargs)
