"""StyleGAN2's three networks (Karras 2020, arXiv:1912.04958): noise to style, styles to image, image to logit. Know no loss."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.contracts import Condition, Network
from maquette.nn.equalized import GAIN, Conv, Linear
from maquette.nn.ranks import summed
from maquette.nn.resample import Enlarge, Fir

Shape = tuple[int, int, int]


def rungs(shape: Shape, width: int) -> list[Shape]:
    """(channels, height, width) per resolution of images [C,H,W], the lowest first.

    Halved while both sides are even and 8 or more; `width` channels at the two lowest, half as many at each above, at least 8.

    Raises:
        ValueError: sides so odd that the lowest resolution has more than 256 places.
    """
    height, across = shape[1:]
    sizes = [(height, across)]
    while min(height, across) >= 8 and height % 2 == across % 2 == 0:
        height, across = height // 2, across // 2
        sizes.append((height, across))
    if height * across > 256:
        near = max(8, round(min(shape[1:]) / 8) * 8)
        raise ValueError(f"images of {shape[1]} x {shape[2]} pixels cannot be halved often enough; try --size {near}")
    return [(max(8, width >> max(0, i - 1)), *size) for i, size in enumerate(reversed(sizes))]


class Mapping(Network):
    """Noise [B,latent] and what it is told -> style w [B,width] (Karras 2019, sec. 2; the label as in Karras 2020b).

    Keeps the mean style of each entry of the condition vector, towards which truncation pulls: the mean over all classes
    is a picture of none (Sauer 2022, StyleGAN-XL, truncates so too).

    Args:
        told: width of the condition vector; 0 = unconditional.
        depth: layers.
        rate: multiplier of the learning rate.
    """

    centres: Tensor

    def __init__(self, latent: int, width: int, told: int = 0, depth: int = 4, rate: float = 0.1):
        super().__init__()
        self.latent, self.told = latent, told
        self.embed = Linear(told, latent, rate=rate) if told else None
        inputs = [latent * (2 if told else 1), *[width] * (depth - 1)]
        self.layers = nn.ModuleList(Linear(n, width, gain=GAIN, rate=rate) for n in inputs)
        self.register_buffer("centres", torch.zeros(max(1, told), width))

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        h = _normal(x)
        if self.embed is not None:
            h = torch.cat([h, _normal(self.embed(self._vector(cond, len(x))))], 1)
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.2)
        return h

    def centre(self, cond: Condition | None, rows: int) -> Tensor:
        """The mean style of each row's condition: [rows, width]. Rows that are told nothing have the mean of all."""
        vector = self._vector(cond, rows)
        share = vector.sum(1, keepdim=True)
        vector = torch.where(share > 0, vector / share.clamp_min(1e-6), 1 / vector.shape[1])
        return vector @ self.centres

    @torch.no_grad()
    def remember(self, w: Tensor, cond: Condition | None, weight: float = 0.02) -> None:
        """Move the mean styles towards these [B,width], over all ranks, by `weight` where a class is present."""
        vector = self._vector(cond, len(w))
        (seen,) = summed(torch.cat([vector.T @ w.float(), vector.sum(0)[:, None]], 1))
        count = seen[:, -1:]
        self.centres.lerp_(torch.where(count > 0, seen[:, :-1] / count.clamp_min(1e-6), self.centres), weight)

    def _vector(self, cond: Condition | None, rows: int) -> Tensor:
        if not self.told:
            return self.centres.new_ones(rows, 1)
        if cond is None or cond.vector is None:
            raise ValueError("this network must be told a condition vector, and was told nothing")
        return cond.vector


def _normal(x: Tensor) -> Tensor:
    """Rows of unit mean square."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def modulated(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: bool = False) -> Tensor:
    """Convolve row b of x with `weight` whose inputs are scaled by style b, each output to unit variance (eq. 1-3).

    x [B,I,H,W], weight [O,I,k,k], style [B,I] -> [B,O,H,W], or [B,O,2H+1,2W+1] with `up`. Scaling the activations instead of
    a weight per row is the same map, and one convolution.
    """
    x = x * style[:, :, None, None].to(x.dtype)
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2) if up else F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return x
    with torch.autocast(x.device.type, enabled=False):
        power = style.float().square() @ weight.float().square().sum((2, 3)).T  # [B,O]
        scale = torch.rsqrt(power + 1e-8)
    return x * scale[:, :, None, None].to(x.dtype)


class _Layer(nn.Module):
    """A modulated convolution, noise per pixel with a learnt gain, a bias, a leaky ReLU; twice the size with `up`."""

    def __init__(self, inputs: int, outputs: int, styles: int, up: bool = False):
        super().__init__()
        self.style = Linear(styles, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.blur = Fir(1, gain=4.0) if up else None

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        x = modulated(x, self.weight, self.style(w), up=self.blur is not None)
        if self.blur is not None:
            x = self.blur(x)
        if noise is not None:
            x = x + (self.noise * noise).to(x.dtype)
        x = x + self.bias.to(x.dtype)[:, None, None]
        return F.leaky_relu(x, 0.2) * GAIN


class _ToImage(nn.Module):
    """A modulated 1x1 convolution without demodulation: what a resolution adds to the image (sec. 4.1, fig. 7b)."""

    def __init__(self, inputs: int, channels: int, styles: int):
        super().__init__()
        self.style = Linear(styles, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 0.25 / math.sqrt(inputs)  # tanh follows: what begins flat comes unstuck slowly

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated(x, self.weight * self.scale, self.style(w), demodulate=False) + self.bias[:, None, None]


class Synthesis(Network):
    """Styles [B,width], or one per layer [B,styles,width], -> images [B,C,H,W] in -1..1.

    A learnt constant at the lowest resolution; each resolution adds its image to the enlarged one of those below. Noise is
    given, one number per place and layer: [B,places]; None is none. Ends in tanh, which the paper does without: flat black is
    then reached without a haze.

    Args:
        shape: (C, H, W) of the images.
        styles_width: width of a style.
        width: channels at the lowest resolutions.
    """

    def __init__(self, shape: Shape, styles_width: int, width: int = 64):
        super().__init__()
        found = rungs(shape, width)
        self.constant = nn.Parameter(torch.randn(found[0]))
        self.sizes = [found[0][1:], *[rung[1:] for rung in found[1:] for _ in range(2)]]  # of each layer
        layers, below = [_Layer(found[0][0], found[0][0], styles_width)], found[0][0]
        for channels, _, _ in found[1:]:
            layers += [_Layer(below, channels, styles_width, up=True), _Layer(channels, channels, styles_width)]
            below = channels
        self.layers = nn.ModuleList(layers)
        self.images = nn.ModuleList(_ToImage(rung[0], shape[0], styles_width) for rung in found)
        self.enlarge = Enlarge()

    @property
    def styles(self) -> int:
        """Styles of an image: one per layer, and one for the last that makes it visible."""
        return len(self.layers) + 1

    @property
    def places(self) -> int:
        """Numbers of noise of an image."""
        return sum(height * across for height, across in self.sizes)

    def forward(
        self,
        x: Tensor,
        *,
        t: Tensor | None = None,
        cond: Condition | None = None,
        state: None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        w = x[:, None].expand(-1, self.styles, -1) if x.dim() == 2 else x
        if w.shape[1] != self.styles:
            raise ValueError(
                f"{w.shape[1]} styles were given for {self.styles}: one per layer and one for the image, or one for all"
            )
        grains = self._grains(noise)
        h = self.constant.expand(len(w), -1, -1, -1)
        image: Tensor | None = None
        for i, layer in enumerate(self.layers):
            h = layer(h, w[:, i], grains[i])
            if i % 2 == 0:  # the last layer of its resolution; its image shares the next layer's style
                added = self.images[i // 2](h, w[:, i + 1])
                image = added if image is None else self.enlarge(image) + added
        assert image is not None
        return image.float().tanh()

    def scales(self) -> list[Tensor]:
        """Each layer's weights from style to the scales of its inputs: [I,styles_width], the lowest layer first."""
        layers: Any = self.layers
        return [layer.style.weight for layer in layers]

    def _grains(self, noise: Tensor | None) -> list[Tensor | None]:
        """Noise [B,places] as [B,1,H,W] per layer."""
        if noise is None:
            return [None] * len(self.layers)
        parts = noise.split([height * across for height, across in self.sizes], 1)
        return [part.unflatten(1, (1, *size)) for part, size in zip(parts, self.sizes, strict=True)]


def spread(x: Tensor, group: int = 4) -> Tensor:
    """Minibatch standard deviation (Karras 2018, sec. 3): a channel that says how unlike the rows of a group are.

    [B,C,H,W] -> [B,1,H,W]. Groups of the largest size up to `group` that divides the batch; 0 for a single row.
    """
    rows = len(x)
    size = next(n for n in range(min(group, rows), 0, -1) if rows % n == 0)
    y = x.float().unflatten(0, (size, rows // size))
    deviation = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # [rows / size]
    return deviation.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)


class _Residual(nn.Module):
    """Half the size: two convolutions beside a skip, both through the low-pass filter, their sum at unit variance."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = Conv(inputs, inputs, gain=GAIN)
        self.blur, self.second = Fir(2), Conv(inputs, outputs, gain=GAIN, stride=2, padding=0)
        self.shrink, self.skip = Fir(1, stride=2), Conv(inputs, outputs, side=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2)
        h = F.leaky_relu(self.second(self.blur(h)), 0.2)
        return (h + self.skip(self.shrink(x))) * math.sqrt(0.5)


class Critic(Network):
    """Images [B,C,H,W] and what they were told -> one logit each, [B]: high is real. Residual.

    Told something, it has no opinion but on that: the logit is a projection of the condition alone (Karras 2020b). With a term
    beside it for all conditions, half a thousand steps on font digits gave clean strokes and no label.

    Args:
        shape: (C, H, W) of the images.
        width: channels at the lowest resolutions.
        told: width of the condition vector; 0 = unconditional.
    """

    def __init__(self, shape: Shape, width: int = 64, told: int = 0):
        super().__init__()
        found = rungs(shape, width)
        self.stem = Conv(shape[0], found[-1][0], side=1, gain=GAIN)
        self.blocks = nn.ModuleList(_Residual(a[0], b[0]) for a, b in zip(found[:0:-1], found[-2::-1], strict=True))
        channels, height, across = found[0]
        self.last = Conv(channels + 1, channels, gain=GAIN)
        self.features = Linear(channels * height * across, channels, gain=GAIN)
        self.head = Linear(channels, channels if told else 1)
        self.embed = Linear(told, channels) if told else None

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: None = None) -> Tensor:
        h = F.leaky_relu(self.stem(x), 0.2)
        for block in self.blocks:
            h = block(h)
        h = F.leaky_relu(self.last(torch.cat([h, spread(h)], 1)), 0.2)
        h = F.leaky_relu(self.features(h.flatten(1)), 0.2)
        h = self.head(h).float()
        if self.embed is None:
            return h[:, 0]
        if cond is None or cond.vector is None:
            raise ValueError("this network must be told a condition vector, and was told nothing")
        return (_normal(self.embed(cond.vector).float()) * h).sum(1) / math.sqrt(h.shape[1])

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Stays eager: gradient penalties differentiate twice, which compiled graphs do not support."""
