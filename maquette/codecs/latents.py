"""Published image autoencoders as codecs: diffusers' AutoencoderKL and VQModel, under their tensor names.

Know the scale at which a diffusion model sees what stands for an image; neither that model nor where weights come from.
"""

from __future__ import annotations

from torch import Tensor, nn

from maquette.codecs.autoencoder import Autoencoder, KLCodec
from maquette.contracts import Code
from maquette.networks.autoencoder2d import LatentDecoder, LatentEncoder, LatentPlan
from maquette.nn.densities import Absolute, Likelihood
from maquette.nn.quantize import LearnedQuantizer
from maquette.streams import Streams


class Latents(Autoencoder):
    """What both have: convolutions between networks and bottleneck, and a scale for what a diffusion model sees.

    Args:
        plan: the shape of both networks.
        outside, inside: channels that the bottleneck reads, and of what it passes on.
        read: channels that the encoder gives.
        likelihood: of training; its parameters are images.
    """

    def __init__(self, plan: LatentPlan, read: int, outside: int, inside: int, likelihood: Likelihood):
        super().__init__(LatentEncoder(plan, read), LatentDecoder(plan), likelihood)
        self.plan = plan
        self.quant_conv = nn.Conv2d(read, outside, 1) if plan.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(inside, plan.latent_channels, 1) if plan.use_post_quant_conv else None

    def features(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return h if self.quant_conv is None else self.quant_conv(h)

    def rebuilt(self, z: Tensor) -> Tensor:
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z.to(self.post_quant_conv.weight.dtype)))

    def shown(self, z: Tensor) -> Code:
        """A latent as a diffusion model sees it: shifted and scaled."""
        return (z - (self.plan.shift_factor or 0.0)) * self.plan.scaling_factor

    def latent(self, code: Code) -> Tensor:
        """The inverse of `shown`."""
        return code / self.plan.scaling_factor + (self.plan.shift_factor or 0.0)


class KLLatents(Latents, KLCodec):
    """Images float[B,C,H,W] in -1..1 <-> posterior means float[B,D,h,w], shifted and scaled (Rombach 2022, app. G).

    Training and its prior (`posterior`, `squeeze`, `nats`) are of latents as they are; codes alone are scaled.
    """

    bounds = (-30.0, 20.0)

    def __init__(self, plan: LatentPlan, likelihood: Likelihood | None = None):
        if plan.num_vq_embeddings is not None:
            raise ValueError(f"num_vq_embeddings is {plan.num_vq_embeddings}: this plan is a VQModel's, for VQLatents")
        both = 2 * plan.latent_channels
        super().__init__(plan, both, both, plan.latent_channels, likelihood or Absolute())

    def encode(self, data: Tensor) -> Code:
        return self.shown(self.posterior(data)[0])

    def decode(self, code: Code) -> Tensor:
        return self.mean(self.latent(code))


class VQLatents(Latents):
    """Images float[B,C,H,W] in -1..1 <-> vectors float[B,D,h,w] before they are quantised, scaled; decoding quantises them.

    That is how latent diffusion models with a VQ autoencoder see images (Rombach 2022, sec. 3.1: the decoder absorbs it).
    """

    def __init__(self, plan: LatentPlan, likelihood: Likelihood | None = None):
        if plan.num_vq_embeddings is None:
            raise ValueError("num_vq_embeddings is None: this plan is an AutoencoderKL's, for KLLatents")
        width = plan.vq_embed_dim or plan.latent_channels
        super().__init__(plan, plan.latent_channels, width, width, likelihood or Absolute())
        self.quantize = LearnedQuantizer(width, plan.num_vq_embeddings)

    def encode(self, data: Tensor) -> Code:
        return self.shown(self.features(data))

    def decode(self, code: Code) -> Tensor:
        return self.mean(self._quantised(self.latent(code))[0])

    def symbols(self, x: Tensor) -> Tensor:
        """The points that stand for x [B,C,H,W]: int64[B,h,w]."""
        return self._quantised(self.features(x))[1]

    def points(self, symbols: Tensor) -> Tensor:
        """int64[B,h,w] -> the points that they stand for, [B,D,h,w]."""
        return self.quantize.embed(symbols[..., None]).permute(0, 3, 1, 2)

    def squeeze(self, x: Tensor, rng: Streams, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The quantised latent [B,D,h,w], a gradient straight through it, and the quantiser's errors [B]."""
        z, _, error = self._quantised(self.features(x))
        return z, error

    def rate(self, x: Tensor) -> Tensor:
        """All symbols equally likely: the same for every image of a size."""
        return x.new_full((len(x),), self.symbols(x)[0].numel() * self.quantize.nats)

    def _quantised(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B,D,h,w] -> its nearest points, symbols int64[B,h,w], errors [B]."""
        near, code, error = self.quantize(z.flatten(2).mT)
        return near.mT.unflatten(2, z.shape[2:]), code[..., 0].unflatten(1, z.shape[2:]), error


class VQSymbols(VQLatents):
    """Images float[B,C,H,W] in -1..1 <-> symbols int64[B,T] in raster order, as a transformer sees them (Esser 2021).

    Args:
        grid: (h, w), the places of an image.
    """

    grid: tuple[int, int]

    def __init__(self, plan: LatentPlan, grid: tuple[int, int], likelihood: Likelihood | None = None):
        super().__init__(plan, likelihood)
        self.grid, self.bos, self.length = grid, self.quantize.symbols, grid[0] * grid[1]

    def encode(self, data: Tensor) -> Code:
        found = self.symbols(data)
        if tuple(found.shape[1:]) != tuple(self.grid):
            raise ValueError(f"images of {tuple(data.shape[2:])} pixels are {tuple(found.shape[1:])} symbols, not {self.grid}")
        return found.flatten(1)

    def decode(self, code: Code) -> Tensor:
        return self.mean(self.points(code.clamp(0, self.bos - 1).unflatten(1, self.grid)))
