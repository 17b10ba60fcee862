"""Codecs of images, trained for their own sake and for a next stage: one recipe per published system."""

from __future__ import annotations

import copy
from functools import partial

from maquette.codecs.autoencoder import LatentCodec, SymbolCodec
from maquette.codecs.chain import Chain
from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.contracts import Codec, Conditioner, Network
from maquette.data import Data, Facts, open_data
from maquette.data.cached import cached
from maquette.data.core import check_alike
from maquette.experiment import Experiment, Fit
from maquette.networks.patch_discriminator import PatchClassifier, PatchDiscriminator
from maquette.networks.presets import PLAIN_QK
from maquette.networks.resnet_grid import GridDecoder, GridEncoder, grid_of
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention
from maquette.nn.densities import Absolute, Categorical, Likelihood, LogisticMixture
from maquette.nn.positions import Learned
from maquette.nn.quantize import FiniteScalarQuantizer, Quantizer, ResidualQuantizer, VectorQuantizer
from maquette.objectives.coding import Coding, Sharpened
from maquette.objectives.likelihood import NextCode
from maquette.objectives.together import Together
from maquette.runs import trained
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.rebuild import Rebuild
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
VQ_VAE = {"PSNR": (24.5, 30.0), "codebook perplexity": (128.0, 256.0), "rFD-mlp128-64": (0.0, 0.2)}
RVQ = {"PSNR": (26.0, 34.0), "codebook perplexity": (12.0, 16.0), "rFD-mlp128-64": (0.0, 0.15)}
FSQ = {"PSNR": (24.5, 30.0), "codebook perplexity": (120.0, 240.0), "rFD-mlp128-64": (0.0, 0.2)}
KL_CODEC = {"PSNR": (25.0, 34.0), "rFD-mlp128-64": (0.0, 0.2)}
VQGAN = {"PSNR": (22.5, 30.0), "codebook perplexity": (128.0, 256.0), "rFD-mlp128-64": (0.0, 0.3)}
BOTH = {"FD-mlp128-64": (0.4, 3.0)}
FIT = Fit(steps=2000, batch=16, lr=2e-3, weight_decay=0.1, muon=0.02, bf16=True)


def vq_vae(
    data: str = "digits", size: int = 0, depth: int = 1, patch: int = 0, symbols: int = 256, latent: int = 16
) -> Experiment:
    """VQ-VAE: images as a grid of symbols from one learned codebook (van den Oord 2017, arXiv:1711.00937).

    The codebook is a moving average of what chooses it; points that nothing chooses are put on vectors of the batch. A codec
    alone has no prior: it rebuilds. `vq_prior` draws its codes.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        patch: pixels to a side that a symbol stands for, a power of two; 0 leaves at most 8 symbols a side.
        symbols: size of the codebook.
        latent: numbers in a vector of the codebook.
    """
    opened = _images("vq_vae", data, size)
    codec = symbols_of(opened.facts, symbols, latent, depth=depth, patch=patch)
    return Experiment(System({}, Coding(), Rebuild(), codec), opened, FIT, VQ_VAE)


def rvq(
    data: str = "digits", size: int = 0, depth: int = 1, patch: int = 0, books: int = 4, symbols: int = 16, latent: int = 16
) -> Experiment:
    """Residual vector quantisation: each codebook codes what those before it left over (Zeghidour 2021, arXiv:2107.03312).

    SoundStream's quantiser, here for images. Four books of 16 spend the bits of two symbols of 256 per place.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        patch: pixels to a side that a place stands for, a power of two; 0 leaves at most 8 places a side.
        books: codebooks in a row, each adding a symbol per place.
        symbols: size of each codebook.
        latent: numbers in a vector of the codebooks.
    """
    opened = _images("rvq", data, size)
    codec = _symbols(opened.facts, ResidualQuantizer(latent, symbols, books), _density(opened.facts), depth, patch)
    return Experiment(System({}, Coding(), Rebuild(), codec), opened, FIT, RVQ)


def fsq(data: str = "digits", size: int = 0, depth: int = 1, patch: int = 0, levels: str = "8,6,5") -> Experiment:
    """Finite scalar quantisation: a few channels, each rounded to a few levels, no codebook (Mentzer 2023, arXiv:2309.15505).

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        patch: pixels to a side that a symbol stands for, a power of two; 0 leaves at most 8 symbols a side.
        levels: values that each channel takes, with commas between; their product is the number of symbols.
    """
    opened = _images("fsq", data, size)
    codec = symbols_of(opened.facts, levels=levels, depth=depth, patch=patch)
    return Experiment(System({}, Coding(0.0), Rebuild(), codec), opened, FIT, FSQ)


def kl_codec(
    data: str = "digits",
    size: int = 0,
    depth: int = 1,
    patch: int = 0,
    latent: int = 4,
    kl: float = 1e-4,
    features: float = 1.0,
    adversary: float = 0.2,
    delay: int = 60,
) -> Experiment:
    """KL-regularised codec for latent diffusion: a grid of Gaussian latents, sharpened (Rombach 2022, arXiv:2112.10752).

    Likelihood of the grey levels, features of a small classifier trained here on the data's labels (the discriminator's where
    there are none), and a discriminator of patches. Bound only loosely to its prior: it rebuilds and draws no samples.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        patch: pixels to a side that a latent vector stands for, a power of two; 0 leaves at most 8 a side.
        latent: numbers in a latent vector.
        kl: weight of the divergence from a standard normal.
        features: weight of the unlikeness in the classifier's features.
        adversary: weight of the adversarial loss, after balancing.
        delay: steps before the discriminator joins in.
    """
    opened = _images("kl_codec", data, size)
    codec, _ = latents_of(opened.facts, latent, depth, patch)
    system = System(critics_of(opened.facts, depth), Sharpened(kl, features, adversary, delay), Rebuild(), codec)
    return Experiment(system, opened, FIT, KL_CODEC)


def vqgan(
    data: str = "digits",
    size: int = 0,
    depth: int = 1,
    patch: int = 0,
    symbols: int = 256,
    latent: int = 16,
    books: int = 1,
    levels: str = "",
    features: float = 1.0,
    adversary: float = 0.2,
    delay: int = 60,
) -> Experiment:
    """VQGAN: a VQ-VAE whose images also look right and fool a discriminator of patches (Esser 2021, arXiv:2012.09841).

    Likelihood of the grey levels, features of a small classifier trained here on the data's labels (the discriminator's where
    there are none), and the hinge loss of a patch discriminator, balanced by the gradients at the decoder's last layer.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: residual blocks per resolution; channels grow with it.
        patch: pixels to a side that a symbol stands for, a power of two; 0 leaves at most 8 symbols a side.
        symbols: size of the codebook.
        latent: numbers in a vector of the codebook.
        books: codebooks in a row, each adding a symbol per place.
        levels: a fixed grid in place of the codebook, as in fsq: values that each channel takes, with commas between; "" = none.
        features: weight of the unlikeness in the classifier's features.
        adversary: weight of the adversarial loss, after balancing.
        delay: steps before the discriminator joins in.
    """
    opened = _images("vqgan", data, size)
    codec = symbols_of(opened.facts, symbols, latent, books, levels or None, depth, patch)
    system = System(critics_of(opened.facts, depth), Sharpened(0.25, features, adversary, delay), Rebuild(), codec)
    return Experiment(system, opened, FIT, VQGAN)


def vq_prior(
    codec: str = "", data: str = "digits", size: int = 0, depth: int = 3, dropout: float = 0.1, drop: float = 0.1
) -> Experiment:
    """Transformer over a codec's symbols, told the label where there is one: VQ-VAE's and VQGAN's second stage (Esser 2021).

    Every row is encoded once, by the codec as it was trained; this run's checkpoints hold it too, and it never changes here.

    Args:
        codec: a run of vq_vae, rvq, fsq or vqgan; without one, vq_vae's codec is trained alongside, in this run.
        data: a built-in image set, or a folder of images; of the shape that the codec was trained on.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: transformer blocks; channels grow with it.
        dropout: share of what each layer adds that is dropped in training; less suits more data.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
    """
    opened = _images("vq_prior", data, size)
    if codec:
        return _prior(opened, coder_from(codec, opened.facts), depth, dropout, drop)
    coder = symbols_of(opened.facts, 256, 16)
    return _prior(opened, coder, depth, dropout, drop, first=Coding())


def vqgan_prior(
    data: str = "digits",
    size: int = 0,
    depth: int = 3,
    symbols: int = 256,
    features: float = 1.0,
    adversary: float = 0.2,
    delay: int = 60,
    dropout: float = 0.1,
    drop: float = 0.1,
) -> Experiment:
    """VQGAN whole: its codec and a transformer over its symbols, both stages in one run (Esser 2021, arXiv:2012.09841).

    The paper trains one after the other, as `vqgan` and then `vq_prior --codec RUN` do; here the transformer follows a codec
    that still moves, and each is trained by phases of its own.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: transformer blocks; channels grow with it.
        symbols: size of the codebook.
        features: weight of the unlikeness in the classifier's features.
        adversary: weight of the adversarial loss, after balancing.
        delay: steps before the discriminator joins in.
        dropout: share of what each transformer layer adds that is dropped in training; less suits more data.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
    """
    opened = _images("vqgan_prior", data, size)
    coder = symbols_of(opened.facts, symbols, 16)
    first = Sharpened(0.25, features, adversary, delay)
    return _prior(opened, coder, depth, dropout, drop, first=first, critics=critics_of(opened.facts, 1))


def _prior(
    opened: Data,
    coder: Codec,
    depth: int,
    dropout: float,
    drop: float,
    first: Coding | None = None,
    critics: dict[str, Network] | None = None,
) -> Experiment:
    """A transformer over a codec's symbols. `first`: how the codec learns in the same run, with which critics; None = not."""
    if not 1 <= depth <= 96:
        raise ValueError(f"depth is {depth}; it must be 1 .. 96")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in 0 .. 1 (without 1)")
    conditioner = Labels(opened.facts.shares) if opened.facts.classes else None
    net = Transformer(
        coder.bos + 1,
        32 * (depth + 1),
        depth,
        depth + 1,
        out=coder.bos,
        told=conditioner.width if conditioner else 0,
        dropout=dropout,
        style=Style(attention=partial(Attention, norm=PLAIN_QK), positions=partial(Learned, count=coder.length)),
    )
    prior = NextCode(coder.bos, drop)
    system, rows = second_stage(opened, coder, net, prior, Autoregressive(), conditioner, first, critics)
    if first:  # the codec wants many steps, and sets their rate
        return Experiment(system, rows, FIT, BOTH)
    batch = max(8, 1024 // coder.length)
    return Experiment(system, rows, Fit(steps=1500, batch=batch, lr=3e-3, weight_decay=0.01, muon=0.02, bf16=True))


def second_stage(
    opened: Data,
    coder: Codec,
    net: Network,
    prior: NextCode,
    sampler: Autoregressive,
    conditioner: Conditioner | None,
    first: Coding | None = None,
    critics: dict[str, Network] | None = None,
    decay: float = 0.999,
) -> tuple[System, Data]:
    """A network over a codec's symbols, and the rows that it learns from: each with its symbols, where the codec stays as it is.

    Args:
        first: how the codec learns in the same run, with which critics; None = it does not.
        decay: of the average that is sampled from.
    """
    system = System(
        {"main": net, "ema": copy.deepcopy(net), **(critics or {})},
        Together(first, prior) if first else prior,
        sampler,
        coder,
        conditioner,
        frozen=() if first else ("codec",),
        follow={"ema": ("main", decay)},
    )
    return system, opened if first else cached(opened, coder.field, lambda data: coder.encode(data.to(system.device)))


def coder_from(path: str, facts: Facts) -> Codec:
    """The codec of a trained run, with its weights.

    Raises:
        RunError: there is no such run.
        ValueError: its codec makes no symbols, or was trained on images of another shape or number of levels.
    """
    found, experiment = trained(path)
    codec, was = experiment.system.codec, experiment.data.facts
    if not (codec.lossy and codec.length):
        raise ValueError(
            f"{path} is a run of {found.record['recipe']}, which has no codec of symbols; vq_vae, rvq, fsq and vqgan have one"
        )
    check_alike(f"the codec of {path} was trained on", was, facts)
    return codec


# -- parts -----------------------------------------------------------------------------------------------------------------


def _images(recipe: str, data: str, size: int) -> Data:
    opened = open_data(data, size)
    if opened.facts.field != "image":
        raise ValueError(f"{recipe} codes images, and data {data!r} holds {opened.facts.field}")
    return opened


def _density(facts: Facts) -> Likelihood:
    """Few grey levels: a softmax over them. More: in grey three logistics, in colour absolute errors (docs/LOG.md)."""
    if facts.levels <= 32:
        return Categorical(facts.levels)
    return LogisticMixture(facts.levels, parts=3) if facts.shape[0] == 1 else Absolute(0.05, facts.levels)


def _networks(
    facts: Facts, outputs: int, inputs: int, likelihood: Likelihood, depth: int, patch: int
) -> tuple[Network, Network, tuple[int, int]]:
    """The encoder, the decoder, and the grid between them."""
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    channels, height, across = facts.shape
    patch = patch or max(2, 1 << (-(-max(height, across) // 8) - 1).bit_length())
    return (
        GridEncoder(facts.shape, outputs, 32 * depth, patch, depth),
        GridDecoder(inputs, (likelihood.width(channels), height, across), 32 * depth, patch, depth),
        grid_of(facts.shape, patch),
    )


def latents_of(facts: Facts, latent: int, depth: int, patch: int) -> tuple[Chain, tuple[int, int, int]]:
    """An untrained codec of latents, and their shape."""
    if latent < 1:
        raise ValueError(f"latent is {latent}; it must be 1 or more")
    density = _density(facts)
    encoder, decoder, grid = _networks(facts, 2 * latent, latent, density, depth, patch)
    shape = (latent, *grid)
    return Chain(Pixels(facts.levels), LatentCodec(encoder, decoder, density, shape)), shape


def symbols_of(
    facts: Facts, symbols: int = 256, latent: int = 16, books: int = 1, levels: str | None = None, depth: int = 1, patch: int = 0
) -> Chain:
    """An untrained codec of symbols: of one learned codebook, of several in a row, or of a fixed grid of `levels`.

    Raises:
        ValueError: fewer than one number in a vector, no codebooks, or levels that are no whole numbers.
    """
    if latent < 1:
        raise ValueError(f"latent is {latent}; it must be 1 or more")
    if levels is not None and not all(part.strip().isdigit() for part in levels.split(",")):
        raise ValueError(f"levels are {levels!r}; they are whole numbers with commas between, for example 8,6,5")
    quantizer: Quantizer
    if levels is not None:
        quantizer = FiniteScalarQuantizer(tuple(int(part) for part in levels.split(",")))
    else:
        quantizer = VectorQuantizer(latent, symbols) if books == 1 else ResidualQuantizer(latent, symbols, books)
    return _symbols(facts, quantizer, _density(facts), depth, patch)


def _symbols(facts: Facts, quantizer: Quantizer, likelihood: Likelihood, depth: int = 1, patch: int = 0) -> Chain:
    encoder, decoder, grid = _networks(facts, quantizer.width, quantizer.width, likelihood, depth, patch)
    return Chain(Pixels(facts.levels), SymbolCodec(encoder, quantizer, decoder, likelihood, grid))


def critics_of(facts: Facts, depth: int) -> dict[str, Network]:
    """The discriminator, and the judge where there are labels to learn from."""
    critics: dict[str, Network] = {"discriminator": PatchDiscriminator(facts.shape[0], 32 * depth)}
    if len(facts.classes) > 1:
        critics["judge"] = PatchClassifier(facts.shape[0], len(facts.classes), 32 * depth)
    return critics
